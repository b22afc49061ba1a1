"""Chooses where an experiment runs: in this process, or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pyterrier_merge.executor import Executor, InProcess, OnRay
from pyterrier_merge.systems.base import Section
from pyterrier_merge.systems.settings import Positive

LOGS = "workers"  # in the run folder


class ClusterSection(Section):
    """A Ray cluster that indexes, scores the merges of sweeps, trains the adapters of trials, and searches.

    A run may continue with another cluster, or without one. Options of the command line take precedence.

    Attributes:
        ray: Its address: ``auto`` for the cluster of this machine, ``local`` to start one here, or
            ``HOST:PORT``.
        workers: Work items that run at a time; when left out, as many as it has CPUs or GPUs for.
        gpus_per_worker: GPUs of a work item, which may be a fraction; 0 computes on CPUs.
    """

    ray: str = "auto"
    workers: Positive | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0

    def executor(self, folder: Path) -> Executor:
        """Connect to the cluster; each worker writes a log into the run folder.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            RuntimeError: There is no such cluster.
            ValueError: It has not enough resources for a worker.
        """
        return OnRay(self.ray, workers=self.workers, gpus_per_worker=self.gpus_per_worker, logs=folder / LOGS)


def executor_of(cluster: ClusterSection | None, folder: Path) -> Executor:
    """Return the executor of an experiment."""
    return InProcess() if cluster is None else cluster.executor(folder)
