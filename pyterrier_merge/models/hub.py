"""Models from the hub, in the hub's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from pyterrier_merge.models.files import has_weights, transformer_folder
from pyterrier_merge.models.weights import stored_tensors

_OTHER = ["onnx/*", "openvino/*", "original/*", "lora/*", "consolidated*"]  # the same weights in other formats


_OFFLINE: ContextVar[bool] = ContextVar("offline", default=False)


@contextmanager
def offline() -> Iterator[None]:
    """Use only the hub's cache inside this context: no requests to the hub, no downloads."""
    token = _OFFLINE.set(True)
    try:
        yield
    finally:
        _OFFLINE.reset(token)


def hub_snapshot(name: str, revision: str | None) -> Path:
    """Return the folder of a model or adapter in the hub's cache; download it if it is missing.

    Each process asks the hub once for a name, so that the name means one commit throughout. The folder's name is the
    commit.

    Raises:
        ValueError: The hub has no such model or revision.
        RuntimeError: The hub could not be reached, or is set offline, and its cache does not hold the model.
    """
    return _cached(name, revision) if _OFFLINE.get() else _fetched(name, revision)


@cache
def _fetched(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        for weights in ("*.safetensors", "*.bin"):  # many repositories hold both: one is enough
            wanted = [weights, "*.json", "*.txt", "*.model", "[0-9]*_*/*.bin", "README.md"]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=_OTHER))
            if has_weights(folder) or any(folder.glob("adapter_model.*")):
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


def _cached(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if not any(folder.glob("adapter_model.*")):
            stored_tensors(transformer_folder(folder))  # raises unless every shard exists
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError) as error:
        raise RuntimeError(f"model {name!r} is not, or not as a whole, in the hub's cache") from error
    return folder
