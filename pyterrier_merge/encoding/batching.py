"""Batches by token budget: texts of like length together, as many as fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_ON_CPU, _ELSEWHERE = 2_048, 16_384  # tokens


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield lists of indices so that each batch, padded to its longest text, holds at most ``budget`` tokens.

    The longest come first: a batch that does not fit into memory shows at once, and later ones reuse what it took.

    Args:
        lengths: Tokens of each text.
        budget: Tokens of a batch with its padding; a single longer text is a batch of its own.
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
    """Return the tokens of a batch that a device works well with.

    On a CPU what a layer hands to the next stays in the cache then (see ``experiments/benchmarks/encoding.py``); a GPU
    needs more to be busy.
    """
    return _ON_CPU if device.startswith("cpu") else _ELSEWHERE
