"""Executor that runs work items as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyterrier_merge.executor.base import Item, LostItemError, Made
from pyterrier_merge.executor.ray_worker import Node, import_ray, run_item, versions
from pyterrier_merge.storage import cache_folder, user_path

logger = logging.getLogger(__name__)

CONNECT_SECONDS = STOP_SECONDS = 10
ATTEMPTS = 3  # maximum runs of an item if its worker is lost
FAILURES = 3  # failed items after which the others are stopped
PATIENCE = 60  # seconds without a finished item after which the cluster is checked
AHEAD = 4  # items per worker that may be running or finished before the oldest of them is yielded
_PASSED_ON = ("PYTERRIER_HOME", "IR_DATASETS_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")


class OnRay:
    """Runs items as tasks of a Ray cluster.

    If the process or the node of an item is lost, the item runs again on a free one, at most three times in all. If an
    item fails, the others continue until three have failed, so that the files they write are kept. It uses tasks, not
    actors: an actor that lost its node waits for a free place, while the other actors hold theirs until the end. A
    process keeps ``work`` between items, with the model that it has loaded.
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
            address: Address of the cluster: ``auto`` for the one that this machine belongs to, ``local`` to start one
                here, or ``HOST:PORT``.
            workers: Number of items that run at a time; when None, as many as the cluster has GPUs or CPUs for.
            gpus_per_worker: GPUs per item, which may be a fraction; 0 computes on CPUs.
            logs: Folder for a log file of each worker on nodes that see it; ``ray-logs`` in the cache when None.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            RuntimeError: There is no such cluster.
            ValueError: The cluster has no room for one worker, or ``workers`` is below 1.
        """
        ray = import_ray()
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
        """Yield the result of ``work`` for each item, in order. Items are read only when they are needed.

        Raises:
            RuntimeError: A node has another version of Python, torch or this package, or does not see the cache.
            LostItemError: An item lost its worker three times.
            Exception: The error of ``work``; the first if several items failed. The log has the others.
        """
        with _shared_folder() as (canary, variables):
            folder = user_path(self.logs or cache_folder("ray-logs")).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            node = Node(versions(), canary, folder, Path.cwd())
            options = {**self.resources, "max_retries": 0, "runtime_env": {"env_vars": variables}}
            job = _Job(self, work, node, options)
            try:
                yield from job.run(enumerate(items))
            finally:  # also if the caller stops early
                job.cancel()


@dataclass(frozen=True)
class _Started:
    """A running item."""

    number: int
    item: Any
    attempt: int


class _Job:
    """The items of one call of :meth:`OnRay.map`."""

    def __init__(self, executor: OnRay, work: Callable[[Any], Any], node: Node, options: dict[str, Any]) -> None:
        ray = import_ray()
        self._executor, self._ray, self._node = executor, ray, node
        self._task = ray.remote(run_item).options(**options)
        self._key, self._work = uuid.uuid4().hex, ray.put(work)
        self._running: dict[Any, _Started] = {}
        self._done: dict[int, Any] = {}
        self._failures: dict[int, tuple[BaseException, BaseException | None]] = {}  # error, and Ray's error behind it

    def run(self, items: Iterator[tuple[int, Any]]) -> Iterator[Any]:
        """Yield the results in order; raise the first failure at the end."""
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
            self._raise()  # an earlier failure comes first
            raise

    def _raise(self) -> None:
        """Raise the first failure, if there is one."""
        if self._failures:
            error, origin = self._failures[min(self._failures)]
            raise error from origin

    def cancel(self) -> None:
        """Stop the running items, and wait until they have stopped."""
        for ref in self._running:
            self._ray.cancel(ref, force=True)
        running = list(self._running)
        stopped, _ = self._ray.wait(running, num_returns=len(running), timeout=STOP_SECONDS) if running else ([], [])
        for ref in stopped:
            with suppress(Exception):  # Ray would log the error otherwise
                self._ray.get(ref)

    def _start(self, started: _Started) -> None:
        # in a list, Ray passes on the reference instead of its value
        ref = self._task.remote(self._key, [self._work], started.number, started.item, self._node)
        self._running[ref] = started

    def _collect(self) -> None:
        """Wait for the item that finishes first, so that a free worker gets the next item at once."""
        while not (ready := self._ray.wait(list(self._running), timeout=PATIENCE)[0]):
            if _room(self._ray.cluster_resources(), self._executor.resources) < 1:
                logger.warning("the cluster has no room for a worker at present: waiting until a node comes back")
        started = self._running.pop(ready[0])
        errors = self._ray.exceptions
        try:
            made = self._ray.get(ready[0])
        except errors.RayTaskError as error:  # has the worker's traceback
            self._fail(started, error.cause or error, error if error.cause else None)
        except errors.RayError as error:
            reason = str(error).strip().splitlines()[0].partition(". ")[0]
            if (mark := self._node.other_gpu(started.number)).exists():  # the worker ended by itself: not an attempt
                mark.unlink()
                self._start(started)
            elif started.attempt == ATTEMPTS:
                self._fail(started, LostItemError(started.number, started.item, ATTEMPTS, reason), error)
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
        further = "; the others continue, and the error is raised at the end" if len(self._failures) < FAILURES else ""
        logger.warning("work item %d failed%s: %s", started.number + 1, further, error)


def _require_listening(address: str) -> None:
    """Raise ``OSError`` if nothing listens at ``HOST:PORT``; Ray would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


@contextmanager
def _shared_folder() -> Iterator[tuple[Path, dict[str, str]]]:
    """Create a file in the cache that nodes check for; yield it with the environment variables that they need."""
    folder = cache_folder()
    canary = folder / f".ray-{uuid.uuid4().hex}"
    canary.touch()
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        yield canary, {**variables, "PYTERRIER_MERGE_CACHE": str(folder)}
    finally:
        canary.unlink(missing_ok=True)


def _room(cluster: dict[str, float], worker: dict[str, float]) -> int:
    """Return the number of workers that fit into a cluster."""
    gpus = worker["num_gpus"]
    by_gpus = cluster.get("GPU", 0) / gpus if gpus else float("inf")
    return int(min(cluster.get("CPU", 0) / worker["num_cpus"], by_gpus))
