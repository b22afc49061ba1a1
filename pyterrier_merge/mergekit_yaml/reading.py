"""From mergekit's YAML to a recipe."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pyterrier_merge.mergekit_yaml.filters import (
    EMBEDDINGS,
    FINAL_NORM,
    LAYERS,
    TENSORS,
    in_one_order,
    named_parts,
    part_filters,
    part_place,
    weighs_embeddings,
)
from pyterrier_merge.mergekit_yaml.layout import MergeFile, Slice, weight_name
from pyterrier_merge.mergekit_yaml.settings import is_gradient
from pyterrier_merge.mergekit_yaml.writing import neat
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.places import is_final_norm, layer_of
from pyterrier_merge.methods import divides_by_sum
from pyterrier_merge.models import PACKAGE_SCHEME, count_layers, locate_model, transformer_folder
from pyterrier_merge.recipe import MergeRecipe, Segment
from pyterrier_merge.storage import user_path

logger = logging.getLogger(__name__)

_SETTINGS = ("embeddings", "final_norm", "head", "seed")  # a recipe's settings without a field in mergekit's files


def read_recipe(path: str | Path, *, source: str | None = None, **settings: Any) -> MergeRecipe:
    """Read a merge from a mergekit YAML file.

    Weights have mergekit's meaning, including filters, gradients and the order of precedence of model, slice and file.
    Weights that mergekit divides by their sum are divided on reading, so that 3 and 1 become alpha 0.75. A gradient
    becomes one segment per layer, and a filter such as ``self_attn`` a part of layers. The final norm has the weights
    that mergekit gives it: the last slice's, at the start of its gradient. Unlike in mergekit, two things are always
    the source's own: the tokenizer, and the embeddings unless a filter such as ``embed``, or ``settings``, sets them.

    Args:
        path: The file.
        source: The retrieval model, one of the file's models. If None, it is the base model of a file with two models,
            otherwise the first model of the first slice; the base model counts with methods that use it.
        settings: ``embeddings``, ``final_norm``, ``head`` and ``seed`` of :class:`MergeRecipe`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is not YAML, or a recipe cannot express the merge; the message names the place. Not supported:
            frankenmerges (layers left out, repeated or moved), other parameters for parts of layers, a tokenizer that
            is neither the source's nor the base's, and the modules of multimodal models. Whether slices cover all
            layers of the source is checked if its files are on this disk.
    """
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no merge file {path}")
    unknown = sorted(set(settings) - set(_SETTINGS))
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is the file's to say; read_recipe takes {', '.join(_SETTINGS)} besides source"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    try:
        return _Reading(MergeFile(content), source).recipe(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class _Reading:
    """A file's merge as a recipe: the role of each model, and the weights of each segment."""

    def __init__(self, file: MergeFile, source: str | None) -> None:
        self._file = file
        self._method = file.method
        self._slerp = file.method.name == "slerp"  # its base is an input like the other one; t counts from it
        self._base = None if file.method.base == "none" else file.base
        self.source = self._choose_source(source)
        self._from_source = self.source == self._base
        self.base = None if self._from_source or self._slerp else self._base
        self.domains = tuple(name for name in file.models if name not in (self.source, self.base))
        self._differing = self.domains if self._from_source and not self._slerp else (self.source, *self.domains)
        self._check_models()

    def recipe(self, settings: Mapping[str, Any]) -> MergeRecipe:
        segments = [segment for part in self._file.slices for segment in self._segments(part)]
        unit = math.gcd(*(segment.size for segment in segments))
        places: dict[str, Any] = {}
        if self._method.weighted:
            first, last = self._file.slices[0], self._file.slices[-1]
            norm = self._segment(last, FINAL_NORM, 0)
            as_last_layer = norm == segments[-1].rest
            places["final_norm"] = None if as_last_layer or self._lacks_final_norm else norm
            if any(weighs_embeddings(setting, where) for where, setting in self._weights(first)):
                places["embeddings"] = self._segment(first, EMBEDDINGS, 0)
        if self.base is not None and any(one.keeps_source for segment in segments for one in segment.each):
            logger.warning(
                "layers with weight 1 for %s and 0 for the others are its own in a recipe; mergekit computes them "
                "from %s, too: other weights where differences are thinned out (density) or scaled (lambda)",
                self.source,
                self.base,
            )
        return MergeRecipe(
            self.source,
            self.domains,
            tuple(replace(segment, size=segment.size // unit) for segment in segments),
            method=self._method.name,
            parameters=self._parameters,  # type: ignore[arg-type]  # a mapping becomes pairs
            base=self.base,
            **{**places, **settings},
        )

    def _choose_source(self, wanted: str | None) -> str:
        models = self._file.models
        if wanted is not None:
            if str(wanted).rstrip("/") not in models:
                raise ValueError(f"source={str(wanted)!r} is not one of the file's models: {', '.join(models)}")
            return str(wanted).rstrip("/")
        return self._base if self._base in models and len(models) == 2 else models[0]

    def _check_models(self) -> None:
        method, base, models = self._method, self._base, self._file.models
        if method.base == "required" and base is None:
            raise ValueError(f"base_model is missing: {method.name} needs one")
        if self._from_source and method.base == "optional":
            raise ValueError(
                f"base_model: {base} is the source; a recipe takes only a third model as {method.name}'s base"
            )
        if not self.domains:
            third = f"; with base_model {base}, either that is the source or a third model is needed" if base else ""
            raise ValueError(f"expected a source and a domain model at least, found {', '.join(models)}{third}")
        for part in self._file.slices:
            listed = list(part.inputs)
            if not method.weighted and listed == [self.source]:
                continue
            if base is not None and base not in listed:
                raise ValueError(f"{part.where}.sources: the base model {base} is missing; it belongs to every slice")
            if len(listed) < len(models) and (not method.weighted or method.name in ("slerp", "nuslerp")):
                raise ValueError(f"{part.where}.sources: expected {', '.join(models)}; found {', '.join(listed)}")
        if self._file.tokenizer is not None:
            where, name = self._file.tokenizer
            if name not in ("base", self.source, self._file.base):
                raise ValueError(f"{where}: a recipe keeps the tokenizer of the source, {self.source}; found {name!r}")

    def _weights(self, part: Slice) -> list[tuple[str, Any]]:
        return self._file.settings(part, weight_name(self._method))

    def _segments(self, part: Slice) -> list[Segment]:
        """One segment, or one for each layer if a gradient makes them differ."""
        first = self._layers(part, 0)
        gradient = any(is_gradient(setting) for _, setting in self._weights(part))
        depth = self._depth if self._is_at_hand or (gradient and part.num_layers is None) else None
        covered = sum(each.num_layers or 0 for each in self._file.slices)
        if covered and depth not in (None, covered):
            raise ValueError(f"slices: they cover {covered} layers, {self.source} has {depth}")
        layers = part.num_layers or depth
        if not gradient or not layers:
            return [replace(first, size=layers or 1)]
        last = layers - 1
        return [self._layers(part, layer / last if last else 1) for layer in range(layers)]

    def _layers(self, part: Slice, t: float) -> Segment:
        """Layers with the parts that have their own weights through filters."""
        filters = in_one_order(self._weights(part), self._tensors) if self._method.weighted else []
        parts = named_parts([(name, self._segment(part, part_place(name), t)) for name in filters])
        return replace(self._segment(part, LAYERS, t), parts=parts)

    def _segment(self, part: Slice, place: str, t: float) -> Segment:
        if not self._method.weighted:
            return Segment(1 if list(part.inputs) == [self.source] else None)
        if self._slerp:
            away = self._weight(part, place, t, None)
            return _segment(*((neat(1 - away), [away]) if self._from_source else (away, [neat(1 - away)])))
        weights = [self._weight(part, place, t, name) if name in part.inputs else 0.0 for name in self._differing]
        if self._from_source:
            return _segment(neat(1 - sum(weights)), weights)
        total = sum(weights)
        if self._divides and not math.isclose(total, 1, rel_tol=1e-12):
            if not total:
                raise ValueError(f"{part.where}: the weights add up to 0, and {self._method.name} divides by their sum")
            weights = [weight / total for weight in weights]
        return _segment(weights[0], weights[1:])

    def _weight(self, part: Slice, place: str, t: float, model: str | None) -> float:
        name = weight_name(self._method)
        found = self._file.value(part, name, place, t, model, number=True)
        if found is None:
            where = (part.parameters if model is None else part.inputs[model])[0].lstrip(".") or "parameters"
            raise ValueError(f"{where}.{name} is missing: {self._method.name} needs it for the {place}")
        return float(found)

    @property
    def _divides(self) -> bool:
        return divides_by_sum(self._method.name, self._parameters)

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        """The method's parameters in the file, besides weights."""
        found = {}
        for name, default in self._method.parameters.items():
            models: Sequence[str | None] = self._differing if name in self._method.per_model else [None]
            values = [self._throughout(name, model) for model in models]
            if any(value is not None for value in values):
                values = [default if value is None else value for value in values]
                found[name] = values[0] if values.count(values[0]) == len(values) else tuple(values)
        return found

    def _throughout(self, name: str, model: str | None) -> Any:
        parts = [part for part in self._file.slices if model is None or model in part.inputs]
        settings = [setting for part in parts for setting in self._file.settings(part, name)]
        gradient = any(is_gradient(setting) for _, setting in settings)
        for where, setting in settings:
            if filters := part_filters(setting, where):
                raise ValueError(
                    f"{where}: the filter {filters[0]!r} is for parts of layers; a recipe gives them weights of their "
                    f"own, and one {name!r} for all"
                )
        values = {self._file.value(part, name, LAYERS, 0, model) for part in parts}
        if gradient or len(values) > 1:
            raise ValueError(f"parameter {name!r} differs from layer to layer; a recipe has one value for all of them")
        return next(iter(values), None)

    @property
    def _is_at_hand(self) -> bool:
        return self.source.startswith(PACKAGE_SCHEME) or user_path(self.source).is_dir()

    @cached_property
    def _tensors(self) -> Sequence[str]:
        """Mergekit's names of the source's layers if its files are on this disk, else names from many families."""
        if not self._is_at_hand:
            return TENSORS
        return [f"model.{name}" for name in Checkpoint(locate_model(self.source)).body if layer_of(name) is not None]

    @property
    def _lacks_final_norm(self) -> bool:
        """Whether the source is on this disk and has no final norm, like BERT: the file's values for it are unused."""
        return self._is_at_hand and not any(map(is_final_norm, Checkpoint(locate_model(self.source)).body))

    @property
    def _depth(self) -> int:
        return count_layers(transformer_folder(locate_model(self.source)))


def _segment(alpha: float, others: Sequence[float]) -> Segment:
    """A segment whose domain models share ``1 - alpha``, or one with a weight for each."""
    share = (1 - alpha) / len(others)
    if 0 <= alpha <= 1 and all(math.isclose(weight, share, rel_tol=1e-12, abs_tol=1e-15) for weight in others):
        return Segment(alpha)
    return Segment(alpha, domain_weights=tuple(others))
