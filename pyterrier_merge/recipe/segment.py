"""A segment: neighbouring layers that share their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, repr=False)
class Segment:
    """A run of neighbouring layers that share their weights.

    Attributes:
        alpha: Weight of the source (retrieval) model, in [0, 1]; the domain models share ``1 - alpha`` equally. A
            segment of alpha 1 is the source's own, to the bit, whatever the method. None goes with methods that take
            no weights.
        size: Share of the layers, relative to the other segments' sizes: ``(1, 1)`` are halves, ``(16, 16)`` as well.
        domain_weights: A weight for each domain model instead; then alpha is any number too.
    """

    alpha: float | None
    size: int = 1
    domain_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.domain_weights is not None:
            alpha, *others = map(_check_weight, (self.alpha, *self.domain_weights))
            object.__setattr__(self, "alpha", alpha)
            object.__setattr__(self, "domain_weights", tuple(others))
        elif self.alpha is not None:
            object.__setattr__(self, "alpha", check_alpha("alpha", self.alpha))
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"a segment's size is a whole number of at least 1, found {self.size!r}")

    @property
    def keeps_source(self) -> bool:
        """Whether the source's weights stay as they are."""
        return self.alpha == 1 and not any(self.domain_weights or ())

    def weights(self, num_domains: int) -> tuple[float, ...] | None:
        """Return the weights of the source and of each domain model; None where the method decides."""
        if self.alpha is None:
            return None
        shared = (1 - self.alpha) / num_domains
        return (self.alpha, *(self.domain_weights if self.domain_weights is not None else [shared] * num_domains))

    def __repr__(self) -> str:
        return concise(self)

    def __str__(self) -> str:
        weights = (self.alpha, *(self.domain_weights or ()))
        return ":".join("-" if weight is None else f"{weight:g}" for weight in weights)


def check_alpha(name: str, alpha: Any) -> float:
    """Return ``alpha`` as a float; ``ValueError`` where it is not a number within [0, 1]."""
    value = _number(alpha)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is the weight of the source model, a number within [0, 1]; found {alpha!r}")
    return value


def _check_weight(weight: Any) -> float:
    value = _number(weight)
    if not math.isfinite(value):
        raise ValueError(f"a weight is a finite number; found {weight!r}")
    return value


def _number(value: Any) -> float:
    """NaN where it is none."""
    try:
        return math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, OverflowError):
        return math.nan


def concise(value: Any) -> str:
    """What a dataclass prints, without the fields that have their default."""
    named = ((field.name, getattr(value, field.name), field.default) for field in fields(value))
    given = ", ".join(f"{name}={content!r}" for name, content, default in named if content != default)
    return f"{type(value).__name__}({given})"


KEPT = Segment(1)  # the source's own weights
