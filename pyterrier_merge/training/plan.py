"""How much of its texts a training reads: defaults for settings that are left out. Pure functions of numbers."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyterrier_merge.training.settings import CausalTraining, MaskedTraining

logger = logging.getLogger(__name__)

BATCH, WINDOW, STEPS = 32, 64, 800  # four minutes on two cores if texts are short; at most 1.6 million tokens
LONGEST = 512  # maximum tokens of a default window: the cost of attention grows with their square
WHOLE = 0.75  # share of the texts that fit into one default window, if the retriever reads that many tokens
PASSES = 10  # repeated text is worth as much as new for four passes, and little after 16 (Muennighoff et al., 2023)
MANY_PASSES, SMALL_SHARE = 20, 0.5  # limits for a warning


@dataclass(frozen=True)
class TrainingPlan:
    """The amount of text that a training reads.

    Attributes:
        texts: Number of texts in the corpus.
        windows: Number of windows that they were cut into.
        window: Maximum tokens of a window.
        batch_size: Windows per batch.
        steps: Number of batches that the whole model is trained on.
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
        """How often the whole model reads each window, on average."""
        return self.steps / self.epoch_steps

    @property
    def share(self) -> float:
        """Share of the windows, and so of the tokens, that the whole model reads at least once."""
        return min(1.0, self.passes)

    def report(self) -> dict[str, Any]:
        """Return the plan's fields of ``training.json``."""
        return vars(self) | {"passes": round(self.passes, 2), "share_of_text_read": round(self.share, 4)}

    def log(self) -> None:
        """Log the plan; as a warning if little of the text is read, or all of it very often."""
        unusual = self.passes > MANY_PASSES or self.share < SMALL_SHARE
        logger.log(
            logging.WARNING if unusual else logging.INFO,
            "%d texts in %d windows of at most %d tokens: %d steps of %d windows are %.1f passes, which read "
            "%.0f %% of the text%s",
            *(self.texts, self.windows, self.window, self.steps, self.batch_size, self.passes, 100 * self.share),
            f": one pass is steps={self.epoch_steps} with batch_size={self.batch_size}" if unusual else "",
        )


def choose_window(lengths: np.ndarray, longest: int) -> int:
    """Return the tokens of a default window: three of four texts fit into one; at least 64, at most 512 tokens.

    Args:
        lengths: Tokens of each text, including those around it.
        longest: Maximum tokens that the retriever reads; an upper limit too.
    """
    return min(longest, LONGEST, max(WINDOW, int(np.quantile(lengths, WHOLE, method="inverted_cdf"))))


def choose_batch_size(window: int) -> int:
    """Return the windows per batch: 32, or fewer for windows above 64 tokens, so that a batch has no more tokens."""
    return max(1, min(BATCH, BATCH * WINDOW // window))


def make_plan(settings: MaskedTraining | CausalTraining, *, texts: int, windows: int, window: int) -> TrainingPlan:
    """Complete the settings: by default ten passes, but at most 800 steps.

    Args:
        settings: The given settings.
        texts: Number of texts in the corpus.
        windows: Number of windows that they were cut into.
        window: Maximum tokens of a window.
    """
    batch_size = settings.batch_size or choose_batch_size(window)
    steps = settings.steps or min(STEPS, PASSES * math.ceil(windows / batch_size))
    return TrainingPlan(texts, windows, window, batch_size, steps)
