"""What the cache holds: one entry for each index, trained model or file of scores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.storage import cache_folder, delete_whole

UNFINISHED = 24 * 60 * 60  # seconds: what is being built has changed since


@dataclass(frozen=True)
class CacheEntry:
    """A file or a folder of the cache.

    Attributes:
        kind: Folder of the cache that it lies in, such as ``indexes``.
        path: Where it lies.
        size: Bytes on disk.
        changed: When anything in it last changed, in seconds since the epoch.
    """

    kind: str
    path: Path
    size: int
    changed: float


def entries(*kinds: str) -> list[CacheEntry]:
    """Return the entries of these kinds, or of all, in order; unfinished ones that changed within a day are left out.

    Raises:
        ValueError: The cache has no such kind.
    """
    folders = {folder.name: folder for folder in sorted(cache_folder().iterdir()) if folder.is_dir()}
    for kind in kinds:
        if kind not in folders:
            raise ValueError(f"the cache has no {kind!r}; {did_you_mean(kind, tuple(folders), 'it has')}")
    return [entry for kind in kinds or folders for entry in _entries(folders[kind])]


def remove(entry: CacheEntry) -> None:
    """Delete an entry; no other process sees half of it."""
    delete_whole(entry.path)


def _entries(folder: Path) -> Iterator[CacheEntry]:
    for path in sorted(folder.iterdir()):
        size, changed = _measured(path)
        if not path.name.startswith(".") or time.time() - changed > UNFINISHED:
            yield CacheEntry(folder.name, path, size, changed)


def _measured(path: Path) -> tuple[int, float]:
    """Bytes, and when the newest of it was changed."""
    size, changed = 0, 0.0
    for file in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with suppress(FileNotFoundError):  # another process has deleted it
            found = file.lstat()
            size += found.st_blocks * 512
            changed = max(changed, found.st_mtime)
    return size, changed
