"""What makes two merges one: all that decides the merged weights, and nothing else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.methods import get_method
from pyterrier_merge.models import count_layers, fingerprint_model, locate_model, transformer_folder
from pyterrier_merge.recipe.parts import pieces
from pyterrier_merge.recipe.segment import Segment

if TYPE_CHECKING:
    from pyterrier_merge.recipe.merge_recipe import MergeRecipe


def merge_fingerprint(recipe: MergeRecipe) -> str:
    """Return sixteen hexadecimal digits, see :attr:`MergeRecipe.fingerprint`."""
    folder = locate_model(recipe.source)
    source = fingerprint_model(folder)
    if recipe.keeps_source:
        return source
    layers = recipe.layer_segments(count_layers(transformer_folder(folder)))
    places = {
        "layers": layers,
        "embeddings": [recipe.embeddings],
        "final_norm": [recipe.final_norm or layers[-1].rest],
        "head": [recipe.head],
    }
    base = None if recipe.base is None else fingerprint_model(locate_model(recipe.base))
    if base == source and _takes_source_for_base(recipe):
        base = None
    content: dict[str, Any] = {
        place: [_decisive(recipe, segment, base) for segment in segments] for place, segments in places.items()
    }
    content.update(
        source=source,
        domains=[fingerprint_model(locate_model(name)) for name in recipe.domains],
        base=base,
        method=recipe.method,
        parameters=_chosen_parameters(recipe),
    )
    if recipe.method != "linear" and get_method(recipe.method).random:
        content["seed"] = recipe.seed
    return fingerprint(content)


def _normalises(recipe: MergeRecipe) -> bool:
    """Whether weights are divided by their sum, in the end and nowhere else."""
    return recipe.method == "linear" and dict(recipe.parameters).get("normalize", True)


def _takes_source_for_base(recipe: MergeRecipe) -> bool:
    """Whether the source as base is the same, to the bit, as none: its own difference, 0, must count nowhere."""
    chosen = dict(_chosen_parameters(recipe))
    alone = not any(isinstance(value, tuple) for value in chosen.values())
    method = get_method(recipe.method)
    takes = method.base == "required" and method.weighted and not method.random
    return takes and alone and not chosen.get("normalize", method.parameters.get("normalize"))


def _decisive(recipe: MergeRecipe, segment: Segment, base: str | None) -> Any:
    """What decides a segment's weights: those of its last parts do not where they are the segment's own."""
    own = None if segment.rest.keeps_source else [_decisive_weights(recipe, segment, base)]
    parts = [(pieces(name), _decisive(recipe, part, base)) for name, part in segment.parts]
    while parts and parts[-1][1] == own:
        parts.pop()
    return {"own": own, "parts": parts} if parts else own


def _decisive_weights(recipe: MergeRecipe, segment: Segment, base: str | None) -> tuple[float, ...] | None:
    """Weights of the same merge, to the bit: where their sum is divided by, it is within [1, 2) (or (-2, -1])."""
    weights = segment.weights(len(recipe.domains))
    if weights is None:
        return None
    if _normalises(recipe):
        _, exponent = math.frexp(sum(weights))
        return tuple(math.ldexp(weight, 1 - exponent) for weight in weights)
    if recipe.method in ("linear", "slerp") or base is not None or get_method(recipe.method).base != "required":
        return weights
    return tuple(float(np.float32(weight)) for weight in weights[1:])  # as mergekit takes them, and none for a base


def _chosen_parameters(recipe: MergeRecipe) -> list[tuple[str, Any]]:
    """The parameters that are not the method's defaults, written in one way."""
    chosen = []
    for name, value in recipe.parameters:
        alike = isinstance(value, tuple) and len(set(value)) == 1
        value = value[0] if alike else value  # one for all models
        if value != get_method(recipe.method).parameters[name]:
            chosen.append((name, value))
    return chosen
