"""How much of its texts a training reads, where the settings leave that open. Pure functions of numbers."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyterrier_merge.training.settings import CausalTraining, MaskedTraining

logger = logging.getLogger(__name__)

BATCH, WINDOW, STEPS = 32, 64, 800  # four minutes on two cores where texts are short; at most 1.6 million tokens
LONGEST = 512  # tokens of a window that is chosen: what attention costs grows with their square
WHOLE = 0.75  # share of the texts that fit into one window, where the retriever reads so much
PASSES = 10  # repeated text is worth as much as new for four passes, and little after 16 (Muennighoff et al., 2023)
MANY_PASSES, SMALL_SHARE = 20, 0.5  # a warning is due beyond


@dataclass(frozen=True)
class TrainingPlan:
    """What a training reads.

    Attributes:
        texts: Texts of the corpus.
        windows: Windows that they were cut into.
        window: Tokens of a window at most.
        batch_size: Windows of a batch.
        steps: Batches that the whole model learns from.
    """

    texts: int
    windows: int
    window: int
    batch_size: int
    steps: int

    @property
    def epoch_steps(self) -> int:
        """Number of batches in one pass over the windows."""
        return math.ceil(self.windows / self.batch_size)

    @property
    def passes(self) -> float:
        """How often the whole model reads a window, on average."""
        return self.steps / self.epoch_steps

    @property
    def share(self) -> float:
        """Share of the windows, and so of the tokens, that the whole model reads at all."""
        return min(1.0, self.passes)

    def report(self) -> dict[str, Any]:
        """Return what ``training.json`` tells of it."""
        return vars(self) | {"passes": round(self.passes, 2), "share_of_text_read": round(self.share, 4)}

    def log(self) -> None:
        """Say it; as a warning where little of the text is read, or all of it very often."""
        unusual = self.passes > MANY_PASSES or self.share < SMALL_SHARE
        logger.log(
            logging.WARNING if unusual else logging.INFO,
            "%d texts in %d windows of at most %d tokens: %d steps of %d windows are %.1f passes, which read "
            "%.0f %% of the text%s",
            *(self.texts, self.windows, self.window, self.steps, self.batch_size, self.passes, 100 * self.share),
            f": one pass is steps={self.epoch_steps} with batch_size={self.batch_size}" if unusual else "",
        )


def choose_window(lengths: np.ndarray, longest: int) -> int:
    """Return the tokens of a window: three texts of four fit into one, and it has 64 tokens at least and 512 at most.

    Args:
        lengths: Tokens of each text, those around it included.
        longest: Tokens that the retriever reads.
    """
    return min(longest, LONGEST, max(WINDOW, int(np.quantile(lengths, WHOLE, method="inverted_cdf"))))


def choose_batch_size(window: int) -> int:
    """Return the windows of a batch: 32, or of more than 64 tokens so many that the batch has no more tokens."""
    return max(1, min(BATCH, BATCH * WINDOW // window))


def make_plan(settings: MaskedTraining | CausalTraining, *, texts: int, windows: int, window: int) -> TrainingPlan:
    """Complete the settings: by default ten passes, and 800 steps at most.

    Args:
        settings: What is given.
        texts: Texts of the corpus.
        windows: Windows that they were cut into.
        window: Tokens of a window at most.
    """
    batch_size = settings.batch_size or choose_batch_size(window)
    steps = settings.steps or min(STEPS, PASSES * math.ceil(windows / batch_size))
    return TrainingPlan(texts, windows, window, batch_size, steps)
