"""The summary of a comparison in two or three plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_merge.experiment.report.marks import p_shown

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison

SHORT_LISTS = 0.05  # share of the queries
FEWER_JUDGED = 0.05  # of the first ten results: with a larger gap in judged ones, unjudged results may decide
NAMED = 5  # maximum number of systems in a sentence


def verdict(comparison: Comparison) -> str:
    """Return which system is best in the first measure, the tests' results, and caveats."""
    measure, table = comparison.measures[0], comparison.table
    if table.empty:
        return "No system could be measured."
    ranked = table[~table["name"].isin(comparison.same)].sort_values(measure, ascending=False, kind="stable")
    best = ranked.iloc[0]
    over = f"{best[measure]:.4f}, over {len(comparison.topics):,} queries"
    tied = ranked.loc[(ranked[measure] - best[measure]).abs() < 1e-12, "name"].tolist()
    if len(tied) > 1:
        said = [f"{_listed(tied)} have the highest {measure}, {over}."]
    else:
        said = [f"{best['name']} has the highest {measure}, {over}."]
    said += _against_baselines(comparison, str(best["name"]), measure)
    said += [_equals(name, other) for name, other in comparison.same.items()]
    said += _cautions(comparison)
    return " ".join(said)


def _against_baselines(comparison: Comparison, best: str, measure: str) -> list[str]:
    tests = comparison.tests.assign(corrected=comparison.plan.corrects(comparison.tests))
    tests = tests[tests["measure"] == measure]
    if comparison.untested and not comparison.baselines:
        return [f"Nothing was tested, because the baseline failed: {_listed(list(comparison.untested))}."]
    if tests.empty:
        return []
    own = tests[(tests["system"] == best) | (tests["baseline"] == best)]
    said = []
    rows = own.to_dict("records")
    better = [_difference(row, best) for row in rows if row["significant"] and _ahead(row, best)]
    worse = [_difference(row, best) for row in rows if row["significant"] and not _ahead(row, best)]
    unsure = [_difference(row, best) for row in rows if not row["significant"]]
    if better:
        said.append(f"{best} is significantly better than {_listed(better)}.")
    if worse:  # ranks may disagree with means
        said.append(f"By the ranks of the differences {best} is significantly worse than {_listed(worse)}.")
    if unsure:
        said.append(f"The difference of {best} from {_listed(unsure)} is not significant.")
    return said


def _difference(row: Mapping[Any, Any], best: str) -> str:
    sign = 1 if row["system"] == best else -1
    other = row["baseline"] if row["system"] == best else row["system"]
    p = p_shown(row["corrected_p"])
    said = f"{'corrected p' if row['corrected'] else 'p'} {p if p[0] == '<' else f'= {p}'}"
    return f"{other} ({sign * row['difference']:+.4f}, {said})"


def _ahead(row: Mapping[Any, Any], best: str) -> bool:
    return bool((row["direction"] > 0) == (row["system"] == best))


def _equals(name: str, other: str) -> str:
    return f"{name} has the same results as {other}."


def _cautions(comparison: Comparison) -> list[str]:
    said = []
    judged = comparison.table.set_index("name").get("Judged@10", pd.Series(dtype=float)).dropna()
    if "Judged@10" in comparison.measures:  # a measure counts queries without results as 0
        judged = judged.drop(list(comparison.unanswered))
    judged = judged.drop([name for name in judged.index if _has_short_lists(comparison.runs[name])])
    if len(judged) > 1 and judged.min() < judged.max() - FEWER_JUDGED:
        said.append(
            f"Between {judged.min():.0%} ({judged.idxmin()}) and {judged.max():.0%} ({judged.idxmax()}) of the first "
            "ten results are judged: unjudged documents count as not relevant, which is unfair to the former."
        )
    if empty := [f"{name} ({count:,} of {len(comparison.topics):,})" for name, count in comparison.unanswered.items()]:
        said.append(f"Queries without any result count as 0: {_listed(empty)}.")
    if comparison.failed:
        said.append(f"Not measured, because they failed: {', '.join(comparison.failed)}.")
    return said


def _listed(parts: list[str]) -> str:
    more = [f"{len(parts) - NAMED} more"] if len(parts) > NAMED else []
    *most, last = [*parts[:NAMED], *more]
    return f"{', '.join(most)} and {last}" if most else last


def _has_short_lists(runs: Sequence[pd.DataFrame]) -> bool:
    """Whether many queries have fewer than ten results: the share of judged ones is then of fewer documents."""
    return any((run.groupby("qid").size() < 10).mean() > SHORT_LISTS for run in runs)
