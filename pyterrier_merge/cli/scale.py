"""Options of commands that can run on several machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pyterrier_merge.experiment.spec import ExperimentSpec

RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="auto|local|HOST:PORT", help="Run on this Ray cluster, not on the one of the file."),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="On Ray: how many work items run at a time.")]
GpusOption = Annotated[float | None, typer.Option(min=0, help="On Ray: GPUs of a worker; may be a fraction.")]


def on_cluster(
    spec: ExperimentSpec, ray: str | None, workers: int | None, gpus_per_worker: float | None
) -> ExperimentSpec:
    """Return the experiment with the cluster that the options say; what they leave open is as in the file.

    Raises:
        ValueError: Options of a cluster without one.
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
