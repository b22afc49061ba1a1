"""From a recipe to mergekit's YAML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from pyterrier_merge.mergekit_yaml.filters import NORM_FILTERS, takes_final_norm
from pyterrier_merge.mergekit_yaml.layout import weight_name
from pyterrier_merge.methods import MergeMethod, get_method
from pyterrier_merge.models import PACKAGE_SCHEME
from pyterrier_merge.recipe import MergeRecipe, Segment
from pyterrier_merge.recipe.parts import NEUTRAL_PARTS, pieces

_Places = list[tuple[tuple[str, ...], Segment]]  # filters, and the segment for the tensors that they match


def recipe_yaml(recipe: MergeRecipe, num_layers: int) -> str:
    """Return a recipe as YAML that ``mergekit-yaml`` runs, to the same weights in the layers.

    Comments at the top list mergekit's differences. The filter ``embed`` selects embeddings; the final norm is selected
    by its names in the families of Llama, Mistral, Qwen and Gemma, in ModernBERT and in GPT-2.

    Args:
        recipe: The recipe. Its ``head`` and ``seed`` have no field in mergekit's files.
        num_layers: Number of layers of the source model.

    Raises:
        ValueError: The segments do not fit the number of layers, a model has two roles, or parts of layers keep the
            source's weights under a method that takes no weights.
    """
    method = get_method(recipe.method)
    if not method.weighted and any(segment.parts for segment in recipe.segments):
        raise ValueError(f"mergekit's {method.name} takes no weights, so parts of layers cannot differ: {recipe!r}")
    for name in recipe.models:
        if recipe.models.count(name) > 1:
            raise ValueError(f"mergekit takes each model once; the recipe names {name!r} more than once: {recipe!r}")
    content: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.base or method.base != "optional":  # also if it is not a base: mergekit takes the configuration from it
        content["base_model"] = _reference(recipe.base or recipe.source)
    content["slices"] = list(_slices(recipe, method, num_layers))
    shared = {name: value for name, value in recipe.parameters if not isinstance(value, tuple)}
    if shared:
        content["parameters"] = shared
    content.update(tokenizer_source=_reference(recipe.source), dtype="float32")
    comments = "".join(f"# {line}\n" for line in _comments(recipe, method))
    return comments + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def neat(weight: float) -> float:
    """Return the shortest decimal near a number that was subtracted from 1: 0.1, not 0.09999999999999998."""
    candidates = (round(weight, digits) for digits in range(18))
    return next((value for value in candidates if abs(value - weight) <= 2**-53), weight)


def _reference(name: str) -> str | dict[str, Any]:
    """A model's name; separate fields for a folder whose path contains mergekit's signs for adapters or revisions."""
    return {"model": {"path": name}} if {"+", "@"} & {*name} and Path(name).exists() else name


def _slices(recipe: MergeRecipe, method: MergeMethod, num_layers: int) -> Iterator[dict[str, Any]]:
    start = 0
    for segment, layers in groupby(recipe.layer_segments(num_layers)):
        end = start + len(list(layers))
        places: _Places = [*((pieces(name), part) for name, part in segment.parts), ((), segment.rest)]
        norm = recipe.final_norm or segment.rest
        if end == num_layers and (norm != segment.rest or any(takes_final_norm(name) for name, _ in segment.parts)):
            places.insert(0, (NORM_FILTERS, norm))
        if start == 0 and not (recipe.embeddings.keeps_source and segment.keeps_source):
            places.insert(0, (("embed",), recipe.embeddings))
        yield _slice(recipe, method, places, [start, end])
        start = end


def _slice(recipe: MergeRecipe, method: MergeMethod, places: _Places, layers: list[int]) -> dict[str, Any]:
    _, segment = places[-1]
    alone = not method.weighted and segment.keeps_source  # there is no weight to set
    sources = [
        {"model": _reference(name), "layer_range": list(layers), **_own_parameters(recipe, method, name, places)}
        for name in (recipe.models[:1] if alone else recipe.models)
    ]
    if method.name == "slerp":
        t = _setting([(filters, _share(_weights(recipe, one))) for filters, one in places])
        return {"sources": sources, "parameters": {weight_name(method): t}}
    return {"sources": sources}


def _own_parameters(recipe: MergeRecipe, method: MergeMethod, name: str, places: _Places) -> dict[str, Any]:
    """The parameters of one model in a slice: its weight, and those that differ from model to model."""
    from_source = recipe.base is None and method.base == "required"
    differing = [*recipe.domains] if from_source else [recipe.source, *recipe.domains]
    if method.name == "slerp" or name not in differing:
        return {}
    own = {}
    if method.weighted:
        index = recipe.models.index(name)
        own[weight_name(method)] = _setting([(filters, _weights(recipe, one)[index]) for filters, one in places])
    own.update({key: value[differing.index(name)] for key, value in recipe.parameters if isinstance(value, tuple)})
    return {"parameters": own} if own else {}


def _weights(recipe: MergeRecipe, segment: Segment) -> list[float]:
    weights = segment.weights(len(recipe.domains)) or ()
    if segment.alpha is None or segment.domain_weights is not None:
        return [*weights]
    return [segment.alpha, *([_left(segment.alpha)] if len(weights) == 2 else map(neat, weights[1:]))]


def _left(alpha: float) -> float:
    """``1 - alpha`` for a single domain model: the shortest decimal that gives alpha again when it is read."""
    left = 1 - alpha
    candidates = (neat(left), left, math.nextafter(left, 0), math.nextafter(left, 1))
    return next((value for value in candidates if neat(1 - value) == alpha), left)


def _share(weights: list[float]) -> float:
    """The second of two weights if both add up to 1."""
    total = math.fsum(weights)
    return weights[1] if math.isclose(total, 1, rel_tol=1e-12) else weights[1] / total


def _setting(values: Sequence[tuple[tuple[str, ...], float]]) -> Any:
    """A number, or one for each filter and one for the rest."""
    conditions = [{"filter": name, "value": value} for filters, value in values for name in filters]
    _, rest = values[-1]
    return [*conditions, {"value": rest}] if conditions else rest


def _comments(recipe: MergeRecipe, method: MergeMethod) -> Iterator[str]:
    yield f"A merge recipe of pyterrier_merge, for mergekit-yaml. The retrieval model is {recipe.source!r}."
    yield "mergekit-yaml merges whole checkpoints, and differs in this:"
    yield "- Where the checkpoints' classes name tensors differently (MistralModel, MistralForCausalLM), it returns"
    yield "  one of them unchanged, without an error."
    yield "- A language-model head is merged as the last layers are; pyterrier_merge leaves it out."
    places = (
        *(one for segment in recipe.segments for one in segment.each),
        recipe.embeddings,
        recipe.final_norm or recipe.segments[-1].rest,
    )
    if any(name in NEUTRAL_PARTS for segment in recipe.segments for name, _ in segment.parts):
        yield "- It has no word for attention or feed-forward network: the filters are what these are called in many"
        yield "  families, and those that a model has not do nothing."
    if not method.weighted:
        yield f"- {recipe.method} takes no weights: embeddings are merged as the first layers are, the final norm as"
        yield "  the last. Layers that keep the source's weights name the source alone, which not every method accepts."
    elif (recipe.base or method.base == "optional") and any(segment.keeps_source for segment in places):
        yield f"- {recipe.method} also computes what keeps the source's weights here (embeddings, too): equal, but not"
        yield "  to the bit; and not equal where differences are thinned out (density) or scaled (lambda)."
    if method.random:
        yield f"- It draws other random numbers than pyterrier_merge does with seed {recipe.seed}."
    if not recipe.head.keeps_source:
        yield f"- It knows no projection head; the recipe's has the weights {recipe.head}."
    if any(name.startswith((PACKAGE_SCHEME, "~")) for name in recipe.models):
        yield f"- It knows no names that begin with {PACKAGE_SCHEME!r} or '~': write folders in their place."
