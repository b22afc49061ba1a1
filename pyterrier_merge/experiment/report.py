"""Tables of a run: the figures of each system, marked where they differ significantly from a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, product
from string import ascii_lowercase

import pandas as pd


def marked_table(results: pd.DataFrame, comparisons: pd.DataFrame, baselines: Sequence[str]) -> pd.DataFrame:
    """Write each figure with four decimals and the marks of the baselines that it differs from significantly.

    ``0.4375 a+ b+`` is significantly better than baselines a and b, ``b-`` significantly worse than b.

    Args:
        results: A column ``name`` and one column a measure, in [0, 1].
        comparisons: What :func:`pyterrier_merge.experiment.significance.compare` returned.
        baselines: Names, lettered in this order: a to z, then aa, ab …
    """
    letters = dict(zip(baselines, _letters(), strict=False))
    significant = comparisons[comparisons["significant"]]
    in_order = significant.sort_values("baseline", key=lambda names: names.map(list(letters).index), kind="stable")
    found: dict[tuple[str, str], list[str]] = {}
    for row in in_order.to_dict("records"):
        sign = "+" if row["difference"] > 0 else "-"
        found.setdefault((row["system"], row["measure"]), []).append(f"{letters[row['baseline']]}{sign}")
    table = pd.DataFrame(
        {"system": [f"{name} ({letters[name]})" if name in letters else name for name in results["name"]]}
    )
    for measure in (column for column in results.columns if column != "name"):
        table[measure] = [
            " ".join([f"{value:.4f}", *found.get((name, measure), [])])
            for name, value in zip(results["name"], results[measure], strict=True)
        ]
    return table


def markdown(
    title: str, table: pd.DataFrame, comparisons: pd.DataFrame, notes: Sequence[str], *, correction: str, level: float
) -> str:
    """Return the report of a run as one Markdown page: figures, what the marks mean, all tests, how it was done."""
    tests = comparisons.copy()
    for column in ("difference", "low", "high"):
        tests[column] = tests[column].map("{:+.4f}".format)
    tests["effect_size"] = tests["effect_size"].map("{:+.3f}".format)
    for column in ("p_value", "corrected_p"):
        tests[column] = tests[column].map("{:.2g}".format)
    return "\n".join(
        [
            f"# {title}",
            "",
            _pipe_table(table),
            "",
            f"{marks(comparisons, correction, level)}.",
            "",
            "## Tests",
            "",
            _pipe_table(tests),
            "",
            "## How it was done",
            "",
            *(f"- {note}" for note in notes),
            "",
        ]
    )


def marks(comparisons: pd.DataFrame, correction: str, level: float) -> str:
    """Say what the marks of a table mean, in one line."""
    how = "uncorrected" if correction == "none" else f"{correction}-corrected over {len(comparisons)} comparisons"
    return f"x+, x-: better, worse than (x) in a two-sided paired t-test over the queries, {how}, p < {level:g}"


def _letters() -> Iterator[str]:
    for length in count(1):
        yield from map("".join, product(ascii_lowercase, repeat=length))


def _pipe_table(table: pd.DataFrame) -> str:
    text: str = table.to_markdown(index=False, disable_numparse=True)
    return text
