"""Data of contrastive training: queries with relevant texts and hard negatives. Uses pandas, without torch."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.fingerprint import fingerprint_texts
from pyterrier_merge.storage import user_path, write_file
from pyterrier_merge.training.negatives import mine
from pyterrier_merge.training.rotation import grouped, rotated

logger = logging.getLogger(__name__)

FEWEST = 2  # minimum number of queries: the texts of other queries in a batch are the negatives
NAMED = 3  # names listed in an error


def frame_of(rows: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Return a frame of ``qid`` and ``docno``."""
    return pd.DataFrame(list(rows), columns=["qid", "docno"], dtype=object)


@dataclass(frozen=True, eq=False, repr=False)
class TrainingPairs:
    """Queries, each with at least one relevant text.

    Attributes:
        name: Name of the pairs, for reports, such as "train of hpo".
        queries: ``qid`` and ``query``, strings.
        positives: ``qid`` and ``docno``: at least one row per query.
        negatives: ``qid`` and ``docno``, in rank order; a query may have none.
        texts: Docno -> text, of all positives and negatives.
        labels: Qids of the queries with labels that these pairs use; empty if they need no labels (known items).
        documents: Docnos of a collection's documents that are positives.
        relevant: ``qid`` and ``docno`` of all documents known to be relevant, which are never mined as negatives;
            the positives when None.
        origin: Name and fingerprint of the collection that the documents belong to; None if unknown.
        kind: For known items, how their queries were made, such as ``head``; else empty.

    Raises:
        ValueError: There is no query, a query is blank, occurs twice or has no positive, or a docno has no text.
    """

    name: str
    queries: pd.DataFrame
    positives: pd.DataFrame
    negatives: pd.DataFrame
    texts: Mapping[str, str]
    labels: frozenset[str] = frozenset()
    documents: frozenset[str] = frozenset()
    relevant: pd.DataFrame | None = None
    origin: tuple[str, str] | None = None
    kind: str = ""

    def __post_init__(self) -> None:
        qids = self.queries["qid"]
        if qids.empty:
            raise ValueError(f"{self.name}: there are no queries with a relevant text, so nothing can be trained")
        for what, names in (
            ("qids occur twice", qids[qids.duplicated()]),
            ("queries are blank", qids[self.queries["query"].str.strip() == ""]),
            ("queries have no relevant text", qids[~qids.isin(self.positives["qid"])]),
            ("positives have no query", self.positives.loc[~self.positives["qid"].isin(qids), "docno"]),
            ("negatives have no query", self.negatives.loc[~self.negatives["qid"].isin(qids), "docno"]),
            ("positives occur twice", self.positives.loc[self.positives.duplicated(["qid", "docno"]), "docno"]),
            ("docnos have no text", self._docnos[[not self.texts.get(name, "").strip() for name in self._docnos]]),
        ):
            if len(names):
                raise ValueError(f"{self.name}: {len(names)} {what}: {listed(names)}")

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.queries)

    def __repr__(self) -> str:
        costs = f"{len(self.labels)} of them labelled" if self.labels else "no labels"
        return (
            f"<TrainingPairs {self.name!r}: {len(self)} queries ({costs}), {len(self.positives)} positives, "
            f"{len(self.negatives)} negatives>"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of queries, positives, negatives, relevant documents and texts, in their order."""
        return fingerprint_texts(self._content())

    def sample(
        self, *, fraction: float | None = None, number: int | None = None, trial: int = 0, seed: int = 0
    ) -> TrainingPairs:
        """Return a random sample of the queries, in their order, with everything that belongs to them.

        A smaller sample is part of a larger one with the same trial and seed.

        Args:
            fraction: Share of the queries, in (0, 1]; rounded to a number of queries.
            number: Number of queries, instead of ``fraction``.
            trial: Number of the sample; each trial is another sample.
            seed: Random seed; each seed gives another series of trials.

        Raises:
            ValueError: Neither or both are given, or the sample would have fewer than two or too many queries.
        """
        count = self._sample_size(fraction, number)
        keys = {qid: hashlib.sha256(f"{seed}:{trial}:{qid}".encode()).digest() for qid in self.queries["qid"]}
        chosen = self.only(sorted(keys, key=keys.__getitem__)[:count])
        return replace(chosen, name=f"{self.name}, {count} of {len(self)} queries, trial {trial}")

    def only(self, qids: Collection[str]) -> TrainingPairs:
        """Return the pairs of these queries only, in the order that they have here.

        A single query is allowed: it can be held out, but not trained on alone.

        Raises:
            ValueError: A qid is unknown or given twice, or no qid is given.
        """
        if isinstance(qids, str):
            raise ValueError(f"expected a list of qids, found the string {qids!r}")  # noqa: TRY004
        kept = set(qids)
        if unknown := [qid for qid in qids if qid not in set(self.queries["qid"])]:
            raise ValueError(f"{self.name}: {len(unknown)} of {len(qids)} qids are unknown: {listed(unknown)}")
        if len(kept) < len(qids):
            raise ValueError(f"{self.name}: {len(qids) - len(kept)} qids are given twice")

        def cut(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame["qid"].isin(kept)].reset_index(drop=True)

        positives, negatives = cut(self.positives), cut(self.negatives)
        used = dict.fromkeys((*positives["docno"], *negatives["docno"]))
        return replace(
            self,
            queries=cut(self.queries),
            positives=positives,
            negatives=negatives,
            texts={docno: self.texts[docno] for docno in used},
            labels=self.labels & kept,
            documents=self.documents & set(positives["docno"]),
            relevant=None if self.relevant is None else cut(self.relevant),
        )

    def save_qids(self, path: str | Path) -> None:
        """Write the qids, one per line, for :func:`read_qids` and :meth:`only`."""
        if broken := [qid for qid in self.queries["qid"] if len(qid.splitlines()) != 1]:
            raise ValueError(f"{self.name}: a qid with a line break cannot be written to a list: {listed(broken)}")
        write_file(user_path(path), "".join(f"{qid}\n" for qid in self.queries["qid"]))

    def with_negatives(
        self,
        run: pd.DataFrame,
        texts: TestCollection | Mapping[str, str],
        *,
        ranks: tuple[int, int] = (1, 100),
        margin: float | None = None,
        per_query: int = 30,
        seed: int = 0,
        trial: int = 0,
    ) -> TrainingPairs:
        """Return these pairs with hard negatives from a run, which replace existing negatives.

        Documents known to be relevant to a query, and copies of their texts, are never its negatives. The draw of a
        query depends only on the query's own results, seed and trial. A warning counts the queries with fewer
        negatives than ``per_query``.

        Args:
            run: Results for these queries: ``qid``, ``docno``, and ``score`` or ``rank``. Other queries are ignored.
            texts: The collection that was searched, or docno -> text.
            ranks: First and last rank to draw from, counted from 1 over all results.
            margin: Drop candidates that score above ``margin`` times the query's best positive in the run, such as
                .95 (positive-aware mining, "TopK-PercPos" of NV-Retriever, arXiv 2407.15831), because they may be
                relevant. If the run has no positive of a query, all its candidates are dropped.
            per_query: Negatives to draw for each query.
            seed: Random seed of the draw.
            trial: Trial of the draw, as for :meth:`sample`.

        Raises:
            TypeError: The run is not a data frame, or ``texts`` is neither a collection nor a mapping.
            ValueError: The run lacks columns or has none of the queries, a setting is out of range, a margin is given
                but a positive does not score above 0, or no negative has a text.
        """
        relevant = frame_of((qid, docno) for qid, docnos in self._relevant_docnos.items() for docno in docnos)
        mined, found = mine(
            self.name, self.queries["qid"], relevant, run, texts,
            ranks=ranks, margin=margin, per_query=per_query, seed=f"{seed}:{trial}", known=self.texts,
        )  # fmt: skip
        used = {docno: self.texts[docno] for docno in self.positives["docno"]}
        return replace(self, negatives=mined, texts={**used, **found})

    def rows(self, epoch: int, *, negatives: int, seed: int = 0) -> pd.DataFrame:
        """Return the training rows of one epoch: one row per query, in the order of the queries.

        As in Tevatron, row ``i`` takes its positive number ``(i + seed + epoch) % count``, and the next ``negatives``
        of its negatives, which are shuffled once by ``i + seed`` and used in a circle: a query with too few gets some
        of them twice. A query without negatives gets positives of other queries, drawn by seed, row and epoch.
        :meth:`short_of` counts both.

        Returns:
            Columns ``qid``, ``positive``, ``negative_1`` ... ``negative_<negatives>``: all but ``qid`` are docnos.

        Raises:
            ValueError: Negatives are requested, but no query has any.
        """
        if negatives < 0 or epoch < 0:
            raise ValueError(f"epoch and negatives are at least 0, found {epoch!r} and {negatives!r}")
        if negatives and self.negatives.empty:
            raise ValueError(f"{self.name} has no negatives: call with_negatives(run, collection), or use 0 negatives")
        relevant = self._relevant_docnos
        own = {
            qid: [docno for docno in of if docno not in relevant[qid]] for qid, of in grouped(self.negatives).items()
        }
        of = grouped(self.positives), own
        return rotated(self.name, self.queries["qid"], *of, relevant, epoch=epoch, negatives=negatives, seed=seed)

    def short_of(self, negatives: int) -> int:
        """Return the number of queries with fewer negatives than this."""
        counts = self.negatives.groupby("qid").size().reindex(self.queries["qid"], fill_value=0)
        return int((counts < negatives).sum())

    def _sample_size(self, fraction: float | None, number: int | None) -> int:
        if (fraction is None) == (number is None):
            raise ValueError("give either fraction or number")
        if fraction is not None and not (isinstance(fraction, float | int) and 0 < fraction <= 1):
            raise ValueError(f"fraction is above 0 and at most 1, found {fraction!r}")
        count = round(fraction * len(self)) if fraction is not None else number
        if not isinstance(count, int) or not FEWEST <= count <= len(self):
            smallest = math.ceil(1e4 * FEWEST / len(self)) / 1e4
            if fraction is None:
                raise ValueError(f"{self.name}: a sample has {FEWEST} to {len(self)} queries, found {count!r}")
            raise ValueError(
                f"{self.name}: fraction {fraction:g} gives {count!r} of "
                f"{len(self)} queries, and a sample has at least {FEWEST}: the smallest fraction is {smallest:g}"
            )
        return count

    def _content(self) -> Iterator[str]:
        relevant = self.positives if self.relevant is None else self.relevant
        for frame in (self.queries, self.positives, self.negatives, relevant):
            yield str(len(frame))
            for column in frame.columns[:2]:
                yield from frame[column]
        for docno in sorted(set(self._docnos)):
            yield from (docno, self.texts[docno])

    @cached_property
    def _relevant_docnos(self) -> dict[str, set[str]]:
        """The documents that are relevant to each query: also those of equal queries, and copies of their texts."""
        query_of = dict(zip(self.queries["qid"], self.queries["query"], strict=True))
        known = self.positives if self.relevant is None else pd.concat([self.positives, self.relevant])
        copies: dict[str, set[str]] = {}
        for docno, text in self.texts.items():
            copies.setdefault(text, set()).add(docno)
        found: dict[str, set[str]] = {query: set() for query in query_of.values()}
        for qid, docno in zip(known["qid"], known["docno"], strict=True):
            found[query_of[qid]] |= {docno, *copies.get(self.texts.get(docno, ""), ())}
        return {qid: found[query] for qid, query in query_of.items()}

    @cached_property
    def _docnos(self) -> pd.Series[str]:
        return pd.concat([self.positives["docno"], self.negatives["docno"]], ignore_index=True).drop_duplicates()


def read_qids(path: str | Path) -> list[str]:
    """Read qids written by :meth:`TrainingPairs.save_qids`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has no qid.
    """
    qids = user_path(path).read_text(encoding="utf-8").splitlines()
    if not any(qids):
        raise ValueError(f"{path}: expected one qid per line, found none")
    return [qid for qid in qids if qid]


def listed(names: Sequence[str] | pd.Series[str]) -> str:
    """Return the first few names, for a message."""
    shown = ", ".join(repr(name) for name in list(names)[:NAMED])
    return shown + (" ..." if len(names) > NAMED else "")


def require_several(name: str, queries: pd.DataFrame) -> None:
    """Raise ``ValueError`` for fewer than two queries: one query's texts are the other's negatives."""
    if len(queries) < FEWEST:
        raise ValueError(f"{name}: contrastive training needs at least {FEWEST} queries, found {len(queries)}")
