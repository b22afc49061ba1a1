"""Checks that an adapter is complete and made for this source: half an adapter would give wrong vectors silently."""

from __future__ import annotations

import copy
import itertools
import logging
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pyterrier_merge.models.adapter_files import Adapter, is_unused, module_of, stated_base
from pyterrier_merge.models.added_tokens import embeddings_of
from pyterrier_merge.models.files import fingerprint_model, read_training

logger = logging.getLogger(__name__)

_RANK_AXES = {"lora_A.weight": 0, "lora_B.weight": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")  # of peft, around a parameter's name


def require_source(source: Path, adapter: Path, *, name: str) -> None:
    """Reject an adapter that this package trained on another source; warn if only the names differ.

    Args:
        source: The source's folder.
        adapter: The adapter's folder.
        name: What the user called the source.

    Raises:
        ValueError: ``training.json`` records a source with other content.
    """
    trained_on = stated_base(adapter)
    recorded = read_training(adapter).get("source_fingerprint")
    if recorded is None:
        _compare_names(name, str(trained_on), adapter)
    elif (found := fingerprint_model(source)) != recorded:
        raise ValueError(
            f"the adapter {adapter} was trained on {trained_on} (content {recorded}), and the source here is {name} "
            f"(content {found}): give the source that it was trained on, unchanged"
        )


def require_whole(adapter: Adapter, body: Any, base: Path) -> None:
    """Raise ``ValueError`` unless an adapter has exactly the tensors that its configuration says were trained.

    Args:
        adapter: The adapter.
        body: The base's live body.
        base: The base's folder, for messages.
    """
    _require_place(adapter, body, base)
    expected = _lora_tensors(adapter, body)
    lacking = [name for name, tensors in expected.items() if not tensors <= adapter.tensors.keys()]
    if lacking:
        absent = sorted(expected[lacking[0]] - adapter.tensors.keys())
        tensors = " and ".join(name.removeprefix(f"{lacking[0]}.") for name in absent)
        raise ValueError(
            f"{adapter.folder} is not whole: of the {len(expected)} modules of {base} that target_modules selects, "
            f"{len(lacking)} have no or half a LoRA, first {lacking[0]!r} (no {tensors}); fetch or save it again"
        )
    named = set().union(*expected.values())
    whole = _parameters(adapter, body, list(expected))
    further = [name for name in adapter.tensors if not (name in named or _is_known(name, whole, adapter, body))]
    if further:
        raise ValueError(
            f"{adapter.folder}: {len(further)} tensors belong to modules that its configuration does not select, or "
            f"have names that peft does not save, such as {further[0]!r}; give adapter_config.json and weights of one "
            "training"
        )
    _require_parameters(adapter, whole)
    _require_ranks(adapter, list(expected))


def parameter_of(tensor: str) -> str:
    """Return the body's parameter that an adapter's tensor replaces: of a norm, a bias, or a fully trained module."""
    return _WRAPPERS.sub("", tensor)


def rank_of(adapter: Adapter, module: str) -> int:
    """Return the rank that the configuration gives to a module of the body.

    Raises:
        ValueError: ``rank_pattern`` cannot be read.
    """
    from peft.utils.other import get_pattern_key

    patterns = adapter.config.rank_pattern or {}
    try:
        rank: int = patterns.get(get_pattern_key(list(patterns), adapter.prefix + module), adapter.config.r)
    except (TypeError, re.error) as error:
        raise ValueError(f"{adapter.config_file}: rank_pattern cannot be read: {error}") from error
    return rank


@cache
def _compare_names(given: str, trained_on: str, adapter: Path) -> None:
    names = {name.rstrip("/").lower() for name in (given, trained_on)}
    if len(names) == 2 and all(name.count("/") == 1 and not Path(name).exists() for name in (given, trained_on)):
        logger.warning("the adapter %s was trained on %s, and is merged into %s", adapter, trained_on, given)


def _require_place(adapter: Adapter, body: Any, base: Path) -> None:
    """Raise ``ValueError`` if a tensor belongs to a module that the base does not have; peft compares the shapes."""
    modules, parameters = dict(body.named_modules()), dict(body.named_parameters())
    for name in adapter.tensors:
        place = module_of(name) if ".lora_" in name else parameter_of(name).split(".token_adapter.")[0]
        if place not in modules and place not in parameters and ".original_module." not in name:
            raise ValueError(
                f"tensor {name!r} of {adapter.folder} finds no place: {base} has no {place!r}; the adapter is another "
                "base's"
            )


def _lora_tensors(adapter: Adapter, body: Any) -> dict[str, set[str]]:
    """The tensors of each module of the body that the configuration selects, by peft's rules."""
    import torch
    from peft.tuners.tuners_utils import check_target_module_exists
    from transformers.pytorch_utils import Conv1D

    modules = {name: module for name, module in body.named_modules() if name and not is_unused(name)}
    config = copy.copy(adapter.config)
    if str(config.target_modules).lower() == "all-linear":
        linear = (name for name, module in modules.items() if isinstance(module, torch.nn.Linear | Conv1D))
        config.target_modules = {adapter.prefix + name for name in linear}
    try:
        selected = [name for name in modules if check_target_module_exists(config, adapter.prefix + name)]
    except (TypeError, re.error) as error:
        raise ValueError(f"{adapter.config_file}: target_modules cannot be read: {error}") from error

    def tensors(name: str) -> set[str]:
        embeds = isinstance(modules[name], torch.nn.Embedding)
        ends = ["lora_embedding_A", "lora_embedding_B"] if embeds else ["lora_A.weight", "lora_B.weight"]
        ends += ["lora_magnitude_vector"] if config.use_dora else []
        ends += ["lora_B.bias"] if config.lora_bias and not embeds else []
        return {f"{name}.{end}" for end in ends}

    return {name: tensors(name) for name in selected}


def _parameters(adapter: Adapter, body: Any, selected: list[str]) -> dict[str, str]:
    """The fully trained parameters of the body, and the setting that says so."""
    config, found = adapter.config, {}
    for name, _ in body.named_parameters():
        module = name.rpartition(".")[0]
        if is_unused(name):
            continue
        if name.endswith(".bias") and (config.bias == "all" or (config.bias == "lora_only" and module in selected)):
            found[name] = f"bias={config.bias!r}"
        if any(f".{key}." in f".{adapter.prefix}{name}" for key in config.modules_to_save or ()):
            found[name] = "modules_to_save"
    return found


def _is_known(tensor: str, whole: Collection[str], adapter: Adapter, body: Any) -> bool:
    """Whether a tensor outside the selected modules is one that peft or mergekit saves."""
    if ".lora_" in tensor:
        return tensor.endswith(".lora_B.bias")  # mergekit's, which its configuration does not mention
    if tensor.startswith(f"{embeddings_of(body)}.") or parameter_of(tensor) in whole:
        return True
    places = itertools.accumulate(f"{adapter.prefix}{tensor}".split("."), "{}.{}".format)  # the modules that contain it
    return any(place.endswith(tuple(adapter.config.modules_to_save or ())) for place in places)  # as peft compares


def _require_parameters(adapter: Adapter, expected: Mapping[str, str]) -> None:
    """Reject an adapter that lacks fully trained parameters: biases, ``modules_to_save``."""
    there = {parameter_of(name) for name in adapter.tensors}
    missing = [name for name in expected if name not in there]
    if missing:
        raise ValueError(
            f"{adapter.folder} is not whole: {expected[missing[0]]} says that {missing[0]!r} was trained, and the "
            f"adapter has no tensor for it ({len(missing)} such parameters); fetch or save the adapter again"
        )


def _require_ranks(adapter: Adapter, modules: list[str]) -> None:
    """Reject matrices whose rank differs from the configuration: the scale, alpha / r, would be wrong."""
    for module in modules:
        rank = rank_of(adapter, module)
        for name, axis in _RANK_AXES.items():
            tensor = adapter.tensors.get(f"{module}.{name}")
            if tensor is not None and (tensor.ndim != 2 or tensor.shape[axis] != rank):
                raise ValueError(
                    f"{adapter.folder}: {f'{module}.{name}'!r} is {tuple(tensor.shape)}, and adapter_config.json says "
                    f"rank {rank} (r, rank_pattern); give adapter_config.json and weights of one training"
                )
