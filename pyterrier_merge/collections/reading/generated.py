"""Reads queries generated for documents: doc2query's JSON lines, or BEIR's and GPL's queries with judgements."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pyterrier_merge.collections.names import squeezed
from pyterrier_merge.collections.reading.documents import DOCNO_KEYS
from pyterrier_merge.collections.reading.files import kind_of, place, read_jsonl, stem_of
from pyterrier_merge.collections.reading.qrels import read_qrels
from pyterrier_merge.collections.reading.topics import read_topics
from pyterrier_merge.fingerprint import fingerprint, fingerprint_file

LISTS = ("predicted_queries", "querygen", "queries", "generated_queries")
_QUERIES = "queries"


class GeneratedQueries:
    """The generated queries of each document, read at first use.

    Args:
        path: A file of JSON lines with a docno and a list of queries (or lines of them in one string); or BEIR's
            ``NAME-queries.jsonl``, with judgements in ``NAME-qrels/`` next to it; or the folder of both.

    Raises:
        FileNotFoundError: There is no such file, or no judgements next to it.
        ValueError: The folder does not hold one file of queries, and one of judgements that belongs to it.
    """

    def __init__(self, path: Path) -> None:
        """Find the files without reading them."""
        self.path = _queries_file(path) if path.is_dir() else path
        _, first = next(read_jsonl(self.path), (0, dict[str, Any]()))
        if not first:
            raise ValueError(f"{self.path}: there are no queries in it")
        self._lists = any(key in first for key in LISTS)
        self.qrels = None if self._lists else _qrels_file(self.path)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the files' content."""
        return fingerprint([fingerprint_file(file) for file in (self.path, self.qrels) if file])

    def divide(self, doc: Mapping[str, str], generator: random.Random) -> tuple[str, str] | None:
        """Return a random one of a document's queries, and the whole text; None if it has no query."""
        queries = self.by_docno.get(doc["docno"], [])
        return (generator.choice(queries), doc["text"]) if queries and doc["text"].strip() else None

    @cached_property
    def by_docno(self) -> dict[str, list[str]]:
        """Docno -> queries that are not blank."""
        found: dict[str, list[str]] = {}
        for docno, query in self._from_lists() if self.qrels is None else self._from_judgements(self.qrels):
            if query := squeezed(query):
                found.setdefault(docno, []).append(query)
        if not found:
            raise ValueError(f"{self.path}: there are no queries in it")
        return found

    def _from_lists(self) -> Iterator[tuple[str, str]]:
        for number, entry in read_jsonl(self.path):
            docno = next((entry[key] for key in DOCNO_KEYS if key in entry), None)
            queries: Any = next((entry[key] for key in LISTS if key in entry), None)
            queries = queries.splitlines() if isinstance(queries, str) else queries
            if not isinstance(docno, str | int) or not _all_strings(queries):
                raise ValueError(
                    f"{place(self.path, number)}: expected a {' or '.join(DOCNO_KEYS)} and a list of queries as one of "
                    f"{', '.join(LISTS)}; found {', '.join(f'{key}={value!r}'[:60] for key, value in entry.items())}"
                )
            yield from ((str(docno), query) for query in queries)

    def _from_judgements(self, file: Path) -> Iterator[tuple[str, str]]:
        topics, qrels = read_topics(self.path), read_qrels(file)
        query_of = dict(zip(topics["qid"], topics["query"], strict=True))
        for qid, docno in qrels.loc[qrels["label"] > 0, ["qid", "docno"]].itertuples(index=False):
            if qid in query_of:
                yield docno, query_of[qid]


def _all_strings(queries: Any) -> bool:
    return isinstance(queries, list) and all(isinstance(query, str) for query in queries)


def _queries_file(folder: Path) -> Path:
    found = sorted(file for file in folder.iterdir() if kind_of(file) == "jsonl" and stem_of(file).endswith(_QUERIES))
    if len(found) != 1:
        raise ValueError(
            f"{folder}: expected one file of queries, such as gen-queries.jsonl, found "
            f"{', '.join(file.name for file in found) or 'none'}; name the file"
        )
    return found[0]


def _qrels_file(queries: Path) -> Path:
    """``qgen-qrels/train.tsv`` for ``qgen-queries.jsonl``, ``qrels/train.tsv`` for ``queries.jsonl``."""
    folder = queries.with_name(f"{stem_of(queries).removesuffix(_QUERIES)}qrels")
    found = sorted(file for file in folder.glob("*") if kind_of(file) == "tsv") if folder.is_dir() else []
    train = [file for file in found if stem_of(file) == "train"] or found
    if len(train) != 1:
        raise FileNotFoundError(
            f"{queries}: its lines have none of {', '.join(LISTS)}, so judgements are expected in {folder}/train.tsv; "
            f"found {', '.join(file.name for file in found) or 'nothing'}"
        )
    return train[0]
