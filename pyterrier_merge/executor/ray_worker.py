"""Running an item in a worker on a node of a Ray cluster."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pyterrier_merge.extras import import_extra
from pyterrier_merge.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """Requirements of a node, the log folder of its workers, and the working folder."""

    versions: dict[str, str]
    canary: Path
    logs: Path
    folder: Path

    def other_gpu(self, number: int) -> Path:
        """Return the file that a worker makes if it ends because Ray has assigned it another GPU."""
        return self.canary.with_name(f"{self.canary.name}-{number}")


def run_item(key: str, work: list[Any], number: int, item: Any, node: Node) -> Any:
    """Run an item on a node, which must have the same versions and see the same cache."""
    _require_alike(platform.node(), versions(), node.versions, node.canary)
    if node.folder.is_dir():
        os.chdir(node.folder)  # paths that a user gave may be relative
    _log_to(node.logs)
    _keep_gpus(node.other_gpu(number))
    started = time.perf_counter()
    try:
        made = _work_of(key, *work)(item)
    except Exception:
        logger.exception("an item failed")
        raise
    logger.info("an item took %.3f s", time.perf_counter() - started)
    return made


@cache
def _first_gpus() -> list[Any]:
    gpus: list[Any] = import_ray().get_gpu_ids()
    return gpus


def _keep_gpus(mark: Path) -> None:
    """End this process if Ray assigned it another GPU: CUDA stays on the first one, which another worker may use."""
    if import_ray().get_gpu_ids() != _first_gpus():
        logger.warning("Ray assigned another GPU to this process: it exits, and the item runs again in a new one")
        mark.touch()
        os._exit(1)


_kept: dict[str, Callable[[Any], Any]] = {}  # in a worker: the function of the current job, by the job's key


def _work_of(key: str, ref: Any) -> Callable[[Any], Any]:
    """Return the function of a job. A process reads it once, so that loaded models are kept."""
    if key not in _kept:
        _kept.clear()  # first free the model of another job
        _kept[key] = import_ray().get(ref)
    return _kept[key]


@cache
def _log_to(folder: Path) -> None:
    """Write the log of this process into its own file, if this node sees the folder."""
    try:
        handler = logging.FileHandler(folder / f"{platform.node()}-{os.getpid()}.log", encoding="utf-8")
    except OSError:
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("pyterrier_merge")
    package.addHandler(handler)
    package.setLevel(logging.INFO)


@cache
def versions() -> dict[str, str]:
    """Return the versions that must be the same on all nodes."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "pyterrier-merge": __version__, "torch": metadata.version("torch")}


def _require_alike(node: str, found: dict[str, str], expected: dict[str, str], canary: Path) -> None:
    for name, version in expected.items():
        if found[name] != version:
            raise RuntimeError(f"{node} has {name} {found[name]}, not {version}: install the same versions everywhere")
    if not canary.is_file():
        raise RuntimeError(
            f"{node} does not see the cache {canary.parent}: set PYTERRIER_MERGE_CACHE to a folder that all nodes see"
        )


def import_ray() -> Any:
    """Return the module ``ray``.

    Raises:
        ModuleNotFoundError: Ray is not installed; the message names the extra.
    """
    return import_extra("ray", "ray", "several machines need Ray")
