"""A model's tensors by canonical name, read lazily from the files of a checkpoint."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LAYER = re.compile(
    r"^(?P<prefix>(?:\w+\.)*?)(?P<stack>(?:encoder\.)?(?:layers|layer|h|block)|transformer\.layer)\.(?P<index>\d+)\."
)
_BUFFER = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids)$")
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # BERTs before 2019
_FINAL_NORM = re.compile(r"^((encoder|transformer)\.)?(norm|final_norm|ln_f|layer_norm|final_layer_norm)\.")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its file, its name in there, and what the file's header says of it."""

    file: Path
    key: str
    shape: tuple[int, ...]


class Checkpoint:
    """The tensors of one model by canonical name: without the prefix that a class with a head puts before its body.

    ``layers.0.mlp.up_proj.weight`` is called that in a ``MistralModel`` and in a ``MistralForCausalLM`` (whose file
    says ``model.layers.0…``), ``encoder.layer.0…`` in a ``BertModel`` and in a ``BertForMaskedLM``. Opening reads
    headers; a tensor is read when it is asked for, and not kept.

    Attributes:
        folder: The folder that holds the weights and ``config.json``.
        body: Canonical name -> where it lies, for every tensor of the body.
        heads: Names, as stored, of the tensors outside the body (a language-model head).
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the headers.

        Raises:
            FileNotFoundError: No ``config.json``, no weights, or a shard that the index names is missing.
            ValueError: A file is corrupt, or no layers are to be found in it.
        """
        self.folder = Path(folder)
        stored = _read_headers(self.folder)
        prefix = _body_prefix(stored, self.folder)
        self.body: Mapping[str, StoredTensor] = {
            _modern(key.removeprefix(prefix)): tensor
            for key, tensor in stored.items()
            if key.startswith(prefix) and not _BUFFER.search(key)
        }
        self.heads = tuple(sorted(key for key in stored if not key.startswith(prefix)))
        self._open_files: dict[Path, Any] = {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The parsed ``config.json``."""
        path = self.folder / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} has no config.json: it is not a transformers checkpoint")
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error

    @cached_property
    def num_layers(self) -> int:
        """Number of transformer layers, counted in the tensors."""
        return 1 + max(layer for layer in map(layer_of, self.body) if layer is not None)

    def tensor(self, name: str) -> torch.Tensor:
        """Read the tensor with this canonical name, in its stored type, onto the CPU.

        Raises:
            KeyError: The body has no tensor of this name.
            ValueError: Its bytes could not be read.
        """
        stored = self.body[name]
        handle = self._open_files.get(stored.file)
        if handle is None:
            handle = self._open_files[stored.file] = _open_weights(stored.file)
        try:
            return handle.get_tensor(stored.key) if hasattr(handle, "get_tensor") else handle[stored.key]
        except (RuntimeError, OSError) as error:
            raise ValueError(f"tensor {stored.key!r} of {stored.file} could not be read: {error}") from error

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r})"


def layer_of(name: str) -> int | None:
    """Return the number of the layer, from 0, that a canonical name belongs to; None outside the layers."""
    match = _LAYER.match(name)
    return int(match["index"]) if match else None


def is_final_norm(name: str) -> bool:
    """Whether a canonical name is the norm after the last layer."""
    return bool(_FINAL_NORM.match(name))


def _modern(name: str) -> str:
    parent, _, norm = name.rpartition("LayerNorm.")
    return parent + _OLD_NORM.get(f"LayerNorm.{norm}", f"LayerNorm.{norm}") if "LayerNorm." in name else name


def _read_headers(folder: Path) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        handle = _open_weights(file)
        if hasattr(handle, "get_slice"):
            shapes = {key: tuple(handle.get_slice(key).get_shape()) for key in handle.keys()}  # noqa: SIM118 (no mapping)
        else:
            shapes = {key: tuple(tensor.shape) for key, tensor in handle.items()}
        stored.update({key: StoredTensor(file, key, shape) for key, shape in shapes.items()})
    return stored


def _weight_files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{index} names {missing[0]!r}, which is not in the folder; fetch the checkpoint again"
                )
            return [folder / name for name in names]
    raise FileNotFoundError(f"{folder} holds no weights (model.safetensors or pytorch_model.bin, whole or sharded)")


def _open_weights(file: Path) -> Any:
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            return safe_open(file, framework="pt")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file} is not a readable checkpoint (truncated or corrupt?): {error}") from error
    except Exception as error:  # torch raises pickle's own class for files that hold more than tensors
        raise ValueError(f"{file} holds more than tensors and is not loaded, for it could run code: {error}") from error


def _body_prefix(keys: Iterable[str], folder: Path) -> str:
    prefixes = {match["prefix"] for match in map(_LAYER.match, keys) if match}
    if len(prefixes) != 1:
        found = "none" if not prefixes else f"several stacks ({', '.join(sorted(map(repr, prefixes)))})"
        raise ValueError(f"expected one stack of transformer layers in {folder}, found {found}")
    return str(prefixes.pop())
