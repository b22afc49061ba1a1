"""Known items: a test collection made from any collection's own documents, without labels."""

from __future__ import annotations

import hashlib
import heapq
import logging
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pyterrier_merge.collections.base import TestCollection, require_collection
from pyterrier_merge.collections.derived import DerivedCollection
from pyterrier_merge.collections.query_parts import TITLES, WAYS, Part
from pyterrier_merge.collections.reading.generated import GeneratedQueries
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.storage import user_path

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev")
ALL = "all"  # the only split of items that are not divided
FEWEST = 5  # items of a split
SPARE = 2  # items held for each one needed: the other split takes the queries of at most half of them
PROCEDURE = 2  # part of every fingerprint: increase it if the same settings would give other items
_SAID = {
    "head": "first fifth",
    "drawn": "first 10 to 40 %",
    "title": "title",
    "crop": "span of 10 to 40 %",
}


def known_items(
    collection: TestCollection, n: int = 2500, *, seed: int = 0, query: str | Path = "head"
) -> TestCollection:
    """Make a test collection from a collection's own text: queries are parts of documents, documents are the rest.

    Half of the items are the split "train", half are "dev". A document's split depends only on its docno: for all
    ``n``, ``seed`` and ``query``, no document of one "train" is in another "dev". Each query has one relevant document,
    with label 1. The corpus has only the sampled documents, under their docnos.

    Documents are drawn in one pass over the collection at first use, by a hash of seed and docno, so that their order
    does not matter; the sampled texts are held in memory. The log states the number of documents that make no item.

    Args:
        collection: Gives documents, language, task, measures and licence; its topics and judgements are not read.
        n: Documents to draw; if fewer documents make an item, all of those.
        seed: Random seed of the draw.
        query: ``head``: the first fifth of the words. ``drawn``: the first 10 to 40 %, a share drawn for each document.
            ``crop``: a span of 10 to 40 %, removed from the text. A query has at most 64 words, a text at least 10; in
            languages without spaces two characters count as a word. ``title``: the field ``title`` or ``name``,
            removed from the text, which must not repeat it. Or a path of generated queries, whose documents stay
            whole: JSON lines with docno and ``predicted_queries`` (doc2query), or queries and judgements in the format
            of BEIR and GPL (a folder with ``NAME-queries.jsonl`` and ``NAME-qrels/train.tsv``); of several queries one
            is drawn.

    Raises:
        TypeError: ``collection`` is not a collection.
        ValueError: ``n`` is too small, ``query`` is unknown, or the collection consists of known items. At first use:
            the documents have no title, none of the documents with generated queries is in the collection, or fewer
            than five items per split are left.
        FileNotFoundError: There is no such file of queries.
    """
    require_collection(collection)
    if isinstance(collection, KnownItems):
        raise ValueError(f"{collection.name} consists of known items; make others of {collection.whole.name}")  # noqa: TRY004
    if not isinstance(n, int) or n < len(SPLITS) * FEWEST:
        raise ValueError(f"known items need at least {FEWEST} documents for each of {', '.join(SPLITS)}; found n={n!r}")
    if not isinstance(seed, int):
        raise ValueError(f"seed is a whole number, found {seed!r}")  # noqa: TRY004
    generated = _generated(query)
    said = f"query of {generated.path.name} -> whole" if generated else f"{_SAID[str(query)]} -> rest"
    return KnownItems(
        **{
            **collection.description,
            "name": f"{collection.name}-known-items",
            "title": f"{said} of a document of {collection.name}, n={n}, seed={seed}",
            "splits": SPLITS,
            "judged_pool": False,
            "reranking": False,
            "ignore_identical_ids": False,
            "labelled": False,
        },
        whole=collection,
        n=n,
        seed=seed,
        query=query if generated else str(query),
        generated=generated,
    )


def undivided(items: TestCollection) -> TestCollection:
    """Return known items with a single split, "all", for models that were trained on none of them."""
    assert isinstance(items, KnownItems)  # noqa: S101 (for the type checker)
    return replace(items, splits=(ALL,))


class Item(NamedTuple):
    """A document and its query."""

    split: str
    docno: str
    query: str
    text: str

    @property
    def qid(self) -> str:
        """The query's id; not the docno, because some tools would treat the query as a document of the collection."""
        return f"item-{self.docno}"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class KnownItems(DerivedCollection):
    """The collection that ``known_items`` makes.

    Attributes:
        n: Number of documents to draw.
        seed: Random seed of the draw.
        query: How queries are made, or the path that they are read from.
        generated: Queries that were read; None if they are parts of documents.
    """

    n: int
    seed: int
    query: str | Path
    generated: GeneratedQueries | None = None

    @property
    def num_docs(self) -> int:
        """Number of sampled documents."""
        return len(self._items)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole's fingerprint, its language and the settings."""
        way = self.generated.fingerprint if self.generated else self.query
        made = [PROCEDURE, self.whole.fingerprint, self.language, self.n, self.seed, way]
        return fingerprint({"known items": made})

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Only the text: other fields may hold the query."""
        return ("text",)

    def documents_of(self, docnos: Collection[str]) -> Iterator[dict[str, str]]:
        """Look sampled documents up."""
        wanted = set(docnos)
        return (doc for doc in self._documents() if doc["docno"] in wanted)

    def _documents(self) -> Iterator[dict[str, str]]:
        return ({"docno": item.docno, "text": item.text} for item in self._items)

    def _topics(self, split: str) -> pd.DataFrame:
        rows = [(item.qid, item.query) for item in self._items if split in (item.split, ALL)]
        return pd.DataFrame(rows, columns=["qid", "query"])

    def _qrels(self, split: str) -> pd.DataFrame:
        rows = [(item.qid, item.docno, 1) for item in self._items if split in (item.split, ALL)]
        return pd.DataFrame(rows, columns=["qid", "docno", "label"])

    @cached_property
    def _items(self) -> list[Item]:
        if self.query == "title" and not set(TITLES) & set(self.whole.document_fields):
            raise ValueError(
                f"documents of {self.whole.name} have neither {' nor '.join(TITLES)}, but "
                f"{', '.join(self.whole.document_fields)}: choose another query, such as 'head'"
            )
        draw = _Draw({"train": self.n - self.n // 2, "dev": self.n // 2}, self.seed)
        for doc in self.whole.corpus_iter():
            draw.offer(doc, self._divide)
        items = draw.items()
        self._report(draw, items)
        return items

    def _divide(self, doc: Mapping[str, str]) -> Part | None:
        generator = random.Random(f"{self.seed}:{doc['docno']}")  # noqa: S311 (not for security)
        if self.generated is not None:
            return self.generated.divide(doc, generator)
        return WAYS[str(self.query)](doc, self.language, generator)

    def _report(self, draw: _Draw, items: list[Item]) -> None:
        """Log the number of documents that make no item; raise if too few items are left."""
        lacking = "have no query there" if self.generated else "are too short"
        if self.query == "title":
            lacking = "have no title, repeat it, or are too short"
        said = (
            f"{self.whole.name}: {len(items):,} known items; skipped: {draw.without:,} documents that {lacking}, "
            f"{draw.repeated:,} with the query of another document"
        )
        fewest = min(sum(item.split == split for item in items) for split in SPLITS)
        if fewest < FEWEST:
            raise ValueError(f"{said}: too few items are left to choose on or to train on")
        if len(items) < self.n:
            logger.warning("%s; %d were asked for", said, self.n)
        else:
            logger.info("%s", said)


class _Draw:
    """The items with the smallest hashes, a given number for each split, no two with the same query.

    While documents are read, each split holds twice as many items as it needs, without repeated queries in it. Queries
    that both splits hold are sorted out at the end.
    """

    def __init__(self, sizes: Mapping[str, int], seed: int) -> None:
        self.sizes = sizes
        self.seed = seed
        self._kept: dict[str, dict[str, tuple[int, Item]]] = {split: {} for split in sizes}  # by case-folded query
        self._heaps: dict[str, list[tuple[int, str]]] = {split: [] for split in sizes}  # the largest hash first
        self._without: dict[str, list[int]] = {split: [] for split in sizes}
        self._repeated: dict[str, list[int]] = {split: [] for split in sizes}
        self.without = self.repeated = 0

    def offer(self, doc: Mapping[str, str], divide: Callable[[Mapping[str, str]], Part | None]) -> None:
        """Keep a document if its hash is among the smallest so far, and it can be divided."""
        docno = doc["docno"]
        split, key = SPLITS[_hash(f"split:{docno}") % 2], _hash(f"{self.seed}:{docno}")
        kept, heap = self._kept[split], self._heaps[split]
        full = len(kept) >= self.sizes[split] * SPARE
        if full and key > -heap[0][0]:
            return
        part = divide(doc)
        if part is None:
            self._without[split].append(key)
            return
        item = Item(split, docno, *part)
        query = item.query.casefold()
        if query in kept:
            twin, _ = kept[query]
            self._repeated[split].append(max(key, twin))
            if key > twin:
                return
            heap.remove((-twin, query))
            heapq.heapify(heap)
        elif full:
            del kept[heapq.heappop(heap)[1]]
        kept[query] = key, item
        heapq.heappush(heap, (-key, query))

    def items(self) -> list[Item]:
        """Return the items in the order of their hashes; of items with the same query, only the first.

        Afterwards ``repeated`` is the number of the other items, and ``without`` that of documents that make no item,
        both up to the last hash that was taken, so that the order of the documents does not matter.
        """
        items, asked, left = [], set[str](), dict(self.sizes)
        last: dict[str, int] = {}
        for key, item in sorted(pair for kept in self._kept.values() for pair in kept.values()):
            if left[item.split] and item.query.casefold() in asked:
                self._repeated[item.split].append(key)
            elif left[item.split]:
                asked.add(item.query.casefold())
                items.append(item)
                left[item.split] -= 1
                last[item.split] = key

        def counted(keys: Mapping[str, list[int]]) -> int:
            return sum(bool(left[split]) or key < last[split] for split, own in keys.items() for key in own)

        self.without, self.repeated = counted(self._without), counted(self._repeated)
        return items


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _generated(query: str | Path) -> GeneratedQueries | None:
    if str(query) in WAYS:
        return None
    if not isinstance(query, str | Path):
        raise ValueError(f"query is one of {', '.join(WAYS)}, or a path; found {query!r}")  # noqa: TRY004
    path = user_path(query)
    if isinstance(query, str) and not path.exists():
        raise ValueError(f"{query!r} is neither a file nor a way to make queries; {did_you_mean(query, WAYS)}")
    return GeneratedQueries(path)
