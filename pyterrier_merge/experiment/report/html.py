"""Jinja2 templates of this package, and a comparison's table for notebooks."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pyterrier_merge.experiment.report.marks import explained, marked_table

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from pyterrier_merge.experiment.comparison import Comparison

BOLD = ("\x02", "\x03")  # around a figure of a table; replaced after everything else is escaped


def html_table(comparison: Comparison) -> str:
    """Return the verdict, the table (best figures in bold) and its legend."""
    return render(
        "notebook.html",
        title=comparison.title,
        verdict=comparison.verdict(),
        table=marked_table(comparison, bold=BOLD),
        explained=explained(comparison),
    )


def render(template: str, **values: Any) -> str:
    """Return a template of the folder ``templates`` filled with escaped values."""
    return _templates().get_template(template).render(**values)


def source(name: str) -> str:
    """Return a file of the folder ``templates`` unchanged."""
    return files("pyterrier_merge.experiment.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pyterrier_merge.experiment.report", "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    made.filters["bold"] = _bold
    return made


def _bold(cell: object) -> Markup:
    from markupsafe import Markup, escape

    opened, closed = BOLD
    return Markup(escape(cell).replace(opened, Markup("<b>")).replace(closed, Markup("</b>")))  # noqa: S704 (escaped)
