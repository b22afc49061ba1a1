"""Checks that a merge changed the model: as a whole, by every domain model, and in every segment."""

from __future__ import annotations

from collections.abc import Sequence

from pyterrier_merge.merging.blending import TensorMerge
from pyterrier_merge.recipe import MergeRecipe


def require_change(merges: Sequence[TensorMerge], recipe: MergeRecipe) -> None:
    """Raise ``ValueError`` if nothing was merged, or if something that should have changed did not.

    If a domain model has a weight, something should change: in the model as a whole, by each domain model in at least
    one tensor, in each segment's layers as a whole, and in each part of them that has weights of its own. A single
    tensor or layer may stay unchanged, and so may the embeddings, the final norm and a projection head, because they
    are often frozen in training. If all layers are those of domain models (all alphas 0), so may any of them.

    Args:
        merges: What happened to each tensor, including those of all layers.
        recipe: The recipe that was merged.
    """
    layers = [merge.layer for merge in merges if merge.layer is not None]
    if not layers:
        raise ValueError(f"nothing was merged: no tensor of the model lies in a layer ({recipe})")
    asked = [merge for merge in merges if any(_shares(merge))]
    if asked and all(merge.to_source == 0 for merge in asked):
        raise ValueError(
            f"nothing was merged: all {len(asked)} tensors that should take something from a domain model equal the "
            f"source's ({recipe}); is the domain model a copy of the source?"
        )
    for number, name in enumerate(recipe.domains):
        shared = [merge for merge in asked if _shares(merge)[number]]
        if shared and not any(merge.apart[number] for merge in shared):
            raise ValueError(
                f"domain model {name!r} adds nothing: all {len(shared)} tensors in which it has a weight equal the "
                f"source's ({recipe}); is it a copy of the source? Give the intended model, or leave it out"
            )
    if all(merge.weights is not None and merge.weights[0] == 0 for merge in merges if merge.layer is not None):
        return  # it is the domain model, whichever weights were frozen in its training
    for segment, span in zip(recipe.segments, recipe.layer_ranges(1 + max(layers)), strict=True):
        inside = [merge for merge in asked if merge.layer in span]
        for part in (None, *(name for name, _ in segment.parts)):
            concerned = [merge for merge in inside if part in (None, merge.part)]
            if concerned and all(_unmoved(merge, recipe) for merge in concerned):
                what = f"segment {segment}" if part is None else f"part {part!r} of segment {segment}"
                raise ValueError(
                    f"{what} was not merged: in its layers ({span[0]} to {span[-1]}) all {len(concerned)} tensors "
                    f"equal the source's ({recipe}); if the domain model's weights were frozen here in its "
                    f"training, give the {'segment' if part is None else 'part'} alpha 1"
                )


def _shares(merge: TensorMerge) -> list[bool]:
    """For each domain model, whether it has a weight in the tensor; if the method decides, all of them have."""
    return [True] * len(merge.apart) if merge.weights is None else [weight != 0 for weight in merge.weights[1:]]


def _unmoved(merge: TensorMerge, recipe: MergeRecipe) -> bool:
    """Whether nothing came from a domain model, also if the source itself was rounded to a coarser type."""
    if merge.to_source == 0:
        return True
    return recipe.base is None and not any(far for far, share in zip(merge.apart, _shares(merge), strict=True) if share)
