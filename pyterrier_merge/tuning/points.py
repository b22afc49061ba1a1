"""Points of a space: a value for each parameter of a merge, as text and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

Value = float | str
Point = Mapping[str, Value]


def in_words(point: Point) -> str:
    """Return a point as text: ``(0.5, 1)``, or with names if it has more than alphas of segments."""
    written = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in point.items()}
    if all(name.startswith(("alpha_", "layer_", "knot_")) for name in written):
        return f"({', '.join(written.values())})"
    return f"({', '.join(f'{name} {value}' for name, value in written.items())})"


def points_of(table: pd.DataFrame) -> list[dict[str, Value]]:
    """Return the rows of a table of points as points, without settings that a method does not have."""
    rows = table.to_dict("records")
    return [{str(name): value for name, value in row.items() if not pd.isna(value)} for row in rows]
