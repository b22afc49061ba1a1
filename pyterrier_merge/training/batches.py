"""Batches of windows, by number. Each is a pure function of seed and number, so that any batch can be recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

POOL = 64  # batches sorted by length together: little padding, but new combinations in every epoch
MULTIPLE = 4  # batch lengths are multiples of it: each new shape costs CPU kernels memory that is never freed


@dataclass(frozen=True, eq=False)
class WindowBatches:
    """Token sequences, and how they are shuffled and batched.

    Attributes:
        sequences: Token ids of each sequence, including special tokens, ``int32``.
        batch_size: Sequences per batch; the last batch of an epoch may be smaller.
        pad_token: Id of the padding token.
        seed: Random seed of the order.
    """

    sequences: Sequence[np.ndarray]
    batch_size: int
    pad_token: int
    seed: int

    @property
    def epoch_steps(self) -> int:
        """Number of batches in one pass over the corpus."""
        return -(-len(self.sequences) // self.batch_size)

    @lru_cache(maxsize=2)  # noqa: B019 (two epochs, and the object lives only as long as a training)
    def epoch(self, number: int) -> list[np.ndarray]:
        """Return an epoch's batches as indexes of sequences, each once: shuffled, with similar lengths in a batch."""
        rng = np.random.default_rng([self.seed, 0, number])
        order = rng.permutation(len(self.sequences))
        lengths = np.array([len(sequence) for sequence in self.sequences])
        batches: list[np.ndarray] = []
        for start in range(0, len(order), POOL * self.batch_size):
            pool = order[start : start + POOL * self.batch_size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
        return [batches[at] for at in rng.permutation(len(batches))]

    def padded(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch by its number, counted over all epochs.

        Returns:
            Token ids, ``(batch, length) int64``, and ``(batch, length) bool``: False at padding.
        """
        epoch, place = divmod(number, self.epoch_steps)
        rows = [self.sequences[index] for index in self.epoch(epoch)[place]]
        lengths = np.array([len(row) for row in rows])
        attention = np.arange(-(-lengths.max() // MULTIPLE) * MULTIPLE) < lengths[:, None]
        ids = np.full(attention.shape, self.pad_token, dtype=np.int64)
        ids[attention] = np.concatenate(rows)
        return ids, attention
