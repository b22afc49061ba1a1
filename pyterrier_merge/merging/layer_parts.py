"""Checks that the model's layers have each part that a recipe gives weights of its own."""

from __future__ import annotations

from difflib import get_close_matches

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.places import LAYER, layer_of
from pyterrier_merge.recipe import MergeRecipe, Segment
from pyterrier_merge.recipe.parts import NEUTRAL_PARTS, belongs_to, pieces


def require_parts(recipe: MergeRecipe, source: Checkpoint) -> None:
    """Raise ``ValueError`` if a part of a segment has no tensor in any of the segment's layers.

    Args:
        recipe: The recipe to merge.
        source: The model that has the layers.
    """
    for segment, layers in zip(recipe.segments, recipe.layer_ranges(source.num_layers), strict=True):
        if segment.parts:
            _require_found(segment, layers, [name for name in source.body if layer_of(name) in layers], source)


def _require_found(segment: Segment, layers: range, names: list[str], source: Checkpoint) -> None:
    taken = {segment.part_of(name) for name in names}
    missing = next((part for part, _ in segment.parts if part not in taken), None)
    if missing is None:
        return
    span = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
    where = f"of segment {segment} ({span} of {source.folder})"
    before = {str(segment.part_of(name)) for name in names if belongs_to(name, missing)}
    if before:
        raise ValueError(
            f"part {missing!r} {where} takes no tensor: its tensors belong to {', '.join(map(repr, sorted(before)))} "
            "before it, and the first part counts; put it first"
        )
    raise ValueError(f"part {missing!r} {where} has no tensor there; {_advice(missing, names)}")


def _advice(part: str, names: list[str]) -> str:
    inner = list(dict.fromkeys(LAYER.sub("", name).rpartition(".")[0] for name in names))
    words = dict.fromkeys([*inner, *(word for name in inner for word in name.split("."))])
    neutral = [name for name in NEUTRAL_PARTS if any(belongs_to(tensor, name) for tensor in names)]
    elsewhere = [name for name in neutral if any(part in piece for piece in pieces(name))]  # in other families
    close = [*elsewhere, *get_close_matches(part, [*neutral, *words], 1)]
    mean = f"did you mean {close[0]!r}? " if close else ""
    words_alone = f"{', '.join(map(repr, neutral))} (not in mergekit's YAML), " if neutral else ""
    return f"{mean}parts there: {words_alone}and every piece of {', '.join(inner)}"
