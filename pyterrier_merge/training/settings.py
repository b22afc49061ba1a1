"""The settings of a domain model's training. Pure data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_NUMBERS = ("learning_rate", "head_learning_rate", "weight_decay", "mask_probability", "dropout")


@dataclass(frozen=True)
class DomainTraining:
    """How a domain model is trained.

    The defaults are made for four minutes on two cores with short texts, and read at most twice as many tokens of long
    ones; what was tried is in ``experiments/benchmarks/results/domain_training.json``.

    Attributes:
        steps: Optimizer steps of the whole model; when None ten passes over the texts, and 800 steps at most.
        batch_size: Windows of a batch; when None 32, or of more than 64 tokens so many that the batch has no more.
        learning_rate: Peak of the body's steps; it falls linearly to 0.
        warmup_steps: Steps over which the learning rate rises to its peak, of the head's stage and of the body's.
        head_steps: Steps in which the head alone learns before the body moves; none where the base brings its own head.
        head_learning_rate: Peak of those steps.
        weight_decay: AdamW's decay of the matrices; biases and normalisations have none.
        mask_probability: Share of the tokens to predict.
        max_length: Tokens of a window at most, prompt and special tokens counted. When None, what three texts of four
            fit into: at least 64, at most 512 and what the retriever reads.
        packing: ``document``: one text a window, which is what a retrieval model encodes; a longer text is cut into
            several of like length. ``block``: texts joined and cut into windows of ``max_length``.
        dropout: Of the hidden states; attention has none.
        seed: Decides the fresh head, the order, the masks and the dropout.
        dtype: ``float32``, ``bfloat16`` (with float32 master weights), or ``auto``: bfloat16 where the device has
            instructions for it.
    """

    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float = 7e-5
    warmup_steps: int = 20
    head_steps: int = 100
    head_learning_rate: float = 2e-3
    weight_decay: float = 0.01
    mask_probability: float = 0.15
    max_length: int | None = None
    packing: Literal["document", "block"] = "document"
    dropout: float = 0.1
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        """Raise ``ValueError`` where a setting is out of its range."""
        for name in _NUMBERS:  # YAML reads 7e-5 as a string
            try:
                object.__setattr__(self, name, float(getattr(self, name)))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} must be a number, but is {getattr(self, name)!r}") from error
        for expected, valid in {
            "None or a whole number of at least 1": {
                name: getattr(self, name) is None or self._whole(name, 1) for name in ("steps", "batch_size")
            },
            "a whole number of at least 0": {
                name: self._whole(name, 0) for name in ("warmup_steps", "head_steps", "seed")
            },
            "None or a whole number of at least 3": {
                "max_length": self.max_length is None or self._whole("max_length", 3)
            },
            "greater than 0": {
                name: 0 < getattr(self, name) < math.inf for name in ("learning_rate", "head_learning_rate")
            },
            "at least 0": {"weight_decay": 0 <= self.weight_decay < math.inf},
            "between 0 and 1": {"mask_probability": 0 < self.mask_probability < 1},
            "at least 0 and less than 1": {"dropout": 0 <= self.dropout < 1},
            "'document' or 'block'": {"packing": self.packing in ("document", "block")},
            "'auto', 'float32' or 'bfloat16'": {"dtype": self.dtype in ("auto", "float32", "bfloat16")},
        }.items():
            for name in (name for name, holds in valid.items() if not holds):
                raise ValueError(f"{name} must be {expected}, but is {getattr(self, name)!r}")

    def _whole(self, name: str, least: int) -> bool:
        value = getattr(self, name)
        return isinstance(value, int) and not isinstance(value, bool) and value >= least


DEFAULTS = DomainTraining()
