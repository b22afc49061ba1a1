"""The comparison of systems over one collection: figures, paired tests, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.experiment.significance import TestPlan
from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyterrier_merge.collections.base import TestCollection

PER_TRIAL = ["name", "trial", "qid", "measure", "value"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """The scores of systems on one split of a collection. Notebooks show it as a table.

    Attributes:
        title: Title of the table.
        measures: Names of the measures, the most important first.
        table: One row per measured system: ``name``, the measures (means over the queries), ``Judged@10`` (share of the
            first ten results that are judged, over the queries with results) and ``labels`` (judged queries that one
            trial used for training or for choosing; missing if unknown, as for transformers and run files).
        per_query: ``name``, ``qid``, ``measure``, ``value``; for a system with several trials, the mean over them.
        tests: Result of :func:`~pyterrier_merge.experiment.significance.paired_tests`; empty without baselines.
        baselines: Names of the systems that the others were tested against.
        plan: The plan of the tests.
        collection: The collection that was searched.
        topics: ``qid`` and ``query`` of the measured topics.
        qrels: ``qid``, ``docno`` and ``label`` of these topics.
        runs: Results of each system, one frame per trial.
        by_trial: ``name``, ``trial`` (from 1), ``label`` and the measures: the means of each trial, for systems with
            several trials.
        per_trial: ``name``, ``trial`` (from 1), ``qid``, ``measure``, ``value`` of these systems.
        lines: System -> its line in the plot of figures against labels.
        same: System -> an earlier system with the same results: both are in the table, and count once in the tests.
        failed: System -> the reason why it is not measured.
        untested: Requested baselines that failed.
        unanswered: System -> number of measured queries without results, if there are any.
        seconds: System -> wall-clock seconds of the search per query, for all queries at once, mean over trials;
            systems without a timed search, such as run files, are missing.
        notes: Notes on the systems and the collection, one sentence each.
    """

    title: str
    measures: tuple[str, ...]
    table: pd.DataFrame
    per_query: pd.DataFrame
    tests: pd.DataFrame
    baselines: tuple[str, ...]
    plan: TestPlan
    collection: TestCollection
    topics: pd.DataFrame
    qrels: pd.DataFrame
    runs: Mapping[str, Sequence[pd.DataFrame]]
    by_trial: pd.DataFrame = field(default_factory=pd.DataFrame)
    per_trial: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PER_TRIAL))
    lines: Mapping[str, str] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    untested: tuple[str, ...] = ()
    unanswered: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def spread(self) -> pd.DataFrame:
        """Standard deviations of the means over trials: ``name`` and the measures, for systems with several trials."""
        columns = ["name", *self.measures]
        if self.by_trial.empty:
            return pd.DataFrame(columns=columns)
        return self.by_trial[columns].groupby("name", sort=False).std().reset_index()

    def marked(self) -> pd.DataFrame:
        """Return the table as text: four decimals, a letter for each baseline, and signs of significance.

        ``0.4375 a+ b+`` is significantly better than baselines a and b, ``b-`` significantly worse than b.
        """
        from pyterrier_merge.experiment.report.marks import marked_table

        return marked_table(self)

    def to_markdown(self) -> str:
        """Return the table in Markdown, best figures in bold, with a legend."""
        from pyterrier_merge.experiment.report.markdown import table_with_legend

        return table_with_legend(self)

    def to_latex(self) -> str:
        """Return the table in LaTeX for the package ``booktabs``, best figures in bold, signs as superscripts."""
        from pyterrier_merge.experiment.report.latex import latex_table

        return latex_table(self)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the mean of each system and measure with its 95 % confidence interval; save it if a path is given."""
        from pyterrier_merge.experiment.report.plots import means_plot

        return means_plot(self, path)

    def verdict(self) -> str:
        """Summarise the figures in two or three sentences."""
        from pyterrier_merge.experiment.report.verdict import verdict

        return verdict(self)

    def by_query(self, measure: str | None = None) -> pd.DataFrame:
        """Return a measure (the first when None): one row per query (index ``qid``), one column per system."""
        values = self.per_query[self.per_query["measure"] == (measure or self.measures[0])]
        return values.pivot(index="qid", columns="name", values="value").loc[
            self.topics["qid"], list(self.table["name"])
        ]

    def differences(self, system: str, baseline: str, *, measure: str | None = None, num: int = 10) -> pd.DataFrame:
        """Return the queries that a system wins and loses most against another.

        Args:
            system: Name of a system.
            baseline: Name of another system.
            measure: Name of a measure; the first when None.
            num: Maximum number of won queries, and of lost queries.

        Returns:
            ``qid``, ``query``, a column for each of the two systems, and ``difference``: the largest gain first, the
            largest loss last. Queries without a difference are left out.

        Raises:
            ValueError: No such system or measure.
        """
        measure = self._known(str(measure or self.measures[0]), self.measures, "measure")
        systems = tuple(self.table["name"])
        pair = [self._known(name, systems, "system") for name in (system, baseline)]
        if system == baseline:
            raise ValueError(f"a system does not differ from itself: expected two names, found {system!r} twice")
        found = self.topics.merge(self.by_query(measure)[pair].reset_index(), on="qid")
        found = found.assign(difference=found[system] - found[baseline])
        found = found[found["difference"].abs() > 1e-12].sort_values("difference", ascending=False, kind="stable")
        wins, losses = found[found["difference"] > 0][:num], found[found["difference"] < 0][-num:]
        return pd.concat([wins, losses], ignore_index=True)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``report.html``, ``report.md``, ``table.tex``, plots, tables as CSV and TREC runs into a folder.

        Args:
            folder: The new folder; it appears only when it is complete.
            overwrite: Replace an existing folder.

        Returns:
            The folder.

        Raises:
            FileExistsError: The folder exists.
            ValueError: A qid or docno cannot be in a TREC run.
        """
        from pyterrier_merge.experiment.report.folder import save_comparison

        return save_comparison(self, user_path(folder), overwrite=overwrite)

    @staticmethod
    def _known(name: str, known: tuple[str, ...], what: str) -> str:
        if name not in known:
            raise ValueError(f"no {what} is named {name!r}; there are {', '.join(known)}")
        return name

    def _repr_html_(self) -> str:
        from pyterrier_merge.experiment.report.html import html_table

        return html_table(self)

    def __repr__(self) -> str:
        return f"{self.title}\n{self.marked().to_string(index=False)}"
