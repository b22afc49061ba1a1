"""Signs of significance in a table, and their legend."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison

SMALLEST_P = 1e-300  # smaller floats have few digits or none


def p_shown(p: float) -> str:
    """Return a p-value with two digits, ``<1e-300`` if it is too small for a float."""
    return f"<{SMALLEST_P:g}" if p < SMALLEST_P else f"{p:.2g}"


def letter(position: int) -> str:
    """Return the sign of a baseline: a … z, aa, ab and so on."""
    return (letter(position // 26 - 1) if position >= 26 else "") + string.ascii_lowercase[position % 26]


def letters(comparison: Comparison) -> dict[str, str]:
    """Return the letter of each baseline; one with the same results as an earlier one has its letter."""
    distinct = [name for name in comparison.baselines if comparison.same.get(name) not in comparison.baselines]
    known = {name: letter(position) for position, name in enumerate(distinct)}
    return {name: known[name] if name in known else known[comparison.same[name]] for name in comparison.baselines}


def signs(comparison: Comparison) -> dict[tuple[str, str], list[str]]:
    """Return the signs of each (system, measure): ``a+`` better than baseline a, ``a-`` worse, significantly.

    A system with the same results as another has the other's signs.
    """
    known, found = letters(comparison), dict[tuple[str, str], list[str]]()
    order = {name: position for position, name in enumerate(known)}
    tests = comparison.tests[comparison.tests["significant"].astype(bool)]
    for row in sorted(tests.to_dict("records"), key=lambda row: order[row["baseline"]]):
        sign = "+" if row["direction"] > 0 else "-"
        for name in (row["system"], *(twin for twin, other in comparison.same.items() if other == row["system"])):
            found.setdefault((name, row["measure"]), []).append(f"{known[row['baseline']]}{sign}")
    return found


def best(comparison: Comparison) -> dict[str, float]:
    """Return the highest figure of each measure."""
    return {measure: comparison.table[measure].max() for measure in comparison.measures}


def shown_name(comparison: Comparison, name: str) -> str:
    """Return a system's name, with its letter if it is a baseline, and with the system that it equals."""
    known = letters(comparison)
    own = f"{name} ({known[name]})" if name in known else name
    return f"{own} = {comparison.same[name]}" if name in comparison.same else own


def marked_table(comparison: Comparison, *, bold: tuple[str, str] = ("", "")) -> pd.DataFrame:
    """Return the table as text: figures with four decimals and signs; failed systems with "failed".

    Args:
        comparison: The comparison.
        bold: Text before and after the best figure of each measure.
    """
    marks, top = signs(comparison), best(comparison)
    rows = []
    further = [str(column) for column in comparison.table if column not in ("name", *comparison.measures)]
    for row in comparison.table.to_dict("records"):
        cells = {"system": shown_name(comparison, row["name"])}
        for measure in comparison.measures:
            figure = f"{row[measure]:.4f}"
            if row[measure] == top[measure]:
                figure = f"{bold[0]}{figure}{bold[1]}"
            cells[measure] = " ".join([figure, *marks.get((row["name"], measure), [])])
        for column in further:
            cells[column] = _shown(row[column])
        rows.append(cells)
    columns = ["system", *comparison.measures, *further]
    rows += [{"system": name, comparison.measures[0]: "failed"} for name in comparison.failed]
    return pd.DataFrame(rows, columns=columns).fillna("")


def explained(comparison: Comparison) -> str:
    """Return the text below the table: the legend, and why systems failed."""
    return " ".join([legend(comparison), *reasons(comparison)])


def reasons(comparison: Comparison) -> list[str]:
    """Return why systems failed, one sentence per system. A reason that also stops dependent systems is given once."""
    longest_first = sorted(comparison.failed.values(), key=len, reverse=True)
    said = []
    for name, reason in comparison.failed.items():
        repeated = next((f": {other}" for other in longest_first if reason.endswith(f": {other}")), "")
        said.append(f"{name} failed: {reason.removesuffix(repeated).rstrip('.')}.")
    return said


def legend(comparison: Comparison) -> str:
    """Return the legend of the table's signs and columns, in two or three sentences."""
    said = []
    if len(comparison.tests):
        means = "x+ (x-): significantly better (worse) than system x"
        said.append(f"{means}, {comparison.plan.describe(comparison.tests)}.")
    said.append(
        "Judged@10: share of the first ten results that were judged. labels: judged queries that a system used for "
        "training or choosing (?: not known)."
    )
    if averaged := [f"{name} ({len(runs)})" for name, runs in comparison.runs.items() if len(runs) > 1]:
        said.append(f"Figures are means over trials: {', '.join(averaged)}. Their labels are those of one trial.")
    return " ".join(said)


def _shown(value: float | None) -> str:
    if pd.isna(value):
        return "?"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
