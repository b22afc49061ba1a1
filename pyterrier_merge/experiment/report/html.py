"""A comparison's table in HTML, for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pyterrier_merge.experiment.report.marks import legend, marked_table

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison

_OPEN, _CLOSE = "\x02", "\x03"  # cannot stand in a figure; replaced when all else is escaped


def html_table(comparison: Comparison) -> str:
    """Return the verdict, the table (best figures in bold) and what its signs mean."""
    table = marked_table(comparison, bold=(_OPEN, _CLOSE))
    text = table.to_html(index=False, border=0, justify="left")
    text = text.replace(_OPEN, "<b>").replace(_CLOSE, "</b>")
    for cell in ("th", "td"):  # Jupyter puts cells to the right, where the signs would move the figures
        text = text.replace(f"<{cell}>", f'<{cell} style="text-align: left">')
    return (
        f"<p><b>{escape(comparison.title)}</b><br>{escape(comparison.verdict())}</p>{text}"
        f"<p><small>{escape(legend(comparison))}</small></p>"
    )
