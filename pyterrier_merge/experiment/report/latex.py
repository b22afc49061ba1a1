"""A comparison's table in LaTeX."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pyterrier_merge.experiment.report.marks import best, explained, marked_table, signs

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison

_ESCAPED = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def latex_table(comparison: Comparison) -> str:
    """Return a ``tabular`` for the package ``booktabs``: best figures in bold, signs as superscripts."""
    table, marks, top = marked_table(comparison), signs(comparison), best(comparison)
    rows = []
    for place, row in enumerate(table.to_dict("records")):
        cells = [_first(_escaped(row["system"]))]
        measured = comparison.table.iloc[place] if place < len(comparison.table) else None
        for column in table.columns[1:]:
            if measured is None or column not in comparison.measures:
                cells.append(_escaped(str(row[column])))
                continue
            figure = f"{measured[column]:.4f}"
            figure = f"\\textbf{{{figure}}}" if measured[column] == top[column] else figure
            own = ",".join(marks.get((measured["name"], column), []))
            cells.append(f"{figure}$^{{{own}}}$" if own else figure)
        rows.append(" & ".join(cells) + r" \\")
    head = " & ".join(_escaped(str(column)) for column in table.columns) + r" \\"
    columns = "l" + "r" * (len(table.columns) - 1)
    lines = [
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    said = [f"% {line}" for line in textwrap.wrap(explained(comparison), 100)]
    return "\n".join([*said, *lines]) + "\n"


def _first(cell: str) -> str:
    """The first cell of a row, which must not look like an argument of the command before it."""
    return f"{{}}{cell}" if cell.lstrip().startswith(("[", "*")) else cell


def _escaped(text: str) -> str:
    return text.translate(_ESCAPED)
