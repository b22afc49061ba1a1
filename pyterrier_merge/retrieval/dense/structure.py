"""FAISS structures over stored vectors, by factory string: built once, stored next to the vectors, and opened again.

A structure only proposes documents; their scores are computed with the stored vectors (see ``search.rescored``).
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.progress import progress
from pyterrier_merge.retrieval.dense.effort import Effort, effort
from pyterrier_merge.retrieval.dense.faiss_library import import_faiss
from pyterrier_merge.retrieval.dense.vectors import FloatArray, IntArray, StoredVectors
from pyterrier_merge.storage import finished_folder

logger = logging.getLogger(__name__)

FOLDER, FILE, DESCRIPTION = "structures", "index.faiss", "structure.json"
POINTS_PER_LIST = 64  # training vectors; FAISS wants 39 at least and uses 256 at most
POINTS_AT_LEAST = 1 << 16  # what FAISS uses at most to train the 256 centroids of a product quantizer
WANTED_PER_LIST = 39
GPU_LIMIT = 2048  # documents that FAISS finds at most on a GPU
ZERO = re.compile(r"(?<!\d)0+(?!\d)")
LONE_LINK = re.compile(r"HNSW0*1(?!\d)")
EXAMPLES = "'HNSW32', 'IVF1024,Flat', 'IVF1024,SQfp16' or 'IVF1024,PQ48'"


@dataclass(frozen=True)
class Structure:
    """What to build, and how to search it.

    Attributes:
        factory: FAISS' factory string.
        seed: Chooses the vectors to train with.
        nprobe: Lists of an IVF that are searched; None for twice the square root of their number, or as many as hold
            four times the documents that are wanted, where that is more.
        ef_search: Length of HNSW's queue; None for 64. As many as are wanted is the least that it can be.
    """

    factory: str
    seed: int = 0
    nprobe: int | None = None
    ef_search: int | None = None

    def __post_init__(self) -> None:
        """Refuse what FAISS takes and then ends the process with, or builds nonsense of.

        Raises:
            ValueError: A count of 0, or a graph with fewer than two links.
        """
        if ZERO.search(self.factory) or LONE_LINK.search(self.factory):
            raise ValueError(
                f"FAISS cannot search {self.factory!r}: every number in it must be at least 1, and HNSW's links at "
                f"least 2; give a factory string such as {EXAMPLES}"
            )

    def search(
        self,
        vectors: StoredVectors,
        queries: FloatArray,
        depth: int,
        *,
        devices: Sequence[str] = ("cpu",),
        verbose: bool | None = None,
    ) -> IntArray:
        """Return places of ``(n_queries, depth)`` documents, in no order; -1 where the structure found no more.

        Args:
            vectors: The index; the structure is built here where it is not there.
            queries: ``(n_queries, dim)`` float32.
            depth: Documents a query.
            devices: Torch devices; documents are split over several GPUs.
            verbose: Show a progress bar when building.

        Raises:
            ValueError: A factory string that FAISS does not take, too few vectors to train it, or a parameter that it
                does not have.
            RuntimeError: The file is damaged, FAISS has no GPU here, or it cannot search what it has built.
            ImportError: FAISS is not installed.
        """
        faiss = import_faiss()
        key = self._key
        if key not in vectors.held:
            vectors.held[key] = _opened(faiss, vectors, self.factory, self.seed, verbose), Lock()
        index, lock = vectors.held[key]
        if any(device != "cpu" for device in devices) and depth > GPU_LIMIT:
            logger.info("%d documents a query are more than FAISS finds on a GPU: searching on the CPU", depth)
            devices = ("cpu",)
        with lock:  # parameters are the structure's own, which other retrievers set too
            searched = self._effort(faiss, index, depth)
            searched.apply(faiss, index)
            if any(device != "cpu" for device in devices):
                held = (*key, tuple(devices), searched.values.get("nprobe"))
                if held not in vectors.held:
                    vectors.held[held] = _on_gpus(faiss, index, devices)
                index = vectors.held[held]
            try:
                _, docids = index.search(queries, depth)
            except RuntimeError as error:
                raise RuntimeError(
                    f"FAISS cannot search {self.factory!r} for {depth} documents a query: {_own_words(error)}; give "
                    f"another factory string, such as {EXAMPLES}"
                ) from error
        found: IntArray = docids
        return found

    def effort(self, vectors: StoredVectors, depth: int) -> Effort:
        """Return how much of the structure is searched for ``depth`` documents a query; after :meth:`search`."""
        index, _ = vectors.held[self._key]
        return self._effort(import_faiss(), index, depth)

    def _effort(self, faiss: ModuleType, index: Any, depth: int) -> Effort:
        return effort(faiss, index, depth, nprobe=self.nprobe, ef_search=self.ef_search, factory=self.factory)

    @property
    def _key(self) -> tuple[str, str, int]:
        return "structure", self.factory, self.seed


def structures(vectors: StoredVectors) -> list[dict[str, Any]]:
    """Return what is known of the structures that are kept: ``factory``, ``seed``, ``bytes``, ``build_seconds`` ..."""
    files = sorted((vectors.folder / FOLDER).glob(f"*/{DESCRIPTION}"))
    kept = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    # a job that was building while the index was overwritten leaves one of the vectors before
    return [description for description in kept if description["vectors"] == vectors.identity]


def _opened(faiss: ModuleType, vectors: StoredVectors, factory: str, seed: int, verbose: bool | None) -> Any:
    name = fingerprint({"factory": factory, "seed": seed, "vectors": vectors.identity})
    folder = vectors.folder / FOLDER / name
    if not folder.is_dir():
        build = _built(faiss, vectors, factory, seed, verbose)
        if not _taken(faiss, build, folder, _description(build, vectors, factory, seed)):
            return build.index
    try:
        index = faiss.read_index(str(folder / FILE))
        size = index.ntotal, index.d
    except RuntimeError as error:
        raise RuntimeError(f"{folder / FILE} is damaged: delete {folder}, and it is built again") from error
    if size != vectors.shape:
        raise RuntimeError(
            f"{folder / FILE} is damaged: it holds {size[0]} vectors of {size[1]} dimensions, expected "
            f"{vectors.shape[0]} of {vectors.shape[1]}; delete {folder}, and it is built again"
        )
    return index


@dataclass(frozen=True)
class _Build:
    index: Any
    trained_with: int
    seconds: float


def _built(faiss: ModuleType, vectors: StoredVectors, factory: str, seed: int, verbose: bool | None) -> _Build:
    start = time.perf_counter()
    n_docs, dim = vectors.shape
    sample = 0
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            sample = _sample_size(faiss, index, factory, n_docs)
            logger.info("training %s with %d of %d vectors", factory, sample, n_docs)
            chosen = np.random.default_rng(seed).choice(n_docs, sample, replace=False)
            index.train(vectors.rows(np.sort(chosen)))
        for block in progress(list(vectors.blocks()), desc=f"building {factory}", unit="block", verbose=verbose):
            index.add(vectors.rows(block))
    except RuntimeError as error:
        raise ValueError(
            f"FAISS cannot build {factory!r} over {n_docs} vectors of {dim} dimensions: {_own_words(error)}; "
            f"give a factory string such as {EXAMPLES}"
        ) from error
    return _Build(index, sample, time.perf_counter() - start)


def _sample_size(faiss: ModuleType, index: Any, factory: str, n_docs: int) -> int:
    lists = faiss.try_extract_index_ivf(index)
    nlist = lists.nlist if lists else 0
    if nlist > n_docs:
        raise ValueError(
            f"{factory!r} has {nlist} lists, and there are {n_docs} vectors to train them: take fewer lists"
        )
    if nlist * WANTED_PER_LIST > n_docs:
        logger.warning(
            "%d vectors are few to train the %d lists of %s: FAISS wants %d",
            *(n_docs, nlist, factory, nlist * WANTED_PER_LIST),
        )
    return min(n_docs, max(POINTS_AT_LEAST, nlist * POINTS_PER_LIST))


def _description(build: _Build, vectors: StoredVectors, factory: str, seed: int) -> dict[str, Any]:
    return {
        "factory": factory,
        "seed": seed,
        "vectors": vectors.identity,
        "trained_with": build.trained_with,
        "build_seconds": round(build.seconds, 1),
    }


def _taken(faiss: ModuleType, build: _Build, folder: Path, description: dict[str, Any]) -> bool:
    """Keep a structure where that can be; say whether another process's stands there, which all are to use."""
    try:
        with finished_folder(folder) as part:
            faiss.write_index(build.index, str(part / FILE))
            description |= {"bytes": (part / FILE).stat().st_size, "faiss": faiss.__version__}
            (part / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
    except FileExistsError:
        logger.info("%s was built by another process in the meantime", folder)
        return True
    except (OSError, RuntimeError) as error:  # FAISS tells of a full disk by the latter
        logger.warning("%s cannot be kept (%s): the next process builds it again", folder, error)
    else:
        logger.info("%s: %.1f MB, built in %.1f s", description["factory"], description["bytes"] / 1e6, build.seconds)
    return False


def _on_gpus(faiss: ModuleType, index: Any, devices: Sequence[str]) -> Any:
    """Return a copy on GPUs, the documents split over them where there are several."""
    import torch

    if not faiss.get_num_gpus():
        raise RuntimeError(
            f"this FAISS sees no GPU, and {', '.join(devices)} was asked for: pip install 'pyterrier-merge[gpu]' in "
            "place of faiss-cpu, or search the structure with device=None"
        )
    torch.cuda.init()  # type: ignore[no-untyped-call]  # a process that is forked later knows then that a GPU was used
    options = faiss.GpuMultipleClonerOptions()
    options.shard = len(devices) > 1
    numbers = [int(device.partition(":")[2] or 0) for device in devices]
    try:
        return faiss.index_cpu_to_gpus_list(index, co=options, gpus=numbers)
    except RuntimeError as error:
        raise ValueError(
            f"FAISS cannot search this structure on a GPU: {_own_words(error)}; search it with device=None"
        ) from error


def _own_words(error: RuntimeError) -> str:
    return re.sub(r"^Error in .*?\.(cpp|h):\d+: (Error: )?", "", str(error), flags=re.DOTALL).strip()
