"""Batches for masked-language-model training: each a pure function of seed and step, so any can be drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

POOL = 64  # batches that are sorted by length together: little padding, and still another mixture every epoch
MULTIPLE = 4  # lengths of batches: each further shape costs a CPU's kernels memory that is not given back

_ORDER, _MASKS, _DROPOUT = range(3)  # streams of random numbers that share one seed


class MaskedBatch(NamedTuple):
    """One step's input.

    Attributes:
        input_ids: ``(batch, length) int64``, masked and padded.
        attention_mask: ``(batch, length) int64``, 0 at padding.
        predicted: ``(batch, length) bool``, the positions to predict; at least one.
        labels: ``(n_predicted,) int64``, the tokens that stood there, row by row.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class MaskedCorpus:
    """Token sequences and the way they are shuffled, batched and masked.

    Attributes:
        sequences: Token ids of each sequence, special tokens included, ``int32``.
        batch_size: Sequences of a batch; an epoch's last batch may be smaller.
        mask_probability: Share of the ordinary tokens to predict.
        mask_token: The id of the mask token.
        pad_token: The id of the padding token.
        special_tokens: Ids that are never predicted.
        vocabulary: Number of ids that a random replacement is drawn from.
        seed: Decides every draw.
    """

    sequences: Sequence[np.ndarray]
    batch_size: int
    mask_probability: float
    mask_token: int
    pad_token: int
    special_tokens: tuple[int, ...]
    vocabulary: int
    seed: int

    @property
    def epoch_steps(self) -> int:
        """Number of batches in one pass over the corpus."""
        return -(-len(self.sequences) // self.batch_size)

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return an epoch's batches as indexes of sequences: shuffled, of like length within, each sequence once."""
        rng = np.random.default_rng([self.seed, _ORDER, number])
        order = rng.permutation(len(self.sequences))
        lengths = np.array([len(sequence) for sequence in self.sequences])
        batches: list[np.ndarray] = []
        for start in range(0, len(order), POOL * self.batch_size):
            pool = order[start : start + POOL * self.batch_size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
        return [batches[at] for at in rng.permutation(len(batches))]

    def mask(self, batch: np.ndarray, step: int) -> MaskedBatch:
        """Pad and mask the sequences of a batch.

        Of the predicted tokens 80 % become the mask token, 10 % a random token and 10 % stay (Devlin et al., 2019).
        """
        rng = np.random.default_rng([self.seed, _MASKS, step])
        rows = [self.sequences[index] for index in batch]
        lengths = np.array([len(row) for row in rows])
        attention = np.arange(-(-lengths.max() // MULTIPLE) * MULTIPLE) < lengths[:, None]
        ids = np.full(attention.shape, self.pad_token, dtype=np.int64)
        ids[attention] = np.concatenate(rows)

        ordinary = attention & ~np.isin(ids, self.special_tokens)
        predicted = ordinary & (rng.random(ids.shape) < self.mask_probability)
        if not predicted.any():
            predicted.flat[rng.choice(np.flatnonzero(ordinary))] = True
        labels = ids[predicted]
        draw = rng.random(len(labels))
        replaced = np.where(draw < 0.9, rng.integers(self.vocabulary, size=len(labels)), labels)
        ids[predicted] = np.where(draw < 0.8, self.mask_token, replaced)
        return MaskedBatch(ids, attention.astype(np.int64), predicted, labels)

    def dropout_seed(self, step: int) -> int:
        """Return the seed of a step's dropout."""
        return int(np.random.default_rng([self.seed, _DROPOUT, step]).integers(2**63))
