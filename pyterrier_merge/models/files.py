"""The files in a model's folder: its configuration, the transformer's part, the files that define the model."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyterrier_merge.fingerprint import DIGITS, fingerprint, fingerprint_file

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model")
TRAINING = "training.json"  # written by this package's training
MERGE = "merge.json"  # in the folder of a saved merge
# Records of how a model was made and how long it took: from this package and from transformers' Trainer.
PROVENANCE = frozenset(
    {
        TRAINING,
        "training.csv",
        MERGE,
        "trainer_state.json",
        "all_results.json",
        "train_results.json",
        "eval_results.json",
    }
)
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def fingerprint_model(folder: Path) -> str:
    """Return the fingerprint of the files that define a model: weights, configurations, tokenizer.

    Records of how it was made (``training.json``, ``merge.json``) are left out, so that repeating a training gives the
    same fingerprint.

    Files are read once in a process and again only when their size, time or inode changes; files in the hub's cache are
    named by their SHA-256 and are not read at all.
    """
    files = [file for file in defining_files(folder) if file.name not in PROVENANCE]
    return fingerprint({str(file.relative_to(folder)): file_digest(file) for file in files})


def defining_files(folder: Path) -> list[Path]:
    """Return the files that define a model: weights, configurations and tokenizer, in its folder and its modules'.

    Other folders (``onnx``, checkpoints of a training) and weights in an unused format are left out.
    """
    places = {folder, *(folder / module["path"] for module in _modules(folder))}
    beside = {file for place in places for pattern in _BESIDE_WEIGHTS for file in place.glob(pattern)}
    return sorted(beside.union(*map(weight_files, places)))


def file_digest(file: Path) -> str:
    """Return the fingerprint of a file's bytes, cached until the file changes."""
    file = file.resolve()
    if file.parent.name == "blobs" and _DIGEST.match(file.name):
        return file.name[:DIGITS]
    stat = file.stat()
    return _digest_at(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def transformer_folder(folder: Path) -> Path:
    """Return the folder of the transformer's own files: the model's folder, or the first one in ``modules.json``.

    Raises:
        ValueError: ``modules.json`` is not what sentence-transformers writes.
    """
    modules = _modules(folder)
    return folder / modules[0]["path"] if modules else folder


def first_module(folder: Path) -> str | None:
    """Return the class of the module that ``modules.json`` names first; None without such a file."""
    modules = _modules(folder)
    return modules[0]["type"].rpartition(".")[2] if modules else None


def projection_folders(folder: Path) -> list[Path]:
    """Return the folders of the dense modules that come after the transformer, in their order.

    Raises:
        ValueError: ``modules.json`` is not what sentence-transformers writes.
    """
    return [folder / module["path"] for module in _modules(folder) if module["type"].rpartition(".")[2] == "Dense"]


def has_weights(folder: Path) -> bool:
    """Whether a folder holds the weights of a transformer, whole or sharded."""
    return any((transformer_folder(folder) / file).is_file() for file in WEIGHT_FILES)


def weight_files(folder: Path) -> set[Path]:
    """Return the files that weights are read from: the first format found, with its shards; or an adapter's."""
    names = next(([name] for name in WEIGHT_FILES if (folder / name).is_file()), list(_ADAPTER_FILES))
    if names[0].endswith(".index.json"):
        shards = read_json(folder / names[0]).get("weight_map")
        names.extend({str(shard) for shard in shards.values()} if isinstance(shards, dict) else ())
    return {folder / name for name in names if (folder / name).is_file()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It cannot be read, or is not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object but a {type(content).__name__}")  # noqa: TRY004 (data, not a call)
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of a transformer's folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not a transformers checkpoint")
    return read_json(path)


def read_training(folder: Path) -> dict[str, Any]:
    """Return what this package's training wrote into a model's folder; empty for other models.

    Raises:
        ValueError: ``training.json`` cannot be read, or is not a JSON object.
    """
    file = folder / TRAINING
    return read_json(file) if file.is_file() else {}


def read_merge(folder: Path) -> dict[str, Any]:
    """Return the record in the folder of a saved merge; empty for other folders.

    Raises:
        ValueError: ``merge.json`` cannot be read, or is not a JSON object.
    """
    file = folder / MERGE
    return read_json(file) if file.is_file() else {}


def count_layers(folder: Path) -> int:
    """Return the number of transformer layers that ``config.json`` in ``folder`` states.

    Raises:
        FileNotFoundError: There is no ``config.json``.
        ValueError: It states no number of layers.
    """
    config = read_config(folder)
    for part in (config, config.get("text_config")):
        for key in _DEPTHS:
            depth = part.get(key) if isinstance(part, dict) else None
            if isinstance(depth, int) and not isinstance(depth, bool) and depth > 0:
                return depth
    raise ValueError(f"{folder / 'config.json'} states no number of layers (expected one of {', '.join(_DEPTHS)})")


def _modules(folder: Path) -> list[dict[str, str]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        found = [{"path": str(module["path"]), "type": str(module["type"])} for module in modules]
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise ValueError(f"{path} is not a list of sentence-transformers modules: {error!r}") from error
    if not found:
        raise ValueError(f"{path} is not a list of sentence-transformers modules: it is empty")
    return found


@lru_cache(maxsize=4096)
def _digest_at(file: Path, _size: int, _time: int, _inode: int) -> str:
    return fingerprint_file(file)
