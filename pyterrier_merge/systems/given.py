"""Systems that ``compare`` takes as objects: transformers and frames of results."""

from __future__ import annotations

import logging
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
import pyterrier as pt
from pydantic import ConfigDict

from pyterrier_merge.fingerprint import fingerprint, fingerprint_rows
from pyterrier_merge.schematic import labelled
from pyterrier_merge.storage import cache_folder
from pyterrier_merge.systems.base import Bench, Prepared, System

logger = logging.getLogger(__name__)

LONGEST = 400  # characters of a description in a report


class TransformerSystem(System):
    """Any PyTerrier transformer from topics to results.

    Attributes:
        transformer: The transformer.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    kind: Literal["transformer"] = "transformer"
    transformer: Any

    def prepare(self, bench: Bench) -> list[Prepared]:  # noqa: ARG002 (of every kind)
        """Return it unchanged."""
        identity = fingerprint([type(self.transformer).__name__, repr(self.transformer), id(self.transformer)])
        from pyterrier_merge.retrieval.lexical.bm25 import BM25

        labels = frozenset[str]() if isinstance(self.transformer, BM25) else None
        described = repr(self.transformer).replace(str(cache_folder()), "…")
        note = described if len(described) <= LONGEST else f"{described[:LONGEST]} …"
        return [Prepared(transformer=UsersStage(self.transformer), identity=identity, labels=labels, notes=(note,))]


class UsersStage(pt.Transformer):
    """A user's own stage; each of its errors is reported as a system's failure, as for the package's own stages.

    Args:
        transformer: The stage.
    """

    schematic: ClassVar = labelled("UsersStage")

    def __init__(self, transformer: pt.Transformer) -> None:
        self.transformer = transformer

    def ready(self) -> None:
        """Build the index of a stage that builds its own, such as BM25."""
        if callable(ready := getattr(self.transformer, "ready", None)):
            with users_errors("indexing"):
                ready()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Run the stage.

        Raises:
            RuntimeError: The stage raised an error.
        """
        with users_errors("searching"):
            return self.transformer.transform(inp)


@contextmanager
def users_errors(doing: str) -> Iterator[None]:
    """Raise ``RuntimeError`` instead of any error in the user's own code, with the line that raised it.

    Errors of this package or of another library with a clear message are not changed.
    """
    try:
        yield
    except Exception as error:  # it may raise anything
        logger.debug("%s failed", doing, exc_info=True)
        lines = traceback.extract_tb(error.__traceback__)
        if isinstance(error, (RuntimeError, ValueError)) and not _users_own(lines[-1]):
            raise
        last = next(filter(_users_own, reversed(lines)), None)  # a function that it called may have raised the error
        where = f" ({Path(last.filename).name}, line {last.lineno})" if last else ""
        raise RuntimeError(f"{doing} failed: {type(error).__name__}: {error}{where}") from error


def _users_own(line: traceback.FrameSummary) -> bool:
    """Whether a line of a traceback is outside all libraries."""
    standard = Path(line.filename).is_relative_to(sysconfig.get_path("stdlib")) or line.filename.startswith("<frozen")
    return not standard and not {"site-packages", "pyterrier_merge"} & set(Path(line.filename).parts)


class ResultsSystem(System):
    """A frame of results.

    Attributes:
        results: ``qid``, ``docno`` and ``score``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    kind: Literal["results"] = "results"
    results: pd.DataFrame

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Return a stage that answers with the frame's rows."""
        kept = KeptResults(self.results)
        notes = compared_with_collection(kept.results, bench, "the frame of results")
        return [Prepared(transformer=kept, identity=fingerprint_rows(kept.results), labels=None, notes=notes)]


class KeptResults(pt.Transformer):
    """Answers queries with existing results.

    Args:
        results: ``qid``, ``docno`` and ``score``.

    Raises:
        ValueError: A column is missing.
    """

    schematic: ClassVar = labelled("KeptResults")

    def __init__(self, results: pd.DataFrame) -> None:
        if missing := [column for column in ("qid", "docno", "score") if column not in results]:
            raise ValueError(f"results need qid, docno and score; {', '.join(missing)} is missing from {list(results)}")
        self.results = results[["qid", "docno", "score"]].astype({"qid": str, "docno": str})

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the queries."""
        return inp[["qid", "query"]].merge(self.results, on="qid")


def compared_with_collection(run: pd.DataFrame, bench: Bench, what: str) -> tuple[str, ...]:
    """Compare the names in results with those of a collection, and return notes on differences.

    Raises:
        ValueError: None of the queries, or none of the documents, is in the collection.
    """
    topics = bench.collection.topics(bench.split)["qid"]
    corpus = (doc["docno"] for doc in bench.collection.documents_of(run["docno"].unique().tolist()))
    found = [
        _strangers(run["qid"], topics, f"{bench.split} topics", bench, what),
        _strangers(run["docno"], corpus, "documents", bench, what),
    ]
    return tuple(filter(None, found))


def _strangers(found: pd.Series[str], known: Iterable[str], kind: str, bench: Bench, what: str) -> str:
    names = set(found.unique())
    strangers = names.difference(known)
    if not strangers:
        return ""
    example = sorted(strangers)[0]
    if len(strangers) == len(names):
        raise ValueError(
            f"{what} belongs to another collection: none of its {len(names):,} {found.name}s is among the {kind} of "
            f"{bench.collection.name} (such as {example!r})"
        )
    said = f"{len(strangers):,} of {len(names):,} {found.name}s in {what} are not {kind} of {bench.collection.name}."
    logger.warning("%s (such as %r)", said.rstrip("."), example)
    return said
