"""The entries of the cache: one for each index, trained model or file of scores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.storage import cache_folder, delete_whole

UNFINISHED = 24 * 60 * 60  # seconds: a running build changes its files within this time


@dataclass(frozen=True)
class CacheEntry:
    """A file or a folder of the cache.

    Attributes:
        kind: The cache folder that it is in, such as ``indexes``.
        path: Its path.
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
    """Delete an entry; other processes never see a part of it."""
    delete_whole(entry.path)


def _entries(folder: Path) -> Iterator[CacheEntry]:
    for path in sorted(folder.iterdir()):
        size, changed = _measured(path)
        if not path.name.startswith(".") or time.time() - changed > UNFINISHED:
            yield CacheEntry(folder.name, path, size, changed)


def _measured(path: Path) -> tuple[int, float]:
    """Size in bytes, and time of the last change."""
    size, changed = 0, 0.0
    for file in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with suppress(FileNotFoundError):  # another process has deleted it
            found = file.lstat()
            size += found.st_blocks * 512
            changed = max(changed, found.st_mtime)
    return size, changed
