"""The merge methods that mergekit registers: their models, parameters, and arithmetic on tensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from pyterrier_merge.spelling import did_you_mean

if TYPE_CHECKING:
    import torch

# Methods that interpolate: if a single domain model has all the weight, the result is that model.
_INTERPOLATING = frozenset({"linear", "slerp", "nuslerp", "multislerp"})
# Methods whose result for an element depends only on that element, so that a tensor can be merged piece by piece.
_ELEMENTWISE = frozenset({"linear", "task_arithmetic"})
_RANDOM = ("dare", "della")  # prefixes of the methods that drop weights at random


@dataclass(frozen=True)
class MergeMethod:
    """One of mergekit's methods, as it applies to a source and domain models.

    Attributes:
        name: mergekit's name.
        title: Its name in prose.
        reference: Address of its description; empty if mergekit names none.
        weighted: Whether it takes a weight for each model. Methods without weights do not use ``alpha``.
        base: ``required`` (the source, if no other base is given), ``optional`` or ``none``.
        parameters: Its parameters besides weights: name -> default, None if a value must be given.
        per_model: The parameters that can differ from model to model.
    """

    name: str
    title: str
    reference: str
    weighted: bool
    base: str
    parameters: Mapping[str, Any]
    per_model: frozenset[str]

    @property
    def interpolates(self) -> bool:
        """Whether a weight of 1 for one model gives that model."""
        return self.name in _INTERPOLATING

    @property
    def elementwise(self) -> bool:
        """Whether each element of the result depends only on that element of the models."""
        return self.name in _ELEMENTWISE

    @property
    def random(self) -> bool:
        """Whether it draws random numbers."""
        return self.name.startswith(_RANDOM)

    def check(self, *, num_domains: int, has_base: bool, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters as mergekit reads them: for ``normalize``, 0 and ``"no"`` are False.

        Raises:
            ValueError: This method does not support these models or parameters.
        """
        if has_base and self.base == "none":
            raise ValueError(f"{self.name} takes no base model: leave 'base' out")
        inputs, weighted = 1 + num_domains + has_base, num_domains + (has_base or self.base != "required")
        try:
            _mergekit(self.name).validate_inputs(range(inputs), 0 if has_base or self.base == "required" else None)
        except ValueError as error:
            models = f"source and {num_domains} domain model{'s' if num_domains > 1 else ''}"
            raise ValueError(f"{self.name}, with {models}{' and a base' if has_base else ''}: {error}") from error
        unknown = sorted(set(parameters) - set(self.parameters))
        if unknown:
            advice = did_you_mean(unknown[0], self.parameters, "it has")
            raise ValueError(f"{self.name} has no parameter {unknown[0]!r}; {advice}")
        missing = [name for name, default in self.parameters.items() if default is None and name not in parameters]
        if missing:
            raise ValueError(f"{self.name} needs the parameter {missing[0]!r}: parameters={{{missing[0]!r}: ...}}")
        read = {name: self._read_parameter(name, value, weighted) for name, value in parameters.items()}
        if num_domains == 1 and not has_base and self._cancels_a_single_weight(read):
            raise ValueError(
                f"{self.name} divides by the sum of the weights, and with the source as base there is only one: alpha "
                "would change nothing; pass parameters={'normalize': False}, in a space the setting, or a base"
            )
        return read

    def _read_parameter(self, name: str, value: Any, models: int) -> Any:
        several = isinstance(value, (list, tuple))
        if several and (name not in self.per_model or len(value) != models):
            or_more = f" or {models}" if name in self.per_model else ""
            raise ValueError(f"{self.name}: {name!r} takes one value{or_more}, found {value!r}")
        return tuple(self._read_value(name, one) for one in value) if several else self._read_value(name, value)

    def _read_value(self, name: str, value: Any) -> Any:
        (spec,) = (spec for spec in _mergekit(self.name).spec.parameters if spec.name == name)
        try:
            read = spec.validate(value)
        except ValueError as error:  # pydantic's, many lines long
            raise ValueError(f"{self.name}: {name!r} is {value!r}, expected {spec.value_type.__name__}") from error
        if not math.isfinite(read):
            raise ValueError(f"{self.name}: {name!r} is {value!r}, expected a finite number")
        return read

    def _cancels_a_single_weight(self, parameters: Mapping[str, Any]) -> bool:
        return (
            self.weighted and self.base == "required" and parameters.get("normalize", self.parameters.get("normalize"))
        )


def divides_by_sum(method: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a method divides by the sum of all weights, which must then not be 0; does not import mergekit."""
    divides = parameters.get("normalize", True) and parameters.get("normalize_weights", True)
    return method in _INTERPOLATING and bool(divides)


def list_methods() -> tuple[str, ...]:
    """Return the names of mergekit's methods that merge two models or more, in alphabetical order."""
    from mergekit.merge_methods import registered_methods

    specs = (method.spec for method in registered_methods())
    return tuple(sorted(spec.name for spec in specs if spec.contract.max_inputs != 1))


@cache
def get_method(name: str) -> MergeMethod:
    """Return the method of that name.

    Raises:
        ValueError: mergekit has no such method, or it is not a merge of models.
    """
    if name not in list_methods():
        raise ValueError(f"unknown merge method {name!r}: {did_you_mean(name, list_methods(), 'mergekit has')}")
    spec = _mergekit(name).spec
    taken = {"weight"} | ({"t"} if name == "slerp" else set())
    others = [parameter for parameter in spec.parameters if parameter.name not in taken]
    return MergeMethod(
        name,
        title=spec.pretty_name or name,
        reference=spec.reference_url or "",
        weighted=any(parameter.name in taken for parameter in spec.parameters),
        base={"required": "required", "optional": "optional"}.get(spec.contract.base.value, "none"),
        parameters={parameter.name: None if parameter.required else parameter.default for parameter in others},
        per_model=frozenset(parameter.name for parameter in others if parameter.scope.value != "shared"),
    )


def blend(
    tensors: Sequence[torch.Tensor],
    method: MergeMethod,
    weights: Sequence[float] | None,
    *,
    base: torch.Tensor | None = None,
    parameters: Mapping[str, Any] | None = None,
    name: str = "tensor",
    seed: int = 0,
    memory: torch.Tensor | None = None,
) -> torch.Tensor:
    """Blend tensors of one shape with mergekit, in float32.

    Args:
        tensors: The source's and each domain model's, in this order, on one device.
        method: The method.
        weights: One for each tensor; None if the method takes none.
        base: The tensor that differences are taken from; the source if the method needs a base and none is given.
        parameters: The method's own, as :meth:`MergeMethod.check` returns them.
        name: The tensor's name, for mergekit's messages and the random seed.
        seed: Random seed of methods that drop weights at random: the same seed and name give the same result on the
            same kind of device.
        memory: Float32 memory of the same shape for the result, separate from the tensors.

    Returns:
        Float32, of the same shape.

    Raises:
        ValueError: mergekit's error if the tensors or parameters do not fit.
    """
    import torch
    from mergekit.merge_methods import merge_tensors

    values = dict(parameters or {})
    if method.name == "linear":
        return _linear(tensors, _required(weights), normalize=values.get("normalize", True), memory=memory)
    base_index = 0 if base is not None or method.base == "required" else None
    if method.name == "slerp":
        values["t"] = sum(_required(weights)[1:]) / sum(_required(weights))
    elif method.weighted:
        # If the source is the base, its weight is implied by the others; mergekit takes none for it.
        values["weight"] = list(_required(weights)[1 if base is None and base_index == 0 else 0 :])
    inputs = [*tensors] if base is None else [base, *tensors]
    devices = sorted({tensor.device.index for tensor in inputs if tensor.is_cuda}) if method.random else []
    with torch.random.fork_rng(devices=devices, enabled=method.random):
        if method.random:  # torch.manual_seed would set the generators of all GPUs, which are not restored
            for generator in (torch.default_generator, *(torch.cuda.default_generators[index] for index in devices)):
                generator.manual_seed(_seed(seed, name))
        return merge_tensors(
            inputs, method.name, parameters=values, base_index=base_index, name=name, dtype=torch.float32
        )


def _linear(
    tensors: Sequence[torch.Tensor], weights: Sequence[float], *, normalize: bool, memory: torch.Tensor | None
) -> torch.Tensor:
    """Compute mergekit's linear kernel in existing memory: the same numbers, except for the sign of zeros.

    mergekit's binding of parameters, allocation for each piece and addition to zeros would take as long again.
    """
    import torch

    first, *others = tensors
    (own, *rest), total, divides = _coefficients(tuple(weights), first.device)
    merged = torch.mul(first, own, out=torch.empty_like(first, dtype=torch.float32) if memory is None else memory)
    for tensor, coefficient in zip(others, rest, strict=True):
        merged.addcmul_(tensor, coefficient)
    return merged.div_(total) if normalize and divides else merged


def linear_divisor(weights: Sequence[float], parameters: Mapping[str, Any]) -> float | None:
    """The divisor of mergekit's linear method: the sum of the weights, in float32; None if it changes nothing."""
    import torch

    _, total, divides = _coefficients(tuple(weights), torch.device("cpu"))
    return float(total) if parameters.get("normalize", True) and divides else None


@lru_cache(maxsize=64)
def _coefficients(
    weights: tuple[float, ...], device: torch.device
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, bool]:
    """Weights as one-element vectors, because such a vector times bfloat16 is float32; mergekit's sum, if it is not 1.

    The sum is a tensor on the device, because CUDA divides by a Python number by multiplying with its reciprocal.
    """
    import torch

    coefficients = torch.tensor(weights, dtype=torch.float32)
    total = coefficients.sum()
    return torch.split(coefficients.to(device), 1), total.to(device), float(total) != 1


def _required(weights: Sequence[float] | None) -> Sequence[float]:
    if weights is None:
        raise ValueError("this method needs a weight for each model")
    return weights


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big", signed=False) >> 1


def _mergekit(name: str) -> Any:
    from mergekit.merge_methods import get

    return get(name)
