"""Options of commands that can run on several machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pyterrier_merge.experiment.spec import ExperimentSpec

RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="auto|local|HOST:PORT", help="Run on this Ray cluster instead of the file's."),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="On Ray: number of work items that run at a time.")]
GpusOption = Annotated[float | None, typer.Option(min=0, help="On Ray: GPUs of a worker; may be a fraction.")]


def on_cluster(
    spec: ExperimentSpec, ray: str | None, workers: int | None, gpus_per_worker: float | None
) -> ExperimentSpec:
    """Return the experiment with the cluster from the options; settings that they leave out are the file's.

    Raises:
        ValueError: There are options of a cluster, but no cluster.
    """
    from pyterrier_merge.experiment.cluster import ClusterSection

    options = {"ray": ray, "workers": workers, "gpus_per_worker": gpus_per_worker}
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return spec
    if ray is None and spec.cluster is None:
        raise ValueError("--workers and --gpus-per-worker need a cluster: give --ray, or 'cluster' in the file")
    cluster = (spec.cluster or ClusterSection()).model_copy(update=given)
    return spec.model_copy(update={"cluster": cluster})
