"""The tensors of a model's weight files: headers read at once, tensors on demand, no code ever run."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.models.files import read_config, read_json

if TYPE_CHECKING:
    import torch

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes per element
_NAMES = {  # torch's types, as safetensors writes them
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_MAPPED_BYTES = 2**25


@dataclass(frozen=True)
class StoredTensor:
    """The location of a tensor, and its description in the file's header.

    Attributes:
        file: The weight file.
        key: The tensor's name in there.
        shape: Its shape.
        dtype: Its type, as safetensors writes it: ``F32``, ``BF16``, ``I64`` …
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size of the tensor's data, if it is of a floating-point type."""
        return math.prod(self.shape) * FLOATS[self.dtype]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Read the headers of a folder's weight files, safetensors before PyTorch's, and return its tensors by name.

    Raises:
        FileNotFoundError: No weights, or a shard that the index names is missing.
        ValueError: A file is corrupt, truncated, not readable or holds more than tensors, the index is malformed, or
            a tensor that it names is not in its shard.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return header_of(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _sharded(folder / f"{name}.index.json")
    raise FileNotFoundError(f"{folder} holds no weights (model.safetensors or pytorch_model.bin, whole or sharded)")


@contextmanager
def writing_weights(place: Path) -> Iterator[None]:
    """Raise ``OSError`` if safetensors cannot write: its own error is not an ``OSError``."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(f"the weights could not be written into {place} (is the disk full?): {error}") from error


def require_unquantised(folder: Path) -> None:
    """Raise ``ValueError`` if ``config.json`` says that the weights are quantised."""
    quantised = read_config(folder).get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unnamed method") if isinstance(quantised, dict) else quantised
        raise ValueError(
            f"{folder / 'config.json'} has a quantization_config ({method}): quantised weights cannot be merged; give "
            "the checkpoint that they were made from"
        )


class TensorReader:
    """Reads tensors from weight files that are mapped into memory, and closes the mappings now and then.

    Pages read through a mapping count as the process's memory until the mapping is closed. By closing them, reading a
    whole model takes 32 MB plus the tensors that the caller holds. A tensor's pages are read when they are used, so
    using it slice by slice reads it in pieces.
    """

    def __init__(self) -> None:
        self._files: dict[Path, Any] = {}
        self._read_bytes = 0

    def read(self, stored: StoredTensor) -> torch.Tensor:
        """Return a tensor in its stored type, on the CPU; it is a view of the file, not to be written to.

        Raises:
            ValueError: Its bytes could not be read, or the file has changed.
        """
        if self._read_bytes > _MAPPED_BYTES:
            self._files.clear()
            self._read_bytes = 0
        file = self._files.get(stored.file)
        if file is None:
            file = self._files[stored.file] = open_weights(stored.file)
        try:
            tensor: torch.Tensor = file[stored.key] if isinstance(file, dict) else file.get_tensor(stored.key)
        except Exception as error:
            raise ValueError(f"tensor {stored.key!r} of {stored.file} could not be read: {error!r}") from error
        if tuple(tensor.shape) != stored.shape:
            raise ValueError(
                f"tensor {stored.key!r} of {stored.file} was {stored.shape} and is {tuple(tensor.shape)} now: the file "
                "was rewritten while it was in use"
            )
        self._read_bytes += tensor.nbytes
        return tensor


def open_weights(file: Path) -> Any:
    """Open a weight file: an open safetensors file, or a dictionary of tensors for PyTorch's format.

    Raises:
        ValueError: The file is corrupt, truncated, not readable, or holds more than tensors.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        file.open("rb").close()  # safetensors reports a file without read permission as missing
        if file.suffix == ".safetensors":
            return safe_open(file, framework="pt")
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except PermissionError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{file} is not a readable checkpoint (truncated or corrupt?): {error}") from error
    except Exception as error:  # torch raises pickle's own class for files that hold more than tensors
        raise ValueError(
            f"{file} is corrupt or holds more than tensors; it is not loaded, because it could run code: {error}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{file} holds a {type(loaded).__name__}, expected tensors by name")  # noqa: TRY004 (data)
    for key, value in loaded.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{file}: {key!r} is a {type(value).__name__}, expected a tensor")  # noqa: TRY004 (data)
    return dict(loaded)


def header_of(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one weight file by name; raises as :func:`open_weights` does."""
    opened = open_weights(file)
    if isinstance(opened, dict):
        described = {key: (tuple(tensor.shape), _dtype_name(tensor)) for key, tensor in opened.items()}
    else:
        slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
        described = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    return {key: StoredTensor(file, key, *header) for key, header in described.items()}


def _sharded(index: Path) -> dict[str, StoredTensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files; fetch the checkpoint again")
    missing = sorted({shard for shard in places.values() if not (index.parent / shard).is_file()})
    if missing:
        raise FileNotFoundError(f"{index} names {missing[0]!r}, which is not in the folder; fetch the checkpoint again")
    headers = {shard: header_of(index.parent / shard) for shard in sorted(set(places.values()))}
    for key, shard in places.items():
        if key not in headers[shard]:
            raise ValueError(f"{index} names tensor {key!r} in {shard!r}, which does not hold it; fetch it again")
    return {key: headers[shard][key] for key, shard in places.items()}


def _dtype_name(tensor: torch.Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return _NAMES.get(name, name)
