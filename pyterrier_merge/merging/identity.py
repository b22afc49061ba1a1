"""The fingerprint of a merge: everything that decides the merged weights, and nothing else."""

from __future__ import annotations

from typing import Any

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.methods import get_method
from pyterrier_merge.models import count_layers, fingerprint_model, locate_model, transformer_folder
from pyterrier_merge.recipe import MergeRecipe, Segment
from pyterrier_merge.recipe.parts import pieces


def merge_fingerprint(recipe: MergeRecipe) -> str:
    """Return 16 hexadecimal digits that change when the merged weights change; models count by content, not name.

    A recipe that takes nothing from a domain model has the fingerprint of its source. Explicit defaults and other
    segments with the same weights for each layer make no difference. Weights in another scale, the source named as its
    own base, and parts of layers under another name count as another merge, even if the result is the same.

    Locates the models, and downloads them if they are on the hub.

    Raises:
        ValueError: The segments do not fit the source's layers, or a model's files cannot be read.
        FileNotFoundError: A model is missing.
    """
    folder = locate_model(recipe.source)
    source = fingerprint_model(folder)
    if recipe.keeps_source:
        return source
    layers = recipe.layer_segments(count_layers(transformer_folder(folder)))
    content: dict[str, Any] = {
        "layers": [_weights(recipe, segment) for segment in layers],
        "embeddings": [_weights(recipe, recipe.embeddings)],
        "final_norm": [_weights(recipe, recipe.final_norm or layers[-1].rest)],
        "head": [_weights(recipe, recipe.head)],
        "source": source,
        "domains": [fingerprint_model(locate_model(name)) for name in recipe.domains],
        "base": None if recipe.base is None else fingerprint_model(locate_model(recipe.base)),
        "method": recipe.method,
        "parameters": _chosen_parameters(recipe),
    }
    if recipe.method != "linear" and get_method(recipe.method).random:
        content["seed"] = recipe.seed
    return fingerprint(content)


def _weights(recipe: MergeRecipe, segment: Segment) -> Any:
    """The weights of a segment and of its parts; None instead of a list if it keeps the source's weights."""
    own = None if segment.rest.keeps_source else [segment.weights(len(recipe.domains))]
    parts = [(pieces(name), _weights(recipe, part)) for name, part in segment.parts]
    return {"own": own, "parts": parts} if parts else own


def _chosen_parameters(recipe: MergeRecipe) -> list[tuple[str, Any]]:
    """The parameters that differ from the method's defaults; one value where all models have the same."""
    chosen = []
    for name, value in recipe.parameters:
        alike = isinstance(value, tuple) and len(set(value)) == 1
        value = value[0] if alike else value
        if value != get_method(recipe.method).parameters[name]:
            chosen.append((name, value))
    return chosen
