"""Where work items run: in this process, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pyterrier_merge.extras import import_extra
from pyterrier_merge.storage import cache_folder, user_path
from pyterrier_merge.version import __version__

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Made = TypeVar("Made")

CONNECT_SECONDS = STOP_SECONDS = 10
ATTEMPTS = 3  # to run an item whose worker is lost
FAILURES = 3  # items that may fail before the others are given up
PATIENCE = 60  # seconds without a finished item, after which the cluster is looked at
AHEAD = 4  # items for each worker that may be finished or running before the oldest of them is yielded
_PASSED_ON = ("PYTERRIER_HOME", "IR_DATASETS_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")


class Executor(Protocol):
    """Maps a function over work items. Both must be picklable, so that other processes can take items."""

    @property
    def workers(self) -> int:
        """How many items run at a time. With one, work that gains by staying together is a single item."""

    @property
    def retries(self) -> int:
        """How often an item ran again, because its worker was lost."""

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield what ``work`` makes of each item, in the order of the items, which are read as they are needed."""


class InProcess:
    """Runs one item after the other in this process."""

    workers = 1
    retries = 0

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield what ``work`` makes of each item, when it is asked for."""
        return map(work, items)


class LostItemError(RuntimeError):
    """An item has lost its worker too often: it is likely to be what kills workers."""

    def __init__(self, number: int, item: Any, reason: str) -> None:
        """Say which one.

        Args:
            number: Of the item, from 0.
            item: The item.
            reason: What became of the last worker.
        """
        super().__init__(f"work item {number + 1} has lost its worker {ATTEMPTS} times: {reason}")
        self.item = item


class OnRay:
    """Runs items as tasks of a Ray cluster.

    If the process or the node of an item is lost, the item runs again on a free one, three times at most. If an item
    fails, the others go on until three have failed: what they write themselves is kept. Tasks, not actors: an actor
    whose node is lost waits for a free place, while the others hold theirs until all is done. A process keeps ``work``
    from one item to the next, with the model that it has loaded.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        workers: int | None = None,
        gpus_per_worker: float = 0,
        logs: str | Path | None = None,
    ) -> None:
        """Connect to the cluster.

        Args:
            address: Of the cluster: ``auto`` for the one that this machine belongs to, ``local`` to start one here, or
                ``HOST:PORT``.
            workers: Items that run at a time. As many as the cluster has GPUs or CPUs for when None.
            gpus_per_worker: GPUs of an item, which may be a fraction; 0 computes on CPUs.
            logs: Folder for a log file of each worker on nodes that see it; ``ray-logs`` in the cache when None.

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
        self.resources = {"num_cpus": 1.0, "num_gpus": float(gpus_per_worker)}
        room = _room(ray.cluster_resources(), self.resources)
        if workers is not None and workers < 1:
            raise ValueError(f"workers is a whole number of at least 1, found {workers!r}")
        if room < 1:
            raise ValueError(
                f"a worker needs 1 CPU and {gpus_per_worker:g} GPUs, and the cluster has "
                f"{ray.cluster_resources().get('CPU', 0):g} CPUs and {ray.cluster_resources().get('GPU', 0):g} GPUs"
            )
        self.workers = workers or room
        self.retries = 0
        self.logs = logs

    def __str__(self) -> str:
        gpus = f" with {self.resources['num_gpus']:g} GPUs each" if self.resources["num_gpus"] else ""
        return f"a Ray cluster, {self.workers} workers{gpus}"

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield what ``work`` makes of each item, in the order of the items, which are read as they are needed.

        Raises:
            RuntimeError: A node has another version of Python, torch or this package, or does not see the cache.
            LostItemError: An item lost its worker three times.
            Exception: What ``work`` raised; the first, where several items failed. The log has the others.
        """
        with _shared_folder() as (canary, variables):
            folder = user_path(self.logs or cache_folder("ray-logs")).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            node = _Node(_versions(), canary, folder, Path.cwd())
            options = {**self.resources, "max_retries": 0, "runtime_env": {"env_vars": variables}}
            job = _Job(self, work, node, options)
            try:
                yield from job.run(enumerate(items))
            finally:  # of a caller that stops, too
                job.cancel()


@dataclass(frozen=True)
class _Node:
    """What a node must be like, where its workers log, and the working folder."""

    versions: dict[str, str]
    canary: Path
    logs: Path
    folder: Path


@dataclass(frozen=True)
class _Started:
    """An item that runs."""

    number: int
    item: Any
    attempt: int


class _Job:
    """The items of one call of :meth:`OnRay.map`."""

    def __init__(self, executor: OnRay, work: Callable[[Any], Any], node: _Node, options: dict[str, Any]) -> None:
        ray = _ray()
        self._executor, self._ray, self._node = executor, ray, node
        self._task = ray.remote(_run).options(**options)
        self._key, self._work = uuid.uuid4().hex, ray.put(work)
        self._running: dict[Any, _Started] = {}
        self._done: dict[int, Any] = {}
        self._failures: dict[int, tuple[BaseException, BaseException | None]] = {}  # error and, in a worker, its origin

    def run(self, items: Iterator[tuple[int, Any]]) -> Iterator[Any]:
        """Yield what is made, in order; raise the first failure at the end."""
        started, yielded, more, workers = 0, 0, True, self._executor.workers
        while True:
            while more and len(self._running) < workers and (self._failures or started < yielded + AHEAD * workers):
                if item := self._next(items):
                    self._start(_Started(*item, attempt=1))
                    started += 1
                else:
                    more = False
            if not self._running or len(self._failures) == FAILURES:
                break
            self._collect()
            while not self._failures and yielded in self._done:
                yield self._done.pop(yielded)
                yielded += 1
        self._raise()

    def _next(self, items: Iterator[tuple[int, Any]]) -> tuple[int, Any] | None:
        try:
            return next(items, None)
        except Exception:
            self._raise()  # what failed before
            raise

    def _raise(self) -> None:
        """Raise the first failure, if there is one."""
        if self._failures:
            error, origin = self._failures[min(self._failures)]
            raise error from origin

    def cancel(self) -> None:
        """Stop what runs, and wait until it has stopped."""
        for ref in self._running:
            self._ray.cancel(ref, force=True)
        running = list(self._running)
        stopped, _ = self._ray.wait(running, num_returns=len(running), timeout=STOP_SECONDS) if running else ([], [])
        for ref in stopped:
            with suppress(Exception):  # Ray would log the error otherwise
                self._ray.get(ref)

    def _start(self, started: _Started) -> None:
        # in a list, Ray passes the reference on instead of what it refers to
        ref = self._task.remote(self._key, [self._work], started.item, self._node)
        self._running[ref] = started

    def _collect(self) -> None:
        """Wait for an item, whichever is done first: a worker that is free gets the next one at once."""
        while not (ready := self._ray.wait(list(self._running), timeout=PATIENCE)[0]):
            if _room(self._ray.cluster_resources(), self._executor.resources) < 1:
                logger.warning("the cluster has no room for a worker any more: waiting until a node comes back")
        started = self._running.pop(ready[0])
        errors = self._ray.exceptions
        try:
            made = self._ray.get(ready[0])
        except errors.RayTaskError as error:  # it holds the traceback of the worker
            self._fail(started, error.cause or error, error if error.cause else None)
        except errors.RayError as error:
            reason = str(error).strip().splitlines()[0].partition(". ")[0]
            if started.attempt == ATTEMPTS:
                self._fail(started, LostItemError(started.number, started.item, reason), error)
            else:
                logger.warning("work item %d has lost its worker (%s): it runs again", started.number + 1, reason)
                self._executor.retries += 1
                self._start(replace(started, attempt=started.attempt + 1))
        else:
            if not self._failures:
                self._done[started.number] = made

    def _fail(self, started: _Started, error: BaseException, origin: BaseException | None) -> None:
        self._failures[started.number] = error, origin
        self._done.clear()
        further = "; others go on, and the error follows at the end" if len(self._failures) < FAILURES else ""
        logger.warning("work item %d failed%s: %s", started.number + 1, further, error)


def _require_listening(address: str) -> None:
    """Raise ``OSError`` if nothing listens at ``HOST:PORT``: Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _run(key: str, work: list[Any], item: Any, node: _Node) -> Any:
    """Run an item on a node, if that has the same versions and sees the same cache."""
    _require_alike(platform.node(), _versions(), node.versions, node.canary)
    if node.folder.is_dir():
        os.chdir(node.folder)  # paths that a user gave may be relative
    _log_to(node.logs)
    _keep_gpus()
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
    gpus: list[Any] = _ray().get_gpu_ids()
    return gpus


def _keep_gpus() -> None:
    """End this process if Ray has given it another GPU: CUDA stays on the first one, which may be another's by now."""
    if _ray().get_gpu_ids() != _first_gpus():
        logger.warning("this process has another GPU than before: it ends, and the item runs again in a new one")
        os._exit(1)


_kept: dict[str, Callable[[Any], Any]] = {}  # in a worker: the function of the current job, by the job's key


def _work_of(key: str, ref: Any) -> Callable[[Any], Any]:
    """Return the function of a job; a process reads it once, so that it keeps what it has loaded."""
    if key not in _kept:
        _kept.clear()  # first free the model of another job
        _kept[key] = _ray().get(ref)
    return _kept[key]


@cache
def _log_to(folder: Path) -> None:
    """Write what this process logs into a file of its own, if this node sees the folder."""
    try:
        handler = logging.FileHandler(folder / f"{platform.node()}-{os.getpid()}.log", encoding="utf-8")
    except OSError:
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("pyterrier_merge")
    package.addHandler(handler)
    package.setLevel(logging.INFO)


@contextmanager
def _shared_folder() -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a file in the cache for nodes to look for, and return it with the variables that they need."""
    folder = cache_folder()
    canary = folder / f".ray-{uuid.uuid4().hex}"
    canary.touch()
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        yield canary, {**variables, "PYTERRIER_MERGE_CACHE": str(folder)}
    finally:
        canary.unlink(missing_ok=True)


@cache
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
