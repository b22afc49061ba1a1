"""Folders on disk: where caches live, and folders that appear finished or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyterrier as pt


def cache_folder(*parts: str) -> Path:
    """Return a folder of the package's cache (indexes, trained domain models); made if missing.

    The cache is ``$PYTERRIER_MERGE_CACHE`` where that is set, else ``merge`` in PyTerrier's home.
    """
    cache = os.environ.get("PYTERRIER_MERGE_CACHE") or Path(pt.io.pyterrier_home(), "merge")
    folder = Path(cache, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_existing(path: str | Path, *, overwrite: bool) -> None:
    """Raise ``FileExistsError`` where something stands at ``path`` and ``overwrite`` was not said."""
    path = Path(path)
    if (path.exists() or path.is_symlink()) and not overwrite:  # a link to nowhere stands there too
        raise FileExistsError(f"{path} exists already; choose another path, delete it, or pass overwrite=True")


@contextmanager
def finished_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; flush it to disk and rename it to ``path`` when the block ends well.

    When the block raises, the temporary folder is removed and whatever stood at ``path`` stays as it was.

    Args:
        path: The folder to make. Its parents are made too.
        overwrite: Replace what stands at ``path``, at the very end.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is false.
    """
    path = Path(path)
    restore_folder(path)
    refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield beside
        beside.chmod(0o777 & ~_umask())  # mkdtemp makes folders that their owner alone can read
        finish_folder(beside, path, overwrite=overwrite)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def finish_folder(beside: Path, path: Path, *, overwrite: bool = False) -> None:
    """Flush every file of ``beside`` to disk and rename it to ``path``: the last step of a build.

    Raises:
        FileExistsError: Something stands at ``path``, also where it appeared only now.
    """
    for file in sorted(beside.rglob("*")):
        _fsync(file)
    _fsync(beside)
    refuse_existing(path, overwrite=overwrite)
    aside = _aside(path)
    if overwrite and path.is_dir() and not path.is_symlink():
        path.replace(aside)
    try:
        beside.replace(path)
    except OSError:
        refuse_existing(path, overwrite=False)  # another process was faster
        restore_folder(path)
        raise
    _fsync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Put back what a job moved aside and was killed before it had replaced it; delete that where it had."""
    aside = _aside(path)
    if aside.is_dir() and not path.exists():
        aside.replace(path)
    shutil.rmtree(aside, ignore_errors=True)


def write_file(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) so that ``path`` holds either all of it or what it held before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        _fsync(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _fsync(path.parent)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
