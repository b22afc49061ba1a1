"""Scores many merges in one pass over the documents; a killed process resumes where it was."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from more_itertools import chunked, peekable

from pyterrier_merge.collections.names import name_fault
from pyterrier_merge.encoding.shared_layers import Encoded, SharedLayers
from pyterrier_merge.memory import spare_memory
from pyterrier_merge.progress import progress, shown
from pyterrier_merge.retrieval.dense.block_search import BlockSearch, Ranked
from pyterrier_merge.storage import write_file
from pyterrier_merge.version import __version__

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.merged import MergedE5Encoder
    from pyterrier_merge.encoding.text_model import Batch
    from pyterrier_merge.recipe import MergeRecipe
    from pyterrier_merge.retrieval.dense.vectors import FloatArray
    from pyterrier_merge.tuning.score import ScoringTask

logger = logging.getLogger(__name__)

SHARD = 1_000  # documents whose batches are made together, as for an index, so that vectors are identical
ID_BYTES = 48  # a token's id in Python, and its entries in two lists
COPIES = 3  # copies of a block's vectors during a search


@dataclass
class Point:
    """A merge that is being scored.

    Attributes:
        recipe: The merge.
        file: The file for its values.
        done: Number of documents it has encoded.
        best: The best of these documents for each query.
        queries: Vectors of the topics, once computed.
    """

    recipe: MergeRecipe
    file: Path
    done: int = 0
    best: Ranked = field(default_factory=Ranked.nothing)
    queries: FloatArray | None = None

    @property
    def part(self) -> Path:
        """The file of the point's progress."""
        return self.file.with_suffix(".part.json")

    def keep(self, layout: Sequence[Any]) -> None:
        """Write the point's progress to its file."""
        write_file(self.part, json.dumps({"layout": layout, "done": self.done, "best": self.best.to_json()}))

    def resume(self, layout: Sequence[Any]) -> None:
        """Resume from the progress of an earlier process, if its batches were the same."""
        if not self.part.is_file():
            return
        try:
            found = json.loads(self.part.read_text(encoding="utf-8"))
            if found["layout"] == list(layout):
                self.best, self.done = Ranked.from_json(found["best"]), int(found["done"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s is damaged (%s): this merge starts again from the beginning", self.part, error)


class Block(NamedTuple):
    """Documents that all merges encode before the next block: their batches, and the docnos of each batch."""

    batches: list[Batch]
    docnos: list[str]


class Walk:
    """Encodes and searches a collection with many merges, block by block, in each block merge by merge."""

    def __init__(self, encoder: MergedE5Encoder, files: Mapping[MergeRecipe, Path], task: ScoringTask) -> None:
        """Load the models, and read the progress of an earlier process.

        Args:
            encoder: An encoder of these recipes' models; its recipe changes during the walk.
            files: Recipe -> file for its values.
            task: The task to search and measure.
        """
        self._encoder, self._task = encoder, task
        self._shared = SharedLayers(encoder, list(files))
        self._search = BlockSearch(task.collection, task.topics, task.num_results)
        text_model, _ = encoder.open()
        self._dim = text_model.dim
        self._room = spare_memory(text_model.one_device or "cpu") if task.memory is None else task.memory
        self._layout = _layout(encoder, text_model.one_device)
        self._points = {recipe: Point(recipe, file) for recipe, file in files.items()}
        for point in self._points.values():
            point.resume(self._layout)

    def score(self, *, best: float | None = None, verbose: bool | None = None) -> None:
        """Score all merges; the values of each are written once it has encoded the last document.

        Args:
            best: Mean of the best merge scored so far, for the progress bar.
            verbose: Show a progress bar over documents times merges.

        Raises:
            ValueError: There are no documents, a docno or a text is unusable, a candidate is not a document, or as
                :meth:`~pyterrier_merge.encoding.shared_layers.SharedLayers.run`.
        """
        waiting = list(self._points.values())
        documents = _Documents(self._encoder, self._task.collection, min(point.done for point in waiting))
        total = len(waiting) * self._task.collection.num_docs if shown(verbose) else None
        done = sum(point.done for point in waiting)
        with progress(total=total, initial=done, desc="sweep", unit="doc", verbose=verbose) as bar:
            while waiting:
                start = min(point.done for point in waiting)
                others = [point.done for point in waiting if point.done > start]
                points = [point for point in waiting if point.done == start]
                queries = self._query_batches() if any(point.queries is None for point in points) else []
                block = self._block(documents, queries, [point.recipe for point in points], min(others, default=None))
                last = documents.finished
                if last:
                    self._search.require_candidates(documents.docnos)
                for point in self._encoded(points, queries, block, bar):
                    if not last:
                        point.keep(self._layout)
                        continue
                    waiting.remove(point)
                    best = max(filter(None, (best, self._finish(point))), default=None)
                    bar.set_postfix_str(f"best {self._task.metric} {best or 0:.4f}", refresh=False)

    def _finish(self, point: Point) -> float:
        """Measure a merge, store its values, and return their mean."""
        values = self._task.keep(point.file, self._search.results(point.best))
        point.part.unlink(missing_ok=True)
        logger.info("%s: %s %.4f", point.recipe, self._task.metric, values.mean())
        return float(values.mean())

    def _encoded(self, points: Sequence[Point], queries: list[Batch], block: Block, bar: Any) -> Iterator[Point]:
        """Yield each point after it has encoded and searched the block."""
        batches, by_recipe = [*queries, *block.batches], {point.recipe: point for point in points}

        def advance(place: int) -> None:
            bar.update(len(batches[place].rows) if place >= len(queries) else 0)

        for recipe, found in self._shared.run(list(by_recipe), batches, advance):
            point = by_recipe[recipe]
            if queries:
                point.queries = self._query_vectors(found[: len(queries)])
            assert point.queries is not None  # noqa: S101 (for the type checker)
            vectors = np.concatenate([vectors for _, vectors in found[len(queries) :]])
            point.best = self._search.add(point.best, block.docnos, vectors, point.queries)
            point.done += len(block.docnos)
            yield point

    def _block(
        self, documents: _Documents, queries: Sequence[Batch], recipes: Sequence[MergeRecipe], stop: int | None
    ) -> Block:
        """Take as many batches as fit into memory, at least one, but none after the document ``stop``."""
        token_bytes = self._shared.token_bytes(recipes) + ID_BYTES

        def size(batch: Batch) -> int:
            return batch.tokens * token_bytes + len(batch.rows) * self._dim * 4 * COPIES

        block, used = Block([], []), sum(map(size, queries))
        while not documents.finished and documents.place != stop:
            used += size(documents.next_batch)
            if block.batches and used > self._room:
                break
            batch, docnos = documents.take()
            block.batches.append(batch)
            block.docnos.extend(docnos)
        if not block.batches:
            raise ValueError(f"{self._task.collection.name} has no documents: there is nothing to search")
        return block

    def _query_batches(self) -> list[Batch]:
        return list(self._encoder.batches(self._queries[0], kind="query"))

    def _query_vectors(self, found: Encoded) -> FloatArray:
        texts, places = self._queries
        vectors = np.empty((len(texts), self._dim), dtype=np.float32)
        for rows, some in found:
            vectors[rows] = some
        return vectors[places]

    @cached_property
    def _queries(self) -> tuple[list[str], np.ndarray]:
        """The distinct queries, as ``dense_retriever`` passes them to the encoder, and the index of each topic's."""
        texts, places = np.unique(self._task.topics["query"].to_numpy(dtype=object), return_inverse=True)
        return list(texts), places


class _Documents:
    """A collection's documents in batches, from a given one on.

    Attributes:
        place: Number of documents taken or skipped.
        docnos: Docnos of all documents that were read.
    """

    def __init__(self, encoder: MergedE5Encoder, collection: TestCollection, start: int) -> None:
        self._encoder, self._collection = encoder, collection
        self.place = start
        self.docnos: set[str] = set()
        self._batches = peekable(self._from(start))

    @property
    def finished(self) -> bool:
        """Whether all documents were taken."""
        return not self._batches

    @property
    def next_batch(self) -> Batch:
        """The batch that is taken next."""
        batch: Batch = self._batches.peek()[0]
        return batch

    def take(self) -> tuple[Batch, list[str]]:
        """Return the next batch, and its docnos."""
        batch, docnos = next(self._batches)
        self.place += len(docnos)
        return batch, docnos

    def _from(self, start: int) -> Iterator[tuple[Batch, list[str]]]:
        passed = cut = 0
        for shard in chunked(self._checked(), SHARD):
            if passed + len(shard) <= start:
                passed += len(shard)
                continue
            for batch in self._encoder.batches([text for _, text in shard], kind="document"):
                passed += len(batch.rows)
                cut += batch.cut
                if passed > start:
                    yield batch, [shard[row][0] for row in batch.rows]
        if cut:
            logger.info("%d of %d documents were too long for the encoder: cut", cut, passed)

    def _checked(self) -> Iterator[tuple[str, str]]:
        """Docno and text of each document."""
        column = self._encoder.text_field
        for place, document in enumerate(self._collection.corpus_iter()):
            docno, text = document.get("docno"), document.get(column)
            if fault := name_fault(docno, self.docnos):
                raise ValueError(f"document {place} has the docno {docno!r}, which {fault}; expected unique text")
            if not isinstance(text, str):
                raise ValueError(f"document {docno!r} has {text!r} as its {column}, expected a string")  # noqa: TRY004
            self.docnos.add(str(docno))
            yield str(docno), text


def _layout(encoder: MergedE5Encoder, device: str | None) -> list[Any]:
    """The settings that decide which texts share a batch, and so the order of encoding."""
    import torch
    import transformers

    versions = __version__, transformers.__version__
    return [*versions, SHARD, encoder.batch_size, device or str(encoder.device), torch.get_num_threads()]
