"""Queries that are documents of the collection: removes them from their own results, or warns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections.names import squeezed

logger = logging.getLogger(__name__)


def without_identical_ids(results: pd.DataFrame, num_results: int | None = None) -> pd.DataFrame:
    """Return the results without the rows whose docno equals the qid; ranks are closed up.

    BEIR's ``ignore_identical_ids``. The rows keep their order.

    Args:
        results: Columns ``qid`` and ``docno``, and ``rank`` if results are ranked.
        num_results: Results to keep for each query; all when None.
    """
    identical = results["qid"].astype(str) == results["docno"].astype(str)
    if identical.any():
        if "rank" in results:
            gap = results[identical].groupby("qid")["rank"].min()
            results = results.assign(rank=results["rank"] - (results["rank"] > results["qid"].map(gap)))
        results = results[~identical]
    if num_results is not None:
        results = results[results["rank"] < num_results + pt.model.FIRST_RANK]
    return results.reset_index(drop=True)


class TopicWatch:
    """Looks for topics among documents while they are read, and warns once if there are some.

    Equal ids are not enough, because topics and documents may both be numbered from 1: the text must be equal too.

    Args:
        name: The collection, for the message.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._finished = False

    def over(self, documents: Iterator[dict[str, str]], topics: Callable[[], pd.DataFrame]) -> Iterator[dict[str, str]]:
        """Yield the documents; after the first whole pass, warn if some of them are topics.

        Args:
            documents: The documents to yield.
            topics: Returns ``qid`` and ``query``; called after the first document was read.
        """
        queries: dict[str, str] | None = None if not self._finished else {}
        found = []
        for doc in documents:
            if queries is None:
                queries = self._queries(topics)
            if doc["docno"] in queries and _is_text_of(doc, queries[doc["docno"]]):
                found.append(doc["docno"])
            yield doc
        self._finished = True
        if queries and found:
            logger.warning(
                "%s: %d of the %d topics are documents too, with the same id and text (such as %r), and retrieve "
                "themselves. ignore_identical_ids=True leaves a query's own document out of its results, as BEIR and "
                "MTEB do for ArguAna and Quora",
                self.name,
                len(found),
                len(queries),
                found[0],
            )

    def _queries(self, topics: Callable[[], pd.DataFrame]) -> dict[str, str]:
        try:
            frame = topics()
        except RuntimeError:  # topics that cannot be downloaded are not needed to read the documents
            logger.debug("%s: no topics to compare with the documents", self.name, exc_info=True)
            return {}
        return dict(zip(frame["qid"], map(_plain, frame["query"]), strict=True))


def _is_text_of(doc: dict[str, str], query: str) -> bool:
    """ArguAna's queries are the documents' texts without the titles."""
    return _plain(doc["text"]) in (query, _plain(f"{doc.get('title', '')} {query}"))


def _plain(text: str) -> str:
    return squeezed(text).casefold()
