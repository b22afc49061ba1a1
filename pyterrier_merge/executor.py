"""Where work items run: in this process, or on a Ray cluster."""

from __future__ import annotations

import os
import platform
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pyterrier_merge.extras import import_extra
from pyterrier_merge.storage import cache_folder
from pyterrier_merge.version import __version__

Item = TypeVar("Item")
Made = TypeVar("Made")

CONNECT_SECONDS = 10
ATTEMPTS = 3  # to run an item whose worker is lost
_PASSED_ON = ("PYTERRIER_HOME", "IR_DATASETS_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")


class Executor(Protocol):
    """Maps a function over work items. Both must be picklable, so that other processes can take items."""

    @property
    def workers(self) -> int:
        """How many items run at a time. With one, work that gains by staying together is a single item."""

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield what ``work`` makes of each item, in the order of the items."""


class InProcess:
    """Runs one item after the other in this process."""

    workers = 1

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield what ``work`` makes of each item, when it is asked for."""
        return map(work, items)


class OnRay:
    """Runs items as tasks of a Ray cluster.

    If the process or the node of an item is lost, Ray runs the item again on another one, three times at most. Items
    write what they finish into the cache, which all nodes must see. Tasks, not actors: an actor whose node is lost
    waits for a free place, while the others hold theirs until all is done.
    """

    def __init__(self, address: str = "auto", *, workers: int | None = None, gpus_per_worker: float = 0) -> None:
        """Connect to the cluster.

        Args:
            address: Of the cluster: ``auto`` for the one that this machine belongs to, ``local`` to start one here, or
                ``HOST:PORT``.
            workers: Items that run at a time. As many as the cluster has GPUs or CPUs for when None.
            gpus_per_worker: GPUs of an item, which may be a fraction; 0 computes on CPUs.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            RuntimeError: There is no such cluster.
            ValueError: The cluster has no room for one worker, or the numbers are not positive.
        """
        ray = _ray()
        if not ray.is_initialized():
            options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
            try:
                _require_listening(address)
                ray.init(address, **options)
            except (OSError, ValueError) as error:
                raise RuntimeError(
                    f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}): start one with 'ray start --head', "
                    "or give 'local'"
                ) from error
        self._resources = {"num_cpus": 1.0, "num_gpus": float(gpus_per_worker)}
        room = _room(ray.cluster_resources(), self._resources)
        if workers is not None and workers < 1:
            raise ValueError(f"workers is a whole number of at least 1, found {workers!r}")
        if room < 1:
            raise ValueError(
                f"a worker needs 1 CPU and {gpus_per_worker:g} GPUs, and the cluster has "
                f"{ray.cluster_resources().get('CPU', 0):g} CPUs and {ray.cluster_resources().get('GPU', 0):g} GPUs"
            )
        self.workers = workers or room

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield what ``work`` makes of each item, in the order of the items.

        Raises:
            RuntimeError: A node has another version of Python, torch or this package, or does not see the cache; or an
                item lost its worker three times.
            Exception: What ``work`` raised.
        """
        ray, items = _ray(), list(items)
        with _shared_folder() as (canary, variables):
            options = {**self._resources, "max_retries": ATTEMPTS - 1, "runtime_env": {"env_vars": variables}}
            task = ray.remote(_run).options(**options)
            shared, expected = ray.put(work), _versions()
            refs: list[Any] = []
            running: list[Any] = []
            try:
                for number in range(len(items)):
                    while True:
                        while len(refs) < len(items) and len(running) < self.workers:
                            refs.append(task.remote(shared, items[len(refs)], expected, canary))
                            running.append(refs[-1])
                        if refs[number] not in running:
                            break
                        _, running = ray.wait(running)  # for any: a worker that is free gets the next item
                    yield _made(ray, refs[number], number)
                    refs[number] = None
            finally:  # of a caller that stops, too
                for ref in running:
                    ray.cancel(ref, force=True)


def _require_listening(address: str) -> None:
    """Raise ``OSError`` if nothing listens at ``HOST:PORT``: Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _made(ray: Any, ref: Any, number: int) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise RuntimeError(f"work item {number + 1} has lost its worker {ATTEMPTS} times: {reason}") from error


def _run(work: Callable[[Any], Any], item: Any, expected: dict[str, str], canary: Path) -> Any:
    """Run an item on a node, if that has the same versions and sees the same cache."""
    _require_alike(platform.node(), _versions(), expected, canary)
    return work(item)


@contextmanager
def _shared_folder() -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a file in the cache for nodes to look for, and return it with the variables that they need."""
    cache = cache_folder().absolute()
    cache.mkdir(parents=True, exist_ok=True)
    canary = cache / f".ray-{uuid.uuid4().hex}"
    canary.touch()
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        yield canary, {**variables, "PYTERRIER_MERGE_CACHE": str(cache)}
    finally:
        canary.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
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


def _room(cluster: dict[str, float], worker: dict[str, float]) -> int:
    """Workers that fit into a cluster."""
    gpus = worker["num_gpus"]
    by_gpus = cluster.get("GPU", 0) / gpus if gpus else float("inf")
    return int(min(cluster.get("CPU", 0) / worker["num_cpus"], by_gpus))


def _ray() -> Any:
    return import_extra("ray", "ray", "several machines need Ray")
