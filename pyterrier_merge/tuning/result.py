"""The result of a sweep: its table, its choice, and a description with the uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.tuning.points import Value, in_words, points_of
from pyterrier_merge.tuning.rule import Rule
from pyterrier_merge.tuning.screening import Screening
from pyterrier_merge.tuning.uncertainty import Uncertainty

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAME = 1e-12  # smaller differences count as 0
ADAPTIVE = (
    " The same queries proposed these points, so both figures are too favourable: measure the choice on other queries."
)


@dataclass(frozen=True, repr=False)
class Sweep:
    """The result of a sweep. Notebooks show its plot.

    Attributes:
        table: One row per point, in the order of the space: a column for each parameter, the metric's mean, and for two
            queries or more ``chosen`` and ``regret`` (see :class:`~pyterrier_merge.tuning.uncertainty.Uncertainty`).
        per_query: One row per query (index ``qid``), one column per point, in the same order: the metric's values.
        source: The source's value for each query.
        domain: The domain model's value for each query; for several models, that of their equal mixture. None after a
            pool: it is not measured on the whole collection.
        metric: Name of the metric's column.
        on: Description of the queries and documents it was measured on.
        point: The chosen value of each parameter.
        best: A new encoder with the chosen merge.
        certainty: The gain over the source without the winner's curse; None for a single query. If ``adaptive``, it
            is too favourable.
        rule: The rule of the choice.
        screening: The results of all points on a pool, if the table has only the best of them; None without a pool.
        adaptive: Whether the same queries proposed the points of the table: in a search, in finer grids, or on a pool.
    """

    table: pd.DataFrame
    per_query: pd.DataFrame
    source: pd.Series[float]
    domain: pd.Series[float] | None
    metric: str
    on: str
    point: dict[str, Value]
    best: MergedE5Encoder
    certainty: Uncertainty | None
    rule: Rule = "best"
    screening: Screening | None = None
    adaptive: bool = False

    @property
    def alpha_lower(self) -> float | None:
        """The chosen alpha of the lower half of the layers; None in other spaces, see ``point``."""
        return cast("float | None", self.point.get("alpha_lower"))

    @property
    def alpha_upper(self) -> float | None:
        """The chosen alpha of the upper half of the layers; None in other spaces, see ``point``."""
        return cast("float | None", self.point.get("alpha_upper"))

    @property
    def chose_source(self) -> bool:
        """Whether the chosen point keeps all of the source."""
        return self.best.recipe.keeps_source

    @property
    def chosen_row(self) -> int:
        """Position of the chosen point in the table."""
        return points_of(self.table[self.per_query.columns.names]).index(self.point)

    def describe(self) -> str:
        """Return a few sentences: the choice, its data, and its uncertainty."""
        return " ".join(filter(None, (self._chosen(), self._sure(), self._screened())))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the scores, and save the plot if a path is given (``.png``, ``.pdf``, ``.svg``).

        Two alphas give a heat map; for any other space, the plot has the sorted scores, and the alphas of the chosen
        merge over the layers.
        """
        from pyterrier_merge.tuning.heatmap import alpha_heatmap, is_grid
        from pyterrier_merge.tuning.score_plot import score_plot

        if is_grid(self.table[[*self.per_query.columns.names]]):
            pair: Any = tuple(self.point.values())
            return alpha_heatmap(self.table, pair, metric=self.metric, on=self.on, path=path)
        return score_plot(self, path)

    def _chosen(self) -> str:
        chosen, source = float(self.table[self.metric].iloc[self.chosen_row]), float(self.source.mean())
        if len(self.table) > 1 and (self.per_query.sub(self.source, axis=0).abs() < SAME).all(axis=None):
            return f"all merges have the source's {self.metric} for every query ({source:.4f} on {self.on})."
        if self.chose_source and self.rule == "best":
            return f"no merge was better than the source ({self.metric} {source:.4f}) on {self.on}."
        point = in_words(self.point)
        value = f"{self.metric} {chosen:.4f} (source {source:.4f})"
        if self.rule == "one-standard-error":
            return (
                f"{point}, with {value}, is the nearest to the source of the merges within one standard error (of the "
                f"paired difference) of the best, {self.table[self.metric].max():.4f}, on {self.on}."
            )
        if len(self.table) == 1:
            said = f"{point}, the only merge to choose, has {value} on {self.on}."
        else:
            has = f"alphas {point} have" if point[1:2].isdigit() else f"{point} has"
            said = f"{has} the best {self.metric}, {chosen:.4f} (source {source:.4f}), on {self.on}."
        return f"no merge was better than the source: {said}" if chosen < source else said

    def _sure(self) -> str:
        if self.certainty is None:
            return "A single query does not say how sure this is."
        sure = self.certainty
        gained = (
            f"Repeating the choice on resampled queries, the chosen alphas scored {abs(sure.gain):.4f} "
            f"{'above' if sure.gain >= 0 else 'below'} the source on the queries left out ({sure.low:+.4f} to "
            f"{sure.high:+.4f} in 95 % of resamples)"
        )
        if sure.low == sure.high == 0:
            gained = "In at least 95 % of resamples, the choice scored as the source on the queries left out"
        return (
            f"{gained}; that the best of the grid beats the source has p = {sure.p_value:.2g} (one-sided max-T test "
            f"over the grid).{ADAPTIVE if self.adaptive else ''}"
        )

    def _screened(self) -> str:
        return "" if self.screening is None else self.screening.describe()

    def _repr_html_(self) -> str:
        from pyterrier_merge.pictures import as_svg

        return f"<p>{self.describe()}</p>{as_svg(self.plot())}"

    def __repr__(self) -> str:
        return f"<Sweep of {len(self.table)} points: {self.describe()}>"
