"""The cache of derived models: merged adapters, converted files. Only this module imports filelock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyterrier_merge.storage import cache_folder, finished_folder, remove_unfinished, require_room

_SPARE_BYTES = 2**26  # configurations and tokenizers


def kept_model(identity: str, write: Callable[[Path], None], *, size: Callable[[], int], what: str) -> Path:
    """Return the cached folder of a derived model; create it if it is missing.

    Processes that need the same model at the same time wait for the one that creates it. Files that a killed process
    left are deleted before the model is created again.

    Args:
        identity: Fingerprint of all inputs of the model.
        write: Writes its files into a folder. They are deleted if it raises.
        size: Bytes of the weights to be written; called before ``write``.
        what: Description of the model, for messages.

    Raises:
        OSError: The disk does not have enough room.
    """
    from filelock import FileLock

    folder = cache_folder("models") / identity
    if not folder.is_dir():
        with FileLock(cache_folder("locks") / f"{identity}.lock"):
            if not folder.is_dir():
                remove_unfinished(folder)
                _make(folder, write, size(), what)
    return folder


def _make(folder: Path, write: Callable[[Path], None], size: int, what: str) -> None:
    mend = "set PYTERRIER_MERGE_CACHE to a folder of a larger disk"
    require_room(folder.parent, size + _SPARE_BYTES, what, mend=mend)
    with finished_folder(folder) as building:
        write(building)
