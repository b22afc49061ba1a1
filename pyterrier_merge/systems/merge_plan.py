"""What a sweep would do: the merges that it tries, and the index of the one that is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyterrier_merge.systems.plan import PlanningBench, Step, index_step
from pyterrier_merge.tuning.space import alpha_pairs

if TYPE_CHECKING:
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.recipe import MergeRecipe
    from pyterrier_merge.systems.merged import SweepSection


def sweep_steps(
    bench: PlanningBench,
    section: SweepSection,
    recipe: MergeRecipe,
    encoder: Callable[[PlanningBench, MergeRecipe], E5Encoder],
    settings: Mapping[str, Any],
    there: bool | None,
) -> list[Step]:
    """Return the steps of a sweep.

    Args:
        bench: That the merge is searched on; the sweep may be on another one.
        section: What is tried, and on what.
        recipe: Names the models; its alphas are of no account.
        encoder: Makes the encoder of a merge.
        settings: Of the encoders, on the bench of the sweep.
        there: Whether the domain models exist; None where that is not known.
    """
    chosen_on, pool = bench.on(section.collection), section.pool
    tried = list(dict.fromkeys(recipe.with_alphas(*pair) for pair in (*alpha_pairs(section.grid), (1.0, 1.0))))
    part = chosen_on.if_cheap(lambda: section.searched(chosen_on)) if pool else chosen_on.collection
    kept: Sequence[bool | None] | None = [False] * len(tried) if there is False else None
    if there and part is not None:

        def look() -> list[bool]:
            from pyterrier_merge.tuning.score import ScoringTask, scored

            measure = section.measure(chosen_on)
            return scored(tried, ScoringTask(part, section.split, measure, bench.num_results, settings=settings))

        kept = chosen_on.if_cheap(look, *recipe.models)
    documents = chosen_on.documents
    if pool:
        documents = part.num_docs if part else pool.most(chosen_on, section.split)
    over = f"{chosen_on.collection.name}{f', {section.split}, {pool}' if pool else ''}"
    steps = [
        Step(
            what="merges of the sweep",
            kept=done,
            encoder=encoder(chosen_on, one),
            documents=documents,
            at_most=part is None,
            over=over,
        )
        for one, done in zip(tried, kept or [None] * len(tried), strict=True)
    ]
    if pool is None and chosen_on is bench:  # the sweep leaves the index of the merge that is chosen
        return steps
    index = index_step(bench, encoder(bench, recipe), over="")
    return [*steps, replace(index, kept=False if there is False else None, at_most=True)]  # it may be the source
