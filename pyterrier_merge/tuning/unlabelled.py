"""The choice of a merge without a label: several kinds of known items must agree that it beats the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEVEL = 0.95  # of the lower bounds, for all merges of a kind at once
ROOM = 0.85  # a source that scores more on items has nothing left to learn from them
FEWEST = 100  # items of a kind
KINDS = 2  # that must agree
FLIPS = 2_000
ROUNDING = 1e-12  # differences below it are none


@dataclass(frozen=True)
class UnlabelledChoice:
    """What known items say of merges, and the merge that they choose.

    Attributes:
        chosen: Name of the merge; None for the source.
        why: What was chosen, on what evidence, in sentences.
        merges: One row a merge (index: its name): for each kind that was heard ``KIND gain``, the mean difference from
            the source, and ``KIND low``, its lower bound; then ``agreed``, whether all of these bounds are above 0,
            and ``share``, the mean share of what the source leaves to gain.
        kinds: One row a kind (index: its name): ``queries``, ``source`` (its mean), ``heard``, and ``why`` it was not.
        labels: Judgements that were used: 0.
    """

    chosen: str | None
    why: str
    merges: pd.DataFrame
    kinds: pd.DataFrame
    labels: int = 0


def choose(
    values: Mapping[str, pd.DataFrame],
    source: Mapping[str, pd.Series[float]],
    left_out: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
) -> UnlabelledChoice:
    """Choose a merge that beats the source on every kind of known items, or the source.

    A merge is believed if, on each kind that is heard, the lower bound of its mean difference from the source is above
    0: a one-sided 95 % bound that holds for all merges at once (max-T, by random sign flips). A kind is not heard if it
    has fewer than 100 items, or if the source scores above .85 on it. Two kinds must be heard. Of the merges that are
    believed, the one with the largest gain counts, as a share of what the source leaves to gain, averaged over kinds;
    then the merge nearest to the source that is not worse than that by more than one standard error, on any kind.

    Args:
        values: For each kind one row a query, one column a merge, with values in [0, 1]; the same columns, those
            nearest to the source first.
        source: For each kind the source's value for each of these queries.
        left_out: Kinds that were not measured, with the reason.
        seed: Of the sign flips.

    Raises:
        ValueError: The kinds have different merges, or there is neither a kind nor a reason.
    """
    if not values and not left_out:
        raise ValueError("there is nothing to choose on: no kind of known items was measured")
    names = _merges(values)
    kinds = _heard(values, source, left_out or {})
    heard = [kind for kind in kinds.index if kinds.at[kind, "heard"]]
    differences = {kind: _differences(values[kind], source[kind]) for kind in heard}
    columns: dict[str, np.ndarray] = {}
    for kind in heard:
        columns[f"{kind} gain"] = differences[kind].mean(axis=0)
        columns[f"{kind} low"] = lower_bounds(differences[kind], seed=seed)
    merges = pd.DataFrame(columns, index=pd.Index(names, name="merge"))
    lows = [merges[f"{kind} low"] for kind in heard]
    merges["agreed"] = np.all([low > 0 for low in lows], axis=0) if len(heard) >= KINDS else False
    shares = [merges[f"{kind} gain"] / (1 - source[kind].mean()) for kind in heard]
    merges["share"] = np.mean(shares, axis=0) if heard else 0.0
    if not merges["agreed"].any():
        return UnlabelledChoice(None, _source_why(merges, kinds), merges, kinds)
    best = int(np.argmax(merges["share"].where(merges["agreed"], -np.inf)))
    row = next(row for row in range(len(names)) if merges["agreed"].iloc[row] and _close(differences, row, best))
    return UnlabelledChoice(names[row], _merge_why(merges.iloc[row], kinds, names[best]), merges, kinds)


def lower_bounds(differences: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return the lower bound of each column's mean: all hold at once in 95 % of samples (max-T, random sign flips).

    Args:
        differences: ``(queries, merges)``.
        seed: Of the signs.
    """
    queries = len(differences)
    means = differences.mean(axis=0)
    errors = differences.std(axis=0, ddof=1) / np.sqrt(queries)
    varied = errors > 0
    if not varied.any():
        return means
    centred = (differences - means)[:, varied] / (queries * errors[varied])
    signs = 2.0 * np.random.default_rng(seed).integers(0, 2, size=(FLIPS, queries)) - 1
    critical = np.quantile((signs @ centred).max(axis=1), LEVEL)
    return np.asarray(means - critical * errors)


def _merges(values: Mapping[str, pd.DataFrame]) -> list[str]:
    columns = [[str(name) for name in frame.columns] for frame in values.values()]
    if any(names != columns[0] for names in columns):
        raise ValueError(f"each kind of known items needs the same merges in the same order, found {columns}")
    return columns[0] if columns else []


def _heard(
    values: Mapping[str, pd.DataFrame], source: Mapping[str, pd.Series[float]], left_out: Mapping[str, str]
) -> pd.DataFrame:
    """Return a row a kind: its items, the source's mean, whether it is heard and why not."""
    rows: list[tuple[str, int, float, str]] = []
    for kind, frame in values.items():
        own = float(source[kind].mean())
        why = ""
        if len(frame) < FEWEST:
            why = f"{len(frame)} items are too few, {FEWEST} are needed"
        elif own > ROOM:
            why = f"the source scores {own:.4f} on them, above {ROOM}, and leaves no room for a gain"
        rows.append((kind, len(frame), own, why))
    rows += [(kind, 0, float("nan"), why) for kind, why in left_out.items()]
    kinds = pd.DataFrame(rows, columns=["kind", "queries", "source", "why"]).set_index("kind")
    kinds.insert(2, "heard", kinds["why"] == "")
    return kinds


def _differences(values: pd.DataFrame, source: pd.Series[float]) -> np.ndarray:
    found = values.sub(source, axis=0).to_numpy(dtype=float)
    return np.where(np.abs(found) < ROUNDING, 0, found)


def _close(differences: Mapping[str, np.ndarray], row: int, best: int) -> bool:
    """Whether a merge is, on no kind, worse than the best by more than one standard error."""
    for found in differences.values():
        lost = found[:, best] - found[:, row]
        if lost.mean() > lost.std(ddof=1) / np.sqrt(len(lost)):
            return False
    return True


def _source_why(merges: pd.DataFrame, kinds: pd.DataFrame) -> str:
    heard = kinds.index[kinds["heard"]]
    unheard = _unheard(kinds)
    if len(heard) < KINDS:
        return f"the source is kept: {KINDS} kinds of known items must agree, {len(heard)} can be used.{unheard}"
    nearest = int(np.argmax(merges[[f"{kind} low" for kind in heard]].min(axis=1)))
    best, said = merges.index[nearest], _evidence(merges.iloc[nearest], kinds)
    return f"the source is kept: no merge beats it on every kind of known items; the nearest, {best}: {said}.{unheard}"


def _merge_why(merge: pd.Series[float], kinds: pd.DataFrame, best: str) -> str:
    nearest = "" if merge.name == best else f", nearer to the source than {best} and not worse by a standard error"
    said = _evidence(merge, kinds)
    return f"{merge.name} beats the source on every kind of known items{nearest}: {said}.{_unheard(kinds)}"


def _evidence(merge: pd.Series[float], kinds: pd.DataFrame) -> str:
    """Tell a merge's gain on each kind that is heard."""
    told = []
    for kind, row in kinds[kinds["heard"]].iterrows():
        gain, low = merge[f"{kind} gain"], merge[f"{kind} low"]
        told.append(f"{kind} {gain:+.4f} (at least {low:+.4f}; source {row['source']:.4f}, {row['queries']} items)")
    return ", ".join(told)


def _unheard(kinds: pd.DataFrame) -> str:
    return "".join(f" Not used: {kind}: {why}." for kind, why in kinds["why"].items() if why)
