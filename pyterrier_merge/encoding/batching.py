"""Batches by token budget: texts of similar length together, as many as fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_ON_CPU, _ELSEWHERE = 2_048, 16_384  # tokens


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield lists of indices so that each batch, padded to its longest text, holds at most ``budget`` tokens.

    The longest come first: a batch that does not fit into memory fails at once, and later ones reuse the memory.

    Args:
        lengths: Tokens of each text.
        budget: Tokens of a batch including padding; a single longer text is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batch: list[int] = []
    for index in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def suitable_budget(device: str) -> int:
    """Return a good number of tokens per batch for a device.

    On a CPU the states between layers then stay in the cache (see ``experiments/benchmarks/encoding.py``); a GPU needs
    larger batches to be busy.
    """
    return _ON_CPU if device.startswith("cpu") else _ELSEWHERE
