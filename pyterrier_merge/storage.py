"""Folders on disk: the cache, checks of free space, and folders that appear only when complete."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyterrier as pt

_LONG = 24 * 60 * 60  # seconds
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def user_path(path: str | Path) -> Path:
    """Return a path that a user gave, with the home folder for ``~``, or another user's for ``~NAME``.

    Every public function that takes a path reads it with this. A name that begins with ``~`` and is not a user's is
    not changed.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 (the method of Path raises if there is no such user)


def cache_folder(*parts: str) -> Path:
    """Return a folder of the package's cache (indexes, trained domain models); made if missing.

    The cache is ``$PYTERRIER_MERGE_CACHE`` if that is set, else ``merge`` in PyTerrier's home.
    """
    cache = os.environ.get("PYTERRIER_MERGE_CACHE") or Path(pt.io.pyterrier_home(), "merge")
    folder = user_path(cache).absolute().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_existing(path: str | Path, *, overwrite: bool) -> None:
    """Raise ``FileExistsError`` if ``path`` exists and ``overwrite`` is false.

    Raise ``ValueError`` if ``overwrite`` is true and ``path`` is or contains the current folder.
    """
    if not os.path.lexists(path):  # also True for a broken link
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists already; choose another path, delete it, or pass overwrite=True")
    here, place = Path.cwd(), Path(path).resolve()
    if place in (here, *here.parents):
        raise ValueError(f"{path} is or holds the current folder ({here}), which cannot be replaced: work in another")


def is_foreign(path: Path, mark: str) -> bool:
    """Whether something exists that must not be replaced: neither an empty folder, nor one with the file ``mark``."""
    return path.exists() and not (path / mark).is_file() and not (path.is_dir() and not any(path.iterdir()))


def require_room(folder: Path, needed: int, what: str, *, mend: str = "choose another folder") -> None:
    """Raise ``OSError`` if the disk of ``folder``, which need not exist yet, has less than ``needed`` bytes free.

    Args:
        folder: The folder to write to.
        needed: Number of bytes.
        what: Description of the data, for the message.
        mend: What to do other than to make room, for the message.
    """
    folder = folder.resolve()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"no room for {what}: {needed:,} bytes ({needed / 1e9:.2f} GB) needed, {free:,} ({free / 1e9:.2f} GB) free "
            f"on the disk of {folder}; make room, or {mend}"
        )


def in_bytes(size: int | None) -> str:
    """Return a size with a unit: ``14.5 GB``."""
    if size is None:
        return "not known"
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e5 else (1e3, "kB")
    return f"{size / unit:,.1f} {name}"


@contextmanager
def finished_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``; flush it to disk and rename it to ``path`` if the block succeeds.

    If the block raises, the temporary folder is removed and ``path`` is not changed. A temporary folder of a killed
    process is removed by the next call, once nothing in it has changed for a day.

    Args:
        path: The folder to make, or a link to it, which is kept. Its parents are made too.
        overwrite: Replace an existing ``path`` at the very end; with several processes, the last one wins.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is false.
        ValueError: ``path`` is to be overwritten, and is or contains the current folder.
    """
    given, path = path, Path(path).resolve()
    restore_folder(path)
    refuse_existing(given, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path, age=_LONG)
    beside = _new_name(path, "part")
    beside.mkdir()
    try:
        yield beside
        _allow_readers(beside)
        finish_folder(beside, path, overwrite=overwrite)
    finally:
        _delete(beside)


def remove_unfinished(path: Path, *, age: float = 0) -> None:
    """Delete the temporary folders of processes that were killed in ``finished_folder(path)``.

    Args:
        path: The folder that they were making.
        age: Seconds without a change in a deleted folder. With 0, folders of running processes are deleted too: call
            it under a lock that all of them hold.
    """
    for left in _named(path, "part"):
        with suppress(OSError):  # deleted by another process, or owned by another user
            changed = max(file.lstat().st_mtime for file in (left, *left.rglob("*")))
            if not age or time.time() - changed > age:
                _delete(left)


def finish_folder(beside: Path, path: Path, *, overwrite: bool = False) -> None:
    """Flush every file of ``beside`` to disk and rename it to ``path``: the last step of a build.

    With ``overwrite``, an existing ``path`` is moved aside first. No lock is used, because some shared disks do not
    support locks: a ``path`` that another process creates in between is moved aside too.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is false, also if it has just been created.
    """
    _flush(beside)
    placed = False
    while not placed:
        if overwrite:
            with suppress(FileNotFoundError):
                path.replace(_new_name(path, "old"))
        else:
            refuse_existing(path, overwrite=False)
        try:
            beside.replace(path)
            placed = True
        except OSError as error:
            if error.errno not in _OCCUPIED:
                restore_folder(path)
                raise
    restore_folder(path)
    _fsync(path.parent)


def restore_folder(path: Path) -> None:
    """Restore a folder that a killed job moved aside before replacing it; delete it if it was replaced."""
    with suppress(OSError):  # another process was faster
        for aside in sorted(_named(path, "old"), reverse=True):
            if os.path.lexists(path):  # renamed first: a partly deleted folder must never be restored
                delete_whole(aside)
            else:
                aside.replace(path)


def delete_whole(path: Path) -> None:
    """Delete a file or a folder; it is renamed first, so that no other process opens half of it."""
    with suppress(FileNotFoundError):  # another process was faster
        _delete(path.replace(_new_name(path, "part")))


def write_file(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write text (UTF-8) or bytes atomically: ``path`` holds either the new or the old content."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # several nodes may write the same file
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        _fsync(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _fsync(path.parent)


def _prefix(path: Path) -> str:
    """The prefix of hidden names next to ``path``, which no other file has."""
    return f".{path.name}.pyterrier-merge-"


def _new_name(path: Path, ending: str) -> Path:
    """An unused name; later names sort after earlier ones."""
    return path.parent / f"{_prefix(path)}{time.time_ns()}-{secrets.token_hex(4)}.{ending}"


def _named(path: Path, ending: str) -> list[Path]:
    return list(path.parent.glob(f"{glob.escape(_prefix(path))}*.{ending}"))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _allow_readers(folder: Path) -> None:
    """Give files that only their owner can read, such as those of safetensors, the folder's mode."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def _flush(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        _fsync(file)
    _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
