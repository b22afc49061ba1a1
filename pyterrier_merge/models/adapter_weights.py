"""Merging a LoRA adapter into the weights of a live model, by peft."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.models.adapter_checks import parameter_of, rank_of, require_whole
from pyterrier_merge.models.adapter_files import ROOT, Adapter, module_of, read_adapter
from pyterrier_merge.models.added_tokens import embed_tokens, embeddings_of, place_embeddings
from pyterrier_merge.models.files import read_training, transformer_folder
from pyterrier_merge.models.weights import require_unquantised

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def merge_adapter(body: Any, base: Path, adapter: Path, *, tokenizer: Path) -> bool:
    """Merge an adapter into a live body, in place and in the body's type.

    The body takes the embeddings that an adapter with added tokens carries.

    Args:
        body: The base's live transformer, without a head.
        base: Folder of the base.
        adapter: Folder of the adapter.
        tokenizer: The transformer's folder of the result, with its tokenizer.

    Returns:
        Whether weights that every text uses have changed, not only token embeddings.

    Raises:
        ValueError: The adapter is not a LoRA, is corrupt, incomplete, made for another base, changes nothing, or has
            tokens without embeddings.
    """
    import torch

    own, trained = transformer_folder(base), transformer_folder(adapter)
    require_unquantised(own)
    read = read_adapter(trained, body)
    require_whole(read, body, own)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # new matrices are random until they are loaded
        rows = place_embeddings(body, read.tensors, read.config.trainable_token_indices, trained)
        moved = _merge_lora(body, read, own) + _replace_parameters(body, read)
        embed_tokens(body, tokenizer, own, trained, rows)
    if not moved and not (rows and rows.changed):
        _report_unchanged(adapter, body.dtype)
    return any(name != embeddings_of(body) for name in moved)  # many texts have no trained token


def _report_unchanged(adapter: Path, dtype: torch.dtype) -> None:
    if read_training(adapter).get("best_step") == 0:
        logger.warning(
            "%s is an adapter of zeros: its training found no step that was better than the source on dev and kept "
            "step 0; vectors are the source's",
            adapter,
        )
        return
    raise ValueError(
        f"{adapter} changes nothing in the model's body: the LoRA of each module there is zero, as before the first "
        f"step of a training, or too small for {dtype} (changes of a head are not merged)"
    )


def _merge_lora(body: Any, adapter: Adapter, base: Path) -> list[str]:
    """Add the products of an adapter's matrices to the weights; return the names of the modules that changed."""
    from peft import get_peft_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    lora = {name: tensor for name, tensor in adapter.tensors.items() if ".lora_" in name}
    biases = {module_of(name): lora.pop(name) for name in list(lora) if name.endswith(".lora_B.bias")}
    if not lora:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of transformers and peft about peft's own steps
            wrapped = get_peft_model(body, _config_of_body(adapter, {module_of(name) for name in lora}))
            _require_all(set_peft_model_state_dict(wrapped, {ROOT + name: tensor for name, tensor in lora.items()}))
            layers = {name: module for name, module in body.named_modules() if isinstance(module, LoraLayer)}
            moved = [name for name, layer in layers.items() if _merge_layer(layer, name, biases.get(name))]
            wrapped.unload()
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"adapter {adapter.folder} cannot be merged into {base}; is it another base's? "
            f"{' '.join(str(error).split())}"
        ) from error
    body.requires_grad_(True)  # peft froze it
    return moved


def _merge_layer(layer: Any, name: str, bias: torch.Tensor | None) -> bool:
    """Merge one layer's matrices, and the change of its bias; return whether its weights changed."""
    base = layer.get_base_layer()
    before = base.weight.data
    layer.merge(safe_merge=True)  # into a copy
    moved = not before.equal(base.weight.data)
    if bias is not None:
        if base.bias is None:
            raise ValueError(f"{name!r} has a change of its bias, and the source's has no bias")
        changed = base.bias + layer.scaling["default"] * bias.to(base.bias)
        moved = moved or not changed.equal(base.bias)
        base.bias.copy_(changed)
    return moved


def _replace_parameters(body: Any, adapter: Adapter) -> list[str]:
    """Write fully trained parameters (norms, biases, modules); return the names of the modules that changed."""
    parameters, changed = dict(body.named_parameters()), []
    for name, tensor in adapter.tensors.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        own = parameters.get(parameter_of(name))
        if own is None or own.shape != tensor.shape:
            found = "is missing" if own is None else f"is {tuple(own.shape)}"
            raise ValueError(
                f"tensor {name!r} of {adapter.folder} is {tuple(tensor.shape)}, that of its base {found}: the adapter "
                "is another base's"
            )
        if not own.equal(tensor.to(own)):
            changed.append(parameter_of(name).rpartition(".")[0])
        own.copy_(tensor)
    return changed


def _require_all(placed: Any) -> None:
    """Raise ``ValueError`` if the model that peft made lacks a place for a tensor, or a tensor for a place."""
    if placed.unexpected_keys:
        raise ValueError(f"tensor {placed.unexpected_keys[0]!r} finds no place")
    lacking = [name for name in placed.missing_keys if "lora_" in name]
    if lacking:
        raise ValueError(f"{lacking[0]!r} is missing")


def _config_of_body(adapter: Adapter, modules: set[str]) -> Any:
    """An adapter's configuration for modules of the body, by the body's names."""
    ranks = {name: rank_of(adapter, name) for name in modules}
    try:
        alphas = _by_module(adapter.config.alpha_pattern, modules, adapter.prefix)
    except (TypeError, re.error) as error:
        raise ValueError(f"{adapter.config_file}: alpha_pattern cannot be read: {error}") from error
    return replace(
        adapter.config,
        target_modules=sorted(modules),
        exclude_modules=None,
        layers_to_transform=None,
        layers_pattern=None,
        rank_pattern={f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != adapter.config.r},
        alpha_pattern=alphas,
        modules_to_save=None,  # this package writes everything but the LoRA
        trainable_token_indices=None,
        bias="none",
        lora_bias=False,
        task_type=None,  # a class for a task expects a head
        auto_mapping=None,
        inference_mode=True,
    )


def _by_module(patterns: dict[str, int] | None, modules: set[str], prefix: str) -> dict[str, int]:
    """Values of peft's patterns (regular expressions for the trained names) for each module, by the body's names."""
    from peft.utils.other import get_pattern_key

    patterns = patterns or {}
    keys = {name: get_pattern_key(list(patterns), prefix + name) for name in modules}
    return {f"^{re.escape(name)}": patterns[key] for name, key in keys.items() if key in patterns}
