"""Converts GGUF files to folders that transformers reads. Only this module imports gguf."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models.conversion import kept_model
from pyterrier_merge.models.files import file_digest
from pyterrier_merge.models.live import quiet_loading
from pyterrier_merge.models.weights import writing_weights

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_PLAIN = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PROCEDURE = 2  # part of every fingerprint: increase it if the same file would give another model
_BROKEN = (ValueError, OSError, LookupError, TypeError, RuntimeError, AttributeError, OverflowError, AssertionError)


def convert_gguf(file: Path) -> Path:
    """Return a cached folder with a GGUF file's model: ``config.json``, safetensors, and the tokenizer if possible.

    transformers does the conversion, in float32 and with the whole model in memory. Weights that were not quantised
    are exact, in the narrowest of the file's types that holds them; matrices of a quantised file are float16.
    Only the body is kept: merges do not use a language-model head.

    Raises:
        ValueError: The file is corrupt or truncated, of an architecture that transformers does not convert, or lacks
            weights of the body.
        RuntimeError: The package ``gguf`` is missing.
        OSError: The disk has no room for the result, or a file could not be written; the partial result is deleted.
    """
    identity = fingerprint(["gguf", _PROCEDURE, file_digest(file)])

    def size() -> int:
        _require_gguf(file)
        return sum(int(tensor.n_elements) * (4 if kind == "F32" else 2) for tensor, kind in _tensors(file))

    return kept_model(identity, lambda building: _convert(file, building), size=size, what=f"the conversion of {file}")


def _require_gguf(file: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise RuntimeError(f"{file}: reading GGUF files needs the package gguf: pip install 'pyterrier-merge[gguf]'")


def _tensors(file: Path) -> list[tuple[Any, str]]:
    """The file's tensors and the names of their types."""
    from gguf import GGUFReader

    try:
        tensors = [(tensor, str(tensor.tensor_type.name)) for tensor in GGUFReader(file).tensors]
    except _BROKEN as error:
        raise ValueError(f"{file} is not a readable GGUF file (truncated or corrupt?): {error}") from error
    if not tensors:
        raise ValueError(f"{file} holds no tensors")
    return tensors


def _convert(file: Path, building: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoModel

    kinds = {kind for _, kind in _tensors(file)}
    try:
        with quiet_loading(), _alone(file) as folder:
            model, loading = AutoModel.from_pretrained(
                folder, gguf_file=file.name, dtype="float32", output_loading_info=True, trust_remote_code=False
            )
    except (*_BROKEN, ImportError) as error:
        raise ValueError(f"{file} cannot be converted by transformers: {error}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(f"{file} has no weights for {len(missing)} parameters of the model, such as {missing[0]!r}")
    quantised = sorted(kinds - _PLAIN.keys())
    if quantised:
        logger.warning(
            "%s is quantised (%s): its weights are dequantised, but do not regain precision",
            file,
            ", ".join(quantised),
        )
    weights = {name: _narrowed(tensor, kinds, bool(quantised)) for name, tensor in model.state_dict().items()}
    config = model.config
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):  # transformers sets it for every GGUF file
        del config.quantization_config
    config.save_pretrained(building)
    with writing_weights(building):
        save_file(weights, building / "model.safetensors", metadata={"format": "pt"})
    with quiet_loading():
        _save_tokenizer(file, building)


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """A folder with a link to the file: transformers would use an adapter's configuration in the file's own folder."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, file.name).symlink_to(file.resolve())
        yield Path(folder)


def _narrowed(tensor: torch.Tensor, kinds: set[str], quantised: bool) -> torch.Tensor:
    import torch

    if quantised and tensor.ndim > 1:
        return tensor.to(torch.float16)
    for name in ("F16", "BF16"):
        if name in kinds and torch.equal((narrow := tensor.to(getattr(torch, _PLAIN[name]))).float(), tensor):
            return narrow
    return tensor


def _save_tokenizer(file: Path, building: Path) -> None:
    from transformers import AutoTokenizer

    try:
        with _alone(file) as folder:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (transformers may raise anything; a merge needs no tokenizer)
        logger.info("%s: no tokenizer was made: %s", file, error)
        return
    try:
        tokenizer.save_pretrained(building)
    except Exception as error:  # tokenizers raises no narrower class
        raise OSError(f"the tokenizer could not be written into {building} (is the disk full?): {error}") from error
