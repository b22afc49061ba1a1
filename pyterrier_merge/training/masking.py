"""Batches of masked tokens. Each is a pure function of seed and number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyterrier_merge.training.batches import WindowBatches

_MASKS = 1  # stream of random numbers; the order of the windows uses another stream of the same seed


@dataclass(frozen=True)
class MaskedBatches:
    """The batches of a masked training, by number.

    Attributes:
        windows: The windows to batch and mask.
        steps: Number of batches.
        mask_probability: Share of the ordinary tokens to predict.
        mask_token: Id of the mask token.
        special_tokens: Ids that are never predicted.
        vocabulary: Number of ids that random replacements are drawn from.
        first: Number of the first batch of the windows.
    """

    windows: WindowBatches
    steps: int
    mask_probability: float
    mask_token: int
    special_tokens: tuple[int, ...]
    vocabulary: int
    first: int = 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Pad and mask the sequences of a batch.

        Of the predicted tokens, 80 % become the mask token, 10 % a random token, and 10 % stay (Devlin et al., 2019).

        Returns:
            ``input_ids`` and ``attention_mask``, ``(batch, length) int64``; ``predicted``, ``(batch, length) bool``,
            the positions to predict, at least one; ``tokens``, ``(n_predicted,) int64``, their ids, row by row.
        """
        number += self.first
        ids, attention = self.windows.padded(number)
        rng = np.random.default_rng([self.windows.seed, _MASKS, number])
        ordinary = attention & ~np.isin(ids, self.special_tokens)
        predicted = ordinary & (rng.random(ids.shape) < self.mask_probability)
        if not predicted.any():
            predicted.flat[rng.choice(np.flatnonzero(ordinary))] = True
        tokens = ids[predicted]
        draw = rng.random(len(tokens))
        replaced = np.where(draw < 0.9, rng.integers(self.vocabulary, size=len(tokens)), tokens)
        ids[predicted] = np.where(draw < 0.8, self.mask_token, replaced)
        arrays = {"input_ids": ids, "attention_mask": attention.astype(np.int64), "predicted": predicted}
        return {name: torch.from_numpy(array) for name, array in (arrays | {"tokens": tokens}).items()}
