"""The layout of mergekit's YAML: slices of layers or whole models, and the lookup of each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyterrier_merge.mergekit_yaml.settings import check_keys, evaluate
from pyterrier_merge.methods import MergeMethod, get_method

_DECIDING = ("merge_method", "base_model", "slices", "models", "parameters", "tokenizer_source", "tokenizer")
_HARMLESS = ("dtype", "out_dtype", "chat_template")  # they concern saving or text generation
Scope = tuple[str, Mapping[str, Any]]  # the place of parameters in the file, and the parameters


@dataclass(frozen=True)
class Slice:
    """Layers that are blended from the same models.

    Attributes:
        where: Its place in the file.
        num_layers: None for all layers of the models.
        inputs: Model -> its own parameters.
        parameters: Parameters of all its models.
    """

    where: str
    num_layers: int | None
    inputs: Mapping[str, Scope]
    parameters: Scope


class MergeFile:
    """A file's content, with its layout checked.

    Attributes:
        method: How to merge.
        slices: Lowest layers first; a single one where whole models are merged.
        base: The base model, if any.
        tokenizer: The place in the file that chooses a tokenizer, and the model it comes from; None if there is none.
    """

    def __init__(self, content: Any) -> None:
        """Take the parsed YAML.

        Raises:
            ValueError: A key is unknown, a value is missing or of the wrong kind, a model stands twice in a slice, or
                slices do not put the layers of all models in order.
        """
        if not isinstance(content, dict):
            raise ValueError("expected fields such as 'merge_method' and 'slices', found none")  # noqa: TRY004
        if "modules" in content:
            raise ValueError("modules: a recipe merges one stack of layers; models of several modules are not read")
        check_keys(content, (*_DECIDING, *_HARMLESS), "")
        self.method = get_method(_text(content.get("merge_method"), "merge_method"))
        self._parameters = _parameters(content, "", self.method, of_a_model=False)
        self.tokenizer = _tokenizer(content)
        base = _base(content, "", None)
        if ("slices" in content) == ("models" in content):
            both = "both" if "slices" in content else "none"
            raise ValueError(f"expected either 'slices' or 'models', found {both}")
        if "slices" in content:
            self.slices, self.base = _read_slices(_list(content["slices"], "slices"), base, self.method)
        else:
            inputs = _read_inputs(_list(content["models"], "models"), "models", (), self.method)
            if base is not None:
                inputs.setdefault(base, ("base_model", {}))  # mergekit counts it among the models
            self.slices, self.base = [Slice("models", None, inputs, ("", {}))], base

    @property
    def models(self) -> list[str]:
        """Every model of the slices, in order of appearance."""
        return list(dict.fromkeys(name for part in self.slices for name in part.inputs))

    def value(self, part: Slice, name: str, place: str, t: float, model: str | None, *, number: bool = False) -> Any:
        """Look a parameter up as mergekit does: the model's own, the slice's, the file's; None if it is not set.

        Args:
            part: The slice.
            name: Name of the parameter.
            place: Part of the model that it is for.
            t: Position in the slice; see :func:`evaluate`.
            model: None for parameters that all models share.
            number: Whether the value must be a number.
        """
        own = () if model is None else (part.inputs[model],)
        for where, parameters in (*own, part.parameters, self._parameters):
            if name in parameters:
                value = evaluate(parameters[name], f"{where}.{name}", place, t, number=number)
                if value is not None:
                    return value
        return None

    def settings(self, part: Slice, name: str) -> list[tuple[str, Any]]:
        """Every setting of a parameter that a slice can look up, each with its place in the file."""
        scopes = (*part.inputs.values(), part.parameters, self._parameters)
        return [(f"{where}.{name}", parameters[name]) for where, parameters in scopes if name in parameters]


def weight_name(method: MergeMethod) -> str:
    """Mergekit's name for the parameter that weighs models: slerp has one ``t`` for both."""
    return "t" if method.name == "slerp" else "weight"


def _read_slices(items: list[Any], base: str | None, method: MergeMethod) -> tuple[list[Slice], str | None]:
    slices, bases, end = [], [], 0
    for number, item in enumerate(items):
        where = f"slices[{number}]"
        check_keys(item, ("sources", "parameters", "base_model"), where)
        sources = _list(item.get("sources"), f"{where}.sources")
        inputs = _read_inputs(sources, f"{where}.sources", ("layer_range",), method)
        start, end = end, _end_of_layers(sources, f"{where}.sources", end)
        slices.append(Slice(where, end - start, inputs, _parameters(item, where, method, of_a_model=False)))
        bases.append(_base(item, where, base))
    if len(set(bases)) > 1:
        raise ValueError(f"base_model differs from slice to slice ({', '.join(map(str, bases))}); a recipe has one")
    return slices, bases[0]


def _read_inputs(items: list[Any], place: str, more: tuple[str, ...], method: MergeMethod) -> dict[str, Scope]:
    inputs: dict[str, Scope] = {}
    for number, item in enumerate(items):
        where = f"{place}[{number}]"
        check_keys(item, ("model", *more, "parameters"), where)
        name = _model(item.get("model"), f"{where}.model")
        if name in inputs:
            raise ValueError(f"{where}.model: {name!r} stands here twice; mergekit takes each model once")
        inputs[name] = _parameters(item, where, method, of_a_model=True)
    return inputs


def _end_of_layers(sources: list[Any], place: str, start: int) -> int:
    """The end of a slice's layers, the same for all its models; ``start`` is the end of the last slice's layers."""
    first = sources[0].get("layer_range")
    for number, source in enumerate(sources):
        found, where = source.get("layer_range"), f"{place}[{number}].layer_range"
        numbers = isinstance(found, list) and [type(layer) for layer in found] == [int, int]
        if not numbers or not 0 <= found[0] < found[1]:
            raise ValueError(f"{where}: expected [first, end] with 0 <= first < end, found {found!r}")
        if found != first or found[0] != start:
            expected = first if found != first else f"a range that begins at {start}"
            raise ValueError(
                f"{where}: expected {expected}, found {found}; a recipe blends each layer with the same layer of the "
                "other models, so a merge that leaves layers out, repeats or moves them has none"
            )
    return int(first[1])


def _parameters(item: Mapping[str, Any], place: str, method: MergeMethod, *, of_a_model: bool) -> Scope:
    where = f"{place}.parameters".lstrip(".")
    parameters = item.get("parameters")
    if parameters is None:
        return where, {}
    weight = {weight_name(method)} if method.weighted else set()
    check_keys(parameters, sorted(weight | set(method.parameters)), where, f"parameters of {method.name}")
    for name in parameters:
        if of_a_model and name not in (weight - {"t"}) | method.per_model:
            raise ValueError(f"{where}.{name}: mergekit does not look here for what all models share; move it up")
    return where, parameters


def _tokenizer(content: Mapping[str, Any]) -> tuple[str, str] | None:
    if content.get("tokenizer_source") is not None:
        return "tokenizer_source", _model(content["tokenizer_source"], "tokenizer_source")
    if content.get("tokenizer") is None:
        return None
    check_keys(content["tokenizer"], ("source",), "tokenizer", "what a recipe can follow")
    return "tokenizer.source", _model(content["tokenizer"].get("source"), "tokenizer.source")


def _base(item: Mapping[str, Any], place: str, otherwise: str | None) -> str | None:
    found = item.get("base_model")
    return otherwise if found is None else _model(found, f"{place}.base_model".lstrip("."))


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place}: expected a list, found {value!r}")
    return value


def _model(value: Any, place: str) -> str:
    """A model's name, from mergekit's notation for it or from the equivalent fields."""
    if not isinstance(value, Mapping):
        return _text(value, place).rstrip("/") or "/"
    check_keys(value, ("model", "lora", "override_architecture"), place, "fields of a model")
    if value.get("override_architecture") is not None:
        raise ValueError(
            f"{place}.override_architecture: a recipe matches tensors by name, not by the model's class, and "
            "cannot express this; leave it out"
        )
    base, lora = _path(value.get("model"), f"{place}.model"), value.get("lora")
    return base if lora is None else f"{base}+{_path(lora, f'{place}.lora')}"


def _path(value: Any, place: str) -> str:
    if not isinstance(value, Mapping):
        return _text(value, place).rstrip("/") or "/"
    check_keys(value, ("path", "revision"), place, "fields of a path")
    path, revision = _text(value.get("path"), f"{place}.path").rstrip("/") or "/", value.get("revision")
    if {"+", "@"} & {*path} and not Path(path).exists():
        raise ValueError(
            f"{place}.path: {path!r} is not a folder here, and a recipe takes '+' and '@' in a name for an adapter and "
            "a revision; give these as fields of their own, 'lora' and 'revision'"
        )
    return path if revision is None else f"{path}@{_text(revision, f'{place}.revision')}"


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{place}: expected a name, found {value!r}")
    return value
