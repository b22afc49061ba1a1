"""Choosing a merge without labels: several kinds of known items must agree that it beats the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pyterrier_merge.tuning import rule

LEVEL = 0.95  # confidence level of the lower bounds, for all merges at once
ROOM = 0.85  # items on which the source scores more leave no room for a gain
FEWEST = 100  # minimum number of items of a kind
KINDS = 2  # number of kinds that must agree
FLIPS = 2_000
ROUNDING = 1e-12  # smaller differences count as 0


@dataclass(frozen=True)
class UnlabelledChoice:
    """The evidence of known items about merges, and the merge that they choose.

    Attributes:
        chosen: Name of the merge; None for the source.
        why: Sentences that state the choice and its evidence.
        merges: One row per merge (index: its name). The mean difference from the source on each kind that is used
            (column: the kind); ``gain``, the mean over kinds as a share of the possible gain over the source, and
            ``low``, its lower bound; ``agreed``, whether the bound and the difference on each kind are above 0.
        kinds: One row per kind (index: its name): ``queries`` and ``source`` (its mean), both missing for kinds that
            were left out, ``used`` (whether the kind is used), and ``why`` if it is not.
        labels: Number of judgements used: 0.
    """

    chosen: str | None
    why: str
    merges: pd.DataFrame
    kinds: pd.DataFrame
    labels: int = 0


def choose(
    values: Mapping[str, pd.DataFrame],
    source: Mapping[str, pd.Series[float]],
    lexical: Mapping[str, float] | None = None,
    left_out: Mapping[str, str] | None = None,
    *,
    kept: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
) -> UnlabelledChoice:
    """Choose a merge that beats the source on every kind of known items, or the source.

    A kind is used if it has at least 100 items, the source scores at most .85 on them, and BM25 does not score more
    than the source: items on which BM25 is better test word matching, and merges that weigh words more would gain only
    on such items. At least two kinds must be used. On each, a difference from the source counts as a share of the
    possible gain (1 minus the source's mean), and the gain is the mean over kinds. A merge is accepted if its mean
    difference is above 0 on each kind, and the lower bound of its gain is above 0 too: a one-sided 95 % bound that
    holds for all merges at once (max-T, by random sign flips of documents). Among the accepted merges, the rule takes
    the one with the largest gain, or one that is nearer to the source and at most one standard error (of their
    difference) worse.

    Args:
        values: For each kind, one row per query (the same qid is the same document), one column per merge, with values
            in [0, 1]; the same columns for all kinds.
        source: For each kind the source's value for each of these queries.
        lexical: For each kind BM25's mean; kinds without one are not compared.
        left_out: Kinds that were not measured, with the reason.
        kept: The share of the source that each merge keeps, in the order of the columns: the mean alpha over the
            layers. When None, earlier columns keep more.
        seed: Random seed of the sign flips.

    Raises:
        ValueError: The kinds have different merges, ``kept`` does not have a share for each, or there is neither a
            kind nor a reason.
    """
    if not values and not left_out:
        raise ValueError("there is nothing to choose on: no kind of known items was measured")
    names = _merges(values)
    kept = -np.arange(len(names)) if kept is None else np.asarray(kept, dtype=float)
    if len(kept) != len(names):
        raise ValueError(f"there are {len(names)} merges, and {len(kept)} shares of the source")
    kinds = _use_of_kinds(values, source, lexical or {}, left_out or {})
    used = list(kinds.index[kinds["used"]])
    merges = pd.DataFrame(index=pd.Index(names, name="merge")).assign(gain=0.0, low=0.0, agreed=False)
    if len(used) < KINDS:
        said = f"the source is kept: {KINDS} kinds of known items must agree, and fewer can be used"
        return UnlabelledChoice(None, f"{said}.{_unused_kinds(kinds)}", merges, kinds)
    differences = {kind: values[kind].sub(source[kind], axis=0).set_axis(names, axis=1) for kind in used}
    merges = merges.assign(**{kind: found.mean() for kind, found in differences.items()})
    gains = documents_shares(differences, source)
    merges["gain"], merges["low"] = gains.mean(axis=0), lower_bounds(gains, seed=seed)
    merges["agreed"] = (merges[["low", *used]] > 0).all(axis=1)
    if not merges["agreed"].any():
        nearest = int(np.argmax(np.where(gains.any(axis=0), merges["low"], -np.inf)))  # the source is not a merge
        said = f"the source is kept: no merge surely beats it on all kinds; the nearest, {names[nearest]}"
        return UnlabelledChoice(None, f"{said}: {_evidence(merges.iloc[nearest], kinds)}", merges, kinds)
    agreed = np.flatnonzero(merges["agreed"])
    best = int(agreed[rule.choose(gains[:, agreed], kept[agreed])])
    row = int(agreed[rule.choose(gains[:, agreed], kept[agreed], "one-standard-error")])
    nearer = "" if row == best else f" (nearer to the source than {names[best]}, and not worse by a standard error)"
    said = f"{names[row]} beats the source{nearer}: {_evidence(merges.iloc[row], kinds)}"
    return UnlabelledChoice(names[row], said, merges, kinds)


def documents_shares(differences: Mapping[str, pd.DataFrame], source: Mapping[str, pd.Series[float]]) -> np.ndarray:
    """Return each document's contribution to the mean over kinds of the mean share of the possible gain.

    Returns:
        ``(documents, merges)``, in the order of their qids. The mean over documents is that mean. A document without an
        item of some kind contributes that kind's mean, which adds neither weight nor variance.
    """
    kinds = {kind: found / (1 - source[kind].mean()) for kind, found in differences.items()}
    qids = sorted(set().union(*(found.index for found in kinds.values())))
    filled = np.zeros((len(qids), next(iter(kinds.values())).shape[1]))
    for found in kinds.values():
        mean = found.mean()
        weight = len(qids) / len(found)  # each kind's mean is over its own items
        filled += mean.to_numpy() + weight * (found - mean).reindex(qids).fillna(0.0).to_numpy(dtype=float)
    shares = filled / len(kinds)
    return np.where(np.abs(shares) < ROUNDING, 0, shares)


def lower_bounds(gains: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return the lower bound of each column's mean: all hold at once in 95 % of samples (max-T, random sign flips).

    Args:
        gains: ``(documents, merges)``.
        seed: Random seed of the signs.
    """
    means = gains.mean(axis=0)
    errors = gains.std(axis=0, ddof=1) / np.sqrt(len(gains))
    varied = errors > ROUNDING
    if not varied.any():
        return np.asarray(means)
    centred = (gains - means)[:, varied] / (len(gains) * errors[varied])
    signs = 2.0 * np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(gains))) - 1
    critical = np.quantile((signs @ centred).max(axis=1), LEVEL)
    return np.asarray(means - critical * errors)


def _merges(values: Mapping[str, pd.DataFrame]) -> list[str]:
    columns = [[str(name) for name in frame.columns] for frame in values.values()]
    if any(names != columns[0] for names in columns):
        raise ValueError(f"each kind of known items needs the same merges in the same order, found {columns}")
    return columns[0] if columns else []


def why_unused(queries: int, source: float, lexical: float) -> str:
    """Return why known items of a kind are not used; an empty string if they are used.

    Args:
        queries: The number of items.
        source: The source's mean on them.
        lexical: BM25's mean on them.
    """
    if queries < FEWEST:
        return f"{queries} items are too few, {FEWEST} are needed"
    if source > ROOM:
        return f"the source scores {source:.4f} on {queries} items, above {ROOM}, which leaves no room for a gain"
    if lexical > source:
        return (
            f"BM25 scores {lexical:.4f} on {queries} items, the source {source:.4f}: "
            "they test word matching more than meaning"
        )
    return ""


def _use_of_kinds(
    values: Mapping[str, pd.DataFrame],
    source: Mapping[str, pd.Series[float]],
    lexical: Mapping[str, float],
    left_out: Mapping[str, str],
) -> pd.DataFrame:
    """Return one row per kind: its items, the source's mean, whether it is used, and why not."""
    rows: list[tuple[str, int | None, float, str]] = []
    for kind, frame in values.items():
        own = float(source[kind].mean())
        rows.append((kind, len(frame), own, why_unused(len(frame), own, lexical.get(kind, 0.0))))
    rows += [(kind, None, float("nan"), why) for kind, why in left_out.items()]
    kinds = pd.DataFrame(rows, columns=["kind", "queries", "source", "why"]).set_index("kind")
    kinds = kinds.astype({"queries": "Int64"})
    kinds.insert(2, "used", kinds["why"] == "")
    return kinds


def _evidence(merge: pd.Series[float], kinds: pd.DataFrame) -> str:
    """Describe a merge's gain, and its difference from the source on each kind that is used."""
    told = [
        f"{kind} {merge[str(kind)]:+.4f} (source {row['source']:.4f}, {row['queries']} items)"
        for kind, row in kinds[kinds["used"]].iterrows()
    ]
    share = f"{merge['gain']:+.1%} of what the source leaves to gain, at least {merge['low']:+.1%}"
    return f"{', '.join(told)}; together {share}.{_unused_kinds(kinds)}"


def _unused_kinds(kinds: pd.DataFrame) -> str:
    return "".join(f" Not used: {kind}: {why.rstrip('.')}." for kind, why in kinds["why"].items() if why)
