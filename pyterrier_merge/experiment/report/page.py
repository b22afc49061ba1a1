"""A comparison as one self-contained HTML page: sortable tables, plots, and single queries."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from markupsafe import Markup

from pyterrier_merge.experiment.report.drill_down import DEPTH, drill_down
from pyterrier_merge.experiment.report.html import BOLD, render, source
from pyterrier_merge.experiment.report.markdown import all_notes, tests_explained, tests_table, trials_table
from pyterrier_merge.experiment.report.marks import legend, letters, marked_table, reasons
from pyterrier_merge.experiment.report.svg import with_own_names

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison

_OF_SYSTEMS = {  # the last word of a plot's name -> its caption
    "sweep": "Scores of the pairs of alphas on the queries that they were chosen on. The frame is the pair that was "
    "chosen",
    "training": "Training: the loss, and the measure on the queries that the number of steps was chosen on",
}
_LATER_TRIAL = re.compile(r"@(?!1-)\d+-")  # many trials would have many plots


class Shown(NamedTuple):
    """A plot on the page."""

    name: str
    id: str
    caption: str
    svg: Markup


def html_page(
    comparison: Comparison,
    *,
    pictures: Mapping[str, str],
    files: Mapping[str, str],
    made_with: Mapping[str, Any],
    spec: Mapping[str, Any] | None = None,
) -> str:
    """Return the page.

    Args:
        comparison: The comparison.
        pictures: SVG elements, by name.
        files: Files and folders next to the page, and the text of the link to each.
        made_with: Versions and hardware.
        spec: The experiment's file in JSON form; None for a comparison without one.
    """
    script = source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    measured = len(comparison.table) > 0
    linked = [name for name in pictures if _LATER_TRIAL.search(name)]
    shown = {name: svg for name, svg in pictures.items() if name not in linked}
    return render(
        "page.html",
        title=comparison.title,
        verdict=comparison.verdict(),
        table=marked_table(comparison, bold=BOLD),
        legend=legend(comparison),
        reasons=reasons(comparison),
        pictures=[_shown(comparison, number, name, svg) for number, (name, svg) in enumerate(shown.items())],
        linked=linked,
        queries=drill_down(comparison) if measured else None,
        num_queries=len(comparison.topics),
        depth=DEPTH,
        trials=trials_table(comparison) if len(comparison.by_trial) else None,
        tests=tests_table(comparison) if len(comparison.tests) else None,
        tests_explained=tests_explained(comparison),
        notes=all_notes(comparison),
        spec=None if spec is None else yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True, width=100),
        made_with=made_with,
        bibtex=source("paper.bib"),
        files=files,
        style=Markup(source("page.css")),  # noqa: S704 (files of this package)
        script=Markup(script),  # noqa: S704
        digest=digest,
    )


def _shown(comparison: Comparison, number: int, name: str, svg: str) -> Shown:
    prefix = f"picture{number}-"
    svg = with_own_names(svg, prefix).replace("<svg", f'<svg role="img" aria-labelledby="{prefix}caption"', 1)
    return Shown(name, f"{prefix}caption", _caption(comparison, name), Markup(svg))  # noqa: S704 (matplotlib escapes)


def _caption(comparison: Comparison, name: str) -> str:
    first = comparison.measures[0]
    if name == "means":
        return "Means over the queries, each with its 95 % confidence interval"
    if name == "cost":
        return f"{first} against the time of a search, on the machine that searched"
    if name == "labels":
        return f"{first} against the number of labelled queries that a system used"
    for baseline, letter in letters(comparison).items():
        if name == f"differences-{letter}":
            return f"{first} of each query minus that of {baseline}: how many queries gain and lose, and how much"
    system, _, kind = name.rpartition("-")
    return f"{system}: {_OF_SYSTEMS[kind]}" if kind in _OF_SYSTEMS else name
