"""The rules for choosing one of several merges from the values of queries."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Rule = Literal["best", "one-standard-error"]
RULES: tuple[str, ...] = get_args(Rule)


def choose(values: np.ndarray, kept: np.ndarray, rule: Rule = "best", counts: np.ndarray | None = None) -> int:
    """Return the position of the chosen merge; among equal merges, the one that keeps more of the source.

    ``best`` takes the highest mean. ``one-standard-error`` (after Breiman et al., 1984) takes the merge nearest to the
    source among those whose mean is at most one standard error below the best. It is the standard error of the paired
    difference from the best, query by query, which is much smaller than that of the mean, because queries differ more
    than merges do.

    Args:
        values: ``(queries, merges)``: the measured values.
        kept: The share of the source that each merge keeps, such as the mean alpha over its layers.
        rule: The rule.
        counts: How often each query counts, for a bootstrap sample; once when None.

    """
    weights = np.ones(len(values)) if counts is None else counts
    total = weights.sum()
    means = np.round(weights @ values / total, 12)
    best = _first(means, kept)
    if rule == "best":
        return best
    differences = values - values[:, [best]]
    behind = weights @ differences / total
    variance = np.maximum(weights @ differences**2 / total - behind**2, 0) / max(total - 1, 1)
    near = behind >= -np.sqrt(variance) - 1e-12
    return _first(np.where(near, kept, -np.inf), means)


def require_rule(rule: str) -> None:
    """Raise ``ValueError`` if there is no such rule."""
    if rule not in RULES:
        raise ValueError(f"the rule is {' or '.join(map(repr, RULES))}; found {rule!r}")


def _first(*keys: np.ndarray) -> int:
    """The position of the largest first key; ties go to the largest second key, then to the first position."""
    return int(np.lexsort([-key for key in reversed(keys)])[0])
