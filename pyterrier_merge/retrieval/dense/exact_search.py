"""The candidates of an exact search: matrix products in float32, block by block, on the CPU or over several GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from pyterrier_merge.precision import refuse_forked_cuda
from pyterrier_merge.retrieval.dense.vectors import FloatArray, IntArray, StoredVectors

if TYPE_CHECKING:
    import torch

SCORES = 1 << 24  # that are held at once on a device: 64 MB
ROWS = 1 << 16  # documents in a block at most
_PRECISION = Lock()  # the setting is the process's: no search may put it back while another one multiplies


@dataclass(frozen=True)
class Share:
    """The documents of one device: ``rows`` of the index; their vectors too where the device has its own memory."""

    device: str
    rows: range
    loaded: torch.Tensor | None


def device_names(device: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the torch devices that are meant: None is the CPU, ``"cuda"`` all GPUs.

    Raises:
        ValueError: There is no such device here.
        RuntimeError: A GPU is meant, and the process was forked from one that had used it.
    """
    import torch

    given = ("cpu",) if device is None else (device,) if isinstance(device, str) else tuple(device)
    if any(name.startswith("cuda") for name in given):
        refuse_forked_cuda()
    count = torch.cuda.device_count()
    names = tuple(f"cuda:{number}" for number in range(count)) if given == ("cuda",) else given
    for name in names or given:
        try:
            parsed = torch.device(name)
        except RuntimeError as error:
            raise ValueError(
                f"no device is called {name!r}: use 'cpu', 'cuda' (all GPUs), 'cuda:0' or a list"
            ) from error
        if parsed.type == "cuda" and (parsed.index or 0) >= count:
            raise ValueError(f"there is no device {name!r}: torch sees {count} GPUs here; device=None is the CPU")
    if not names:
        raise ValueError("device names no device: use None for the CPU")
    return names


def rough_best(
    vectors: StoredVectors, queries: FloatArray, depth: int, devices: Sequence[str]
) -> tuple[FloatArray, IntArray]:
    """Return the ``depth`` best scores of each query, as a matrix product rounds them, and the documents' places.

    Args:
        vectors: The index.
        queries: ``(n_queries, dim)`` float32.
        depth: Documents a query, at most as many as there are.
        devices: The documents are split over them.

    Returns:
        Two ``(n_queries, depth)`` arrays, best first.
    """
    import torch

    shares = _shares(vectors, tuple(devices))
    with _full_precision(), ThreadPoolExecutor(len(shares)) as pool:
        found = list(pool.map(lambda share: _best_of_share(vectors, share, queries, depth), shares))
    scores, docids = (torch.cat([part.cpu() for part in parts], dim=1) for parts in zip(*found, strict=True))
    best, places = scores.topk(depth, dim=1)
    return best.numpy(), docids.gather(1, places).numpy()


def _shares(vectors: StoredVectors, devices: tuple[str, ...]) -> list[Share]:
    """Split the documents, and load them where that is worth it: once for all searches of the index."""
    import torch

    if devices not in vectors.held:
        bounds = np.linspace(0, vectors.shape[0], len(devices) + 1).astype(int).tolist()
        shares = []
        for device, start, stop in zip(devices, bounds[:-1], bounds[1:], strict=True):
            on_host = torch.device(device).type == "cpu"
            loaded = None if on_host else torch.from_numpy(vectors.matrix[start:stop]).to(device)
            shares.append(Share(device, range(start, stop), loaded))
        vectors.held[devices] = shares
    held: list[Share] = vectors.held[devices]
    return held


def _best_of_share(
    vectors: StoredVectors, share: Share, queries: FloatArray, depth: int
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    asked = torch.from_numpy(np.ascontiguousarray(queries)).to(share.device)
    best = torch.full((len(queries), depth), -torch.inf, device=share.device)
    docids = torch.full((len(queries), depth), -1, device=share.device)
    step = max(1, min(ROWS, SCORES // len(queries)))
    for start in range(share.rows.start, share.rows.stop, step):
        scores = _scores(vectors, share, asked, slice(start, min(start + step, share.rows.stop)))
        if start == share.rows.start:
            top, columns = scores.topk(min(depth, scores.shape[1]), dim=1, sorted=False)
        else:  # few are left that topk would have to sort out
            top, columns = _above(scores, best[:, -1:])
        best, places = torch.cat([best, top], dim=1).topk(depth, dim=1)
        docids = torch.cat([docids, columns + start], dim=1).gather(1, places)
    return best, docids


def _above(scores: torch.Tensor, floor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores above each row's floor, and their columns; shorter rows are filled up with minus infinity."""
    import torch

    rows, columns = (scores > floor).nonzero(as_tuple=True)
    counts = rows.bincount(minlength=len(scores))
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    top = scores.new_full((len(scores), int(counts.max())), -torch.inf)
    top[rows, places] = scores[rows, columns]
    found = columns.new_zeros(top.shape)
    found[rows, places] = columns
    return top, found


def _scores(vectors: StoredVectors, share: Share, queries: torch.Tensor, rows: slice) -> torch.Tensor:
    import torch

    if share.loaded is not None:
        first = share.rows.start
        return queries @ share.loaded[rows.start - first : rows.stop - first].float().T
    block = vectors.rows(rows)
    if len(queries) == 1:  # half the time of a matrix product with one row
        return torch.from_numpy(np.einsum("nd,d->n", block, queries[0].numpy()))[None]
    return queries @ torch.from_numpy(block).T


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep devices from rounding the factors of float32 products (to TF32 or bfloat16), which the margin leaves out."""
    import torch

    with _PRECISION:
        if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
            precision = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(precision)
            return
        # each backend by its name: torch.get_float32_matmul_precision() fails where a user has set one of them
        on_cpu: Any = torch.backends.mkldnn
        backends = (torch.backends.cuda.matmul, on_cpu.matmul)
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, found in zip(backends, before, strict=True):
                backend.fp32_precision = found
