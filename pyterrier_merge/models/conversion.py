"""Models made from others once and kept: merged adapters, converted files. The only importer of filelock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyterrier_merge.storage import cache_folder, finished_folder, remove_unfinished, require_room

_SPARE_BYTES = 2**26  # configurations and tokenizers


def kept_model(identity: str, write: Callable[[Path], None], *, size: Callable[[], int], what: str) -> Path:
    """Return the cached folder of a made model; make it where it is not there yet.

    Processes that want the same model at the same time wait for the one that makes it; what one that was killed has
    left is deleted before the model is made anew.

    Args:
        identity: Fingerprint of everything that the model is made from.
        write: Writes its files into a folder. Nothing stays of them where it raises.
        size: Bytes of the weights to be written; asked for before ``write`` is called.
        what: What is made, for messages.

    Raises:
        OSError: The disk has not that much room.
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
