"""Names and values of a space's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyterrier_merge.recipe import check_alpha
from pyterrier_merge.tuning.points import Value


def numbered(name: str, number: int) -> tuple[str, ...]:
    """Return ``name_1``, ``name_2`` … for so many parameters."""
    return tuple(f"{name}_{place}" for place in range(1, number + 1))


def alphas_of(name: str, values: Iterable[Any]) -> tuple[float, ...]:
    """Return each value of an alpha or a share once.

    Raises:
        ValueError: There is none, or one is not a number from 0 to 1.
    """
    checked = tuple(dict.fromkeys(check_alpha(name, value) for value in values))
    if not checked:
        raise ValueError(f"no values of {name!r} are given")
    return checked


def distinct(values: Sequence[Value], defaults: Sequence[Any]) -> tuple[Value, ...]:
    """Return each value once; whole numbers as floats if a method takes floats, so that they are a range."""
    continuous = any(isinstance(default, float) for default in defaults)
    return tuple(dict.fromkeys(float(value) if continuous and type(value) is int else value for value in values))


def by_name(names: tuple[str, ...], values: Sequence[Any]) -> dict[str, Any]:
    """Return a point that is given as a sequence as a mapping; ``ValueError`` if it has another length."""
    if len(values) != len(names):
        raise ValueError(f"a point has {len(names)} numbers ({', '.join(names)}); found {values!r}")
    return dict(zip(names, values, strict=True))


def require_whole(what: str, number: Any, least: int) -> None:
    """Raise ``ValueError`` unless a number of parameters is whole and at least ``least``."""
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"expected at least {least} {what}, a whole number; found {number!r}")
