"""The recipes that a sweep tries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyterrier_merge.recipe import check_alpha

PAPER_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
Grid = Sequence[float] | Sequence[tuple[float, float]]


def alpha_pairs(grid: Grid) -> tuple[tuple[float, float], ...]:
    """Return the (alpha_lower, alpha_upper) pairs of a grid, without repeats, in order.

    Args:
        grid: Either the values of each axis, of which every pair is taken, or the pairs themselves.

    Raises:
        ValueError: The grid is empty, mixes both forms, or holds a number outside [0, 1].
    """
    points: list[Any] = list(grid)
    if not points:
        raise ValueError("the grid of alphas is empty")
    in_pairs = [isinstance(point, (tuple, list)) and len(point) == 2 for point in points]
    if any(in_pairs) and not all(in_pairs):
        raise ValueError(f"a grid holds numbers, or pairs (alpha_lower, alpha_upper), not both; found {points!r}")
    pairs = points if all(in_pairs) else [(lower, upper) for lower in points for upper in points]
    checked = [(check_alpha("alpha_lower", lower), check_alpha("alpha_upper", upper)) for lower, upper in pairs]
    return tuple(dict.fromkeys(checked))
