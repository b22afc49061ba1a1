"""Options of commands that can run on several machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pyterrier_merge.executor import Executor

RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="auto|local|HOST:PORT", help="Score the merges of sweeps on this Ray cluster."),
]
WorkersOption = Annotated[int | None, typer.Option(help="With --ray: how many merges are scored at a time.")]
GpusOption = Annotated[float, typer.Option(help="With --ray: GPUs of a worker; may be a fraction.")]


def read_executor(ray: str | None, workers: int | None, gpus_per_worker: float) -> Executor | None:
    """Return where work items run; None for this process.

    Raises:
        ValueError: Options of a cluster without one.
    """
    if ray is None:
        if workers is not None or gpus_per_worker:
            raise ValueError("--workers and --gpus-per-worker need --ray: give the address of a cluster, or local")
        return None
    from pyterrier_merge.executor import OnRay

    return OnRay(ray, workers=workers, gpus_per_worker=gpus_per_worker)
