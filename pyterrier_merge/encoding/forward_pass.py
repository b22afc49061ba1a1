"""From token ids to vectors, on one or several devices."""

from __future__ import annotations

import copy
import itertools
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from pyterrier_merge.encoding.contract import normalizes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

BATCHES_EACH = 2  # with fewer batches for each core, several cores share one batch
SHARES, SMALLEST = 4, 256  # for few texts: batches of each core, and minimum tokens of a batch
MOST_WORKERS = 16  # of a CPU: each holds a batch's activations, 0.3 GB for a layer of a 7B model

Ids = list[list[int]]
Key = TypeVar("Key")

_SETTING_CORES = threading.Lock()


class ForwardPass:
    """A model on its device: the transformer in its own type, pooling and later modules in float32.

    If the model's files keep only the first values of a vector (``truncate_dim``), a model that normalises does so
    again after the cut; sentence-transformers leaves that to its cosine similarity.

    Attributes:
        around: Returns the context in which the transformer runs a batch of token ids, in the batch's thread.
    """

    def __init__(self, model: SentenceTransformer, device: str, *, looks_back: bool = False) -> None:
        """Take a model whose transformer already has its type.

        Args:
            model: The model, on ``device``.
            device: A torch device.
            looks_back: No token sees a later one, see :func:`~.causality.looks_back`. Padding after a text then needs
                no mask, and GPUs have faster kernels without a mask.
        """
        self.model = model
        self.device = device
        self.looks_back = looks_back
        self.around: Callable[[Ids], AbstractContextManager[None]] = lambda _: nullcontext()
        self._room: int = sys.maxsize  # tokens of a batch that fit into memory, as known so far

    def __call__(self, ids: Ids, *, padding_side: str = "right") -> torch.Tensor:
        """Run the token ids of a batch: ``(n_texts, dim)`` float32 on the device."""
        longest = max(map(len, ids))
        filler = self.model.tokenizer.pad_token_id or 0

        def padded(row: list[int], filler: int) -> list[int]:
            gap = [filler] * (longest - len(row))
            return gap + row if padding_side == "left" else row + gap

        features: dict[str, Any] = {
            "input_ids": torch.tensor([padded(row, filler) for row in ids], device=self.device),
            "attention_mask": torch.tensor([padded([1] * len(row), 0) for row in ids], device=self.device),
        }
        first, *rest = self.model
        # the caller's autocast is set only in the caller's thread
        with torch.autocast(torch.device(self.device).type, enabled=False):
            mask = features["attention_mask"]
            if self.looks_back and padding_side == "right":
                del features["attention_mask"]
            with self.around(ids):
                features = first(features)
            features.setdefault("attention_mask", mask)  # the pooling needs it
            features["token_embeddings"] = features["token_embeddings"].float()
            for module in rest:
                features = module(features)
            vectors: torch.Tensor = features["sentence_embedding"].float()
        if self.model.truncate_dim is None:
            return vectors
        first_values = vectors[:, : self.model.truncate_dim]
        return torch.nn.functional.normalize(first_values) if normalizes(self.model) else first_values

    def in_memory(self, ids: Ids) -> torch.Tensor:
        """Run a batch; if a GPU has too little memory for it, run it and later batches in halves."""
        if len(ids) == 1 or _tokens(ids) <= self._room:
            try:
                return self(ids)
            except torch.OutOfMemoryError:
                if len(ids) == 1:
                    raise
            self._room = _tokens(ids) // 2
            logger.warning(
                "%d texts do not fit into the memory of %s: batches of %d tokens at most from now on",
                len(ids),
                self.device,
                self._room,
            )
            torch.cuda.empty_cache()
        half = len(ids) // 2
        return torch.cat([self.in_memory(ids[:half]), self.in_memory(ids[half:])])


class Workers:
    """The workers that run batches: each of several devices, or each core of a CPU.

    A core with its own batch does not wait for other cores at the end of every operation. If there are too few batches,
    cores share them.

    Several devices hold the same model. The first holds the given model, whose weights a merge may change; the others
    hold copies that follow it.
    """

    def __init__(self, first: ForwardPass, devices: Sequence[str]) -> None:
        """Copy a model to other devices.

        Args:
            first: The model on the first device.
            devices: The others; none for a single device.
        """
        self.first = first
        self._others = [
            ForwardPass(copy.deepcopy(first.model).to(device), device, looks_back=first.looks_back)
            for device in devices
        ]
        self._followed = self._versions()

    @property
    def several(self) -> bool:
        """Whether there are several devices."""
        return bool(self._others)

    def budget(self, tokens: int, most: int) -> int:
        """Return the tokens of a batch, at most ``most``, that give every core a share of few texts of ``tokens``."""
        cores = self._cores()
        return most if cores == 1 else min(most, max(SMALLEST, tokens // (SHARES * cores)))

    def run(self, batches: Iterable[tuple[Key, Ids]]) -> Iterator[tuple[Key, np.ndarray]]:
        """Run batches without gradients.

        Args:
            batches: Token ids and the caller's key of each batch. Read in the caller's thread, some batches ahead.

        Returns:
            The caller's key of each batch and its vectors, ``(n_texts, dim)`` float32, in the order of the batches.
        """
        self._follow()
        batches = iter(batches)
        if self._others:
            return _shared_out(batches, [self.first, *self._others])
        cores = self._cores()
        ahead = list(itertools.islice(batches, BATCHES_EACH * cores)) if cores > 1 else []
        workers = len(ahead) // BATCHES_EACH
        batches = itertools.chain(ahead, batches)
        if workers > 1:
            return _shared_out(batches, [self.first] * workers, cores=torch.get_num_threads() // workers)
        return ((key, _vectors(self.first, ids)) for key, ids in batches)

    def _cores(self) -> int:
        """Number of cores that may have batches of their own."""
        on_cpu = self.first.device.startswith("cpu") and not self._others
        return min(torch.get_num_threads(), MOST_WORKERS) if on_cpu else 1

    def _follow(self) -> None:
        """Copy the first model's weights to the others if a merge has changed them since."""
        if self._followed == (versions := self._versions()):
            return
        with torch.no_grad():
            for other in self._others:
                for mine, its in zip(self.first.model.parameters(), other.model.parameters(), strict=True):
                    its.copy_(mine)
        self._followed = versions

    def _versions(self) -> list[int]:
        return [parameter._version for parameter in self.first.model.parameters()]


def _shared_out(
    batches: Iterable[tuple[Key, Ids]], workers: Sequence[ForwardPass], *, cores: int | None = None
) -> Iterator[tuple[Key, np.ndarray]]:
    """Run batches in threads, each by a free worker with this many cores; yield vectors in the batches' order."""
    free: SimpleQueue[ForwardPass] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def run(ids: Ids) -> np.ndarray:
        worker = free.get()
        try:
            return _vectors(worker, ids)
        finally:
            free.put(worker)

    threads = ThreadPoolExecutor(len(workers))
    try:
        if cores:
            _limit_cores(threads, len(workers), cores)
        running: deque[tuple[Key, Future[np.ndarray]]] = deque()
        for key, ids in batches:
            running.append((key, threads.submit(run, ids)))
            if len(running) > 2 * len(workers):
                done, vectors = running.popleft()
                yield done, vectors.result()
        for done, vectors in running:
            yield done, vectors.result()
    finally:
        threads.shutdown(cancel_futures=True)


def _vectors(worker: ForwardPass, ids: Ids) -> np.ndarray:
    with torch.inference_mode():  # it is set for each thread
        vectors: np.ndarray = worker.in_memory(ids).cpu().numpy()
    return vectors


def _limit_cores(threads: ThreadPoolExecutor, count: int, cores: int) -> None:
    """Let torch use this many cores in each of the threads, and as many as before in all others.

    torch's setting applies to the thread that sets it and to threads that compute for the first time afterwards. It is
    therefore reset at once.
    """
    met = threading.Barrier(count)  # one task for each thread, not two for one

    def limit(_: int) -> None:
        torch.get_num_threads()  # the first call sets a thread's number; later it would undo this
        torch.set_num_threads(cores)
        met.wait()

    with _SETTING_CORES:
        before = torch.get_num_threads()
        try:
            list(threads.map(limit, range(count)))
        except BaseException:
            met.abort()  # interrupted: do not wait for tasks that will not run
            raise
        finally:
            torch.set_num_threads(before)


def _tokens(ids: Ids) -> int:
    return len(ids) * max(map(len, ids))
