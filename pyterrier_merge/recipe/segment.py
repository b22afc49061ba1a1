"""A segment: neighbouring layers that share their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pyterrier_merge.recipe.parts import NEUTRAL_PARTS, belongs_to


@dataclass(frozen=True, repr=False)
class Segment:
    """A run of neighbouring layers that share their weights.

    Attributes:
        alpha: Weight of the source (retrieval) model, in [0, 1]; the domain models share ``1 - alpha`` equally. A
            segment of alpha 1 equals the source bit for bit with every method. None is for methods that take no
            weights.
        size: Share of the layers, relative to the other segments' sizes: ``(1, 1)`` are halves, ``(16, 16)`` as well.
        domain_weights: A weight for each domain model instead; alpha may then be any number.
        parts: Separate weights for parts of each layer: part -> alpha (or a segment, for ``domain_weights``). A
            part is ``attention`` or ``feed_forward``, in every family of models, or a piece of the tensors' names, such
            as ``q_proj``. A tensor takes the weights of the first part that it belongs to, and the segment's own if
            it belongs to none. Kept as pairs.
    """

    alpha: float | None
    size: int = 1
    domain_weights: tuple[float, ...] | None = None
    parts: tuple[tuple[str, Segment], ...] = ()

    def __post_init__(self) -> None:
        if self.domain_weights is not None:
            alpha, *others = map(_check_weight, (self.alpha, *self.domain_weights))
            object.__setattr__(self, "alpha", alpha)
            object.__setattr__(self, "domain_weights", tuple(others))
        elif self.alpha is not None:
            object.__setattr__(self, "alpha", check_alpha("alpha", self.alpha))
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"a segment's size is a whole number of at least 1, found {self.size!r}")
        object.__setattr__(self, "parts", _checked_parts(self.parts))

    @property
    def keeps_source(self) -> bool:
        """Whether the source's weights stay as they are, in all parts."""
        own = self.alpha == 1 and not any(self.domain_weights or ())
        return own and all(part.keeps_source for _, part in self.parts)

    @property
    def rest(self) -> Segment:
        """The segment without its parts: its own weights, of size 1."""
        return replace(self, size=1, parts=())

    @property
    def each(self) -> tuple[Segment, ...]:
        """The weights of each part, and the segment's own."""
        return (*(part for _, part in self.parts), self.rest)

    def part_of(self, name: str) -> str | None:
        """Return the part that a layer's tensor of this canonical name belongs to; None if it belongs to none."""
        return next((part for part, _ in self.parts if belongs_to(name, part)), None)

    def of(self, part: str | None) -> Segment:
        """Return the weights of a part; the segment's own for None."""
        return self.rest if part is None else dict(self.parts)[part]

    def weights(self, num_domains: int) -> tuple[float, ...] | None:
        """Return the weights of the source and of each domain model; None if the method decides."""
        if self.alpha is None:
            return None
        shared = (1 - self.alpha) / num_domains
        return (self.alpha, *(self.domain_weights if self.domain_weights is not None else [shared] * num_domains))

    def __repr__(self) -> str:
        return concise(self)

    def __str__(self) -> str:
        weights = (self.alpha, *(self.domain_weights or ()))
        own = ":".join("-" if weight is None else f"{weight:g}" for weight in weights)
        return f"{own} ({', '.join(f'{name} {part}' for name, part in self.parts)})" if self.parts else own


def _checked_parts(parts: Any) -> tuple[tuple[str, Segment], ...]:
    try:
        pairs = [(name, value) for name, value in (parts.items() if isinstance(parts, Mapping) else parts)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"a segment's parts are a mapping such as {{'attention': 0.5}}; found {parts!r}") from error
    checked: dict[str, Segment] = {}
    for name, value in pairs:
        if not isinstance(name, str) or name in ("", "*"):
            raise ValueError(
                f"a part is {', '.join(map(repr, NEUTRAL_PARTS))}, or a piece of tensors' names; found {name!r} (what "
                "belongs to no part takes the segment's own alpha)"
            )
        if name in checked:
            raise ValueError(f"part {name!r} is given twice")
        checked[name] = _part(name, value)
    if checked.keys() <= NEUTRAL_PARTS.keys():  # they have no tensor in common, so their order does not matter
        return tuple(sorted(checked.items()))
    return tuple(checked.items())


def _part(name: str, value: Any) -> Segment:
    if not isinstance(value, Segment):
        return Segment(None if value is None else check_alpha(f"the alpha of part {name!r}", value))
    if value != value.rest:
        raise ValueError(f"part {name!r} has its segment's size and cannot have parts; found {value!r}")
    return value


def check_alpha(name: str, alpha: Any) -> float:
    """Return ``alpha`` as a float; raise ``ValueError`` unless it is a number within [0, 1]."""
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
    """The value as a float; NaN if it is not a number."""
    try:
        return math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, OverflowError):
        return math.nan


def concise(value: Any) -> str:
    """A dataclass's ``repr`` without the fields that have their default."""
    named = ((field.name, getattr(value, field.name), field.default) for field in fields(value))
    given = ", ".join(f"{name}={content!r}" for name, content, default in named if content != default)
    return f"{type(value).__name__}({given})"


KEPT = Segment(1)  # the source's own weights
