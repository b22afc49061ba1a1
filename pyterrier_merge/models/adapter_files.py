"""The files of an adapter's folder: its configuration and its tensors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.models.files import read_json, transformer_folder
from pyterrier_merge.models.weights import TensorReader, header_of

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ROOT = "base_model.model."  # peft's prefix for the names of the model that it wraps
_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_UNUSED = ("lm_head", "cls", "score", "classifier", "embed_out", "pooler")  # heads, BERT's pooler: unused by vectors
_NOT_WEIGHTS = {  # fields of a configuration that cannot be expressed as a change of the base's weights
    "layer_replication": "makes a model of another depth",
    "target_parameters": "adapts parameters and not modules",
    "alora_invocation_tokens": "adapts only the tokens after an invocation",
    "arrow_config": "chooses among several adapters token by token",
}


@dataclass(frozen=True)
class Adapter:
    """An adapter, read for the body that it is merged into.

    Attributes:
        folder: The folder of its files.
        config: peft's ``LoraConfig``.
        tensors: By the body's names, without those of a head or a pooler.
        prefix: Prefix of the body's names in the model that it was trained on: ``model.`` for a class with a head,
            else empty.
    """

    folder: Path
    config: Any
    tensors: dict[str, torch.Tensor]
    prefix: str

    @property
    def config_file(self) -> Path:
        """The configuration's path, for messages."""
        return self.folder / _CONFIG


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter."""
    return (transformer_folder(folder) / _CONFIG).is_file()


def base_of(folder: Path) -> str:
    """Return the name of the base that an adapter's configuration names.

    Raises:
        ValueError: It names none.
    """
    base = stated_base(folder)
    if base is None:
        raise ValueError(f"{folder / _CONFIG} names no base_model_name_or_path: say 'BASE+ADAPTER'")
    revision = _read_config(folder).get("revision")
    return f"{base}@{revision}" if revision and not Path(base).exists() else base


def stated_base(folder: Path) -> str | None:
    """Return the base that an adapter's configuration names, without its revision."""
    base = _read_config(folder).get("base_model_name_or_path")
    return str(base) if base else None


def read_adapter(folder: Path, body: Any) -> Adapter:
    """Read an adapter that was trained on a bare body (as Tevatron does) or on a class with a head.

    Args:
        folder: The transformer's folder of the adapter.
        body: The base's live body.

    Raises:
        FileNotFoundError: It has no weights.
        ValueError: It is not a LoRA, cannot be merged into weights, or its files are damaged.
    """
    config, stored = _read_lora_config(folder), _read_tensors(folder)
    prefix = f"{body.base_model_prefix}."
    if not any(name.startswith(ROOT + prefix) for name in stored):
        prefix = ""
    tensors = {name.removeprefix(ROOT).removeprefix(prefix): tensor for name, tensor in stored.items()}
    unused = [name for name in tensors if name.partition(".")[0] in _UNUSED]
    if unused:
        logger.info("%s: %d tensors of head or pooler are left out, such as %s", folder, len(unused), unused[0])
    return Adapter(folder, config, {name: tensor for name, tensor in tensors.items() if name not in unused}, prefix)


def is_unused(module: str) -> bool:
    """Whether vectors do not depend on this module of the body."""
    return module.partition(".")[0] in _UNUSED


def module_of(tensor: str) -> str:
    """Return the module that a LoRA tensor belongs to."""
    return tensor.split(".lora_")[0]


def _read_config(folder: Path) -> dict[str, Any]:
    return read_json(transformer_folder(folder) / _CONFIG)


def _read_lora_config(folder: Path) -> Any:
    """The configuration, as peft reads it; one that cannot be merged is rejected."""
    from peft import LoraConfig

    file, stated = folder / _CONFIG, read_json(folder / _CONFIG)
    if stated.get("peft_type") != "LORA":
        kind = stated.get("peft_type")
        raise ValueError(f"{file}: peft_type is {kind!r}; LoRA adapters alone can be merged into weights")
    for field in ("r", "lora_alpha"):  # peft would use 8 if one is missing
        value = stated.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(
                f"{file}: expected a number above 0 for {field!r}, found {value!r}; set it to the value used in "
                "training: the adapter's weight in the merged model depends on it"
            )
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{file} is not a configuration that peft reads: {error}") from error
    for field, reason in _NOT_WEIGHTS.items():
        if getattr(config, field, None):
            raise ValueError(f"{file}: {field} {reason}; it is not supported: train a LoRA without it")
    if not config.target_modules:
        raise ValueError(f"{file} names no target_modules: the adapter's modules are unknown")
    return config


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} holds an {_CONFIG} and no weights (expected {' or '.join(_WEIGHTS)})")
    reader = TensorReader()
    tensors = {name: reader.read(stored) for name, stored in header_of(file).items()}
    if not any(".lora_" in name for name in tensors):
        raise ValueError(f"{file} holds no LoRA tensors (names with 'lora_A' and 'lora_B')")
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise ValueError(f"tensor {broken!r} of {file} holds NaN or infinity: take an earlier step of its training")
    strange = next((name for name in tensors if not name.startswith(ROOT)), None)
    if strange is not None:
        raise ValueError(f"tensor {strange!r} of {folder} has no name that peft gives (it would begin with {ROOT!r})")
    return tensors
