"""``pyterrier-merge sweep``: only chooses the merges of an experiment's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyterrier_merge.advice import in_fields
from pyterrier_merge.cli.console import AsJson, print_json, print_table, reported_errors
from pyterrier_merge.cli.run import Only, Out, Overwrite, Spec
from pyterrier_merge.cli.scale import GpusOption, RayOption, WorkersOption, on_cluster
from pyterrier_merge.cli.training import QuietOption

if TYPE_CHECKING:
    import pandas as pd

    from pyterrier_merge.systems.base import Prepared

_STOPPED = "merges that were measured are kept; give the same command again to go on"


def sweep(
    spec: Spec,
    out: Out = None,
    only: Only = None,
    overwrite: Overwrite = False,
    quiet: QuietOption = False,
    as_json: AsJson = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusOption = None,
) -> None:
    """Choose the merges of an experiment (its 'sweep' sections), without searching for the table."""
    from rich.console import Console

    console = Console(stderr=as_json)
    with reported_errors(in_fields, stopped=_STOPPED):
        from pyterrier_merge.experiment.run import choose_merges, collection_folder
        from pyterrier_merge.experiment.spec import read_spec

        experiment = on_cluster(read_spec(spec), ray, workers, gpus_per_worker)
        folder = out or Path("runs") / experiment.name
        found = choose_merges(
            experiment,
            folder,
            only=tuple(only or ()),
            overwrite=overwrite,
            verbose=False if quiet else None,
        )
    for label, systems in found.items():
        for name, trials in systems.items():
            for number, prepared in enumerate(trials, 1):
                title = f"{name} {prepared.label}" + (f", trial {number}" if len(trials) > 1 else "")
                for table in _tables(prepared).values():
                    if len(table):
                        print_table(console, title, table.round(4))
                console.print(*prepared.notes, sep="\n", markup=False, highlight=False)
        path = collection_folder(folder, experiment, label)
        console.print(f"tables and pictures: {path}", markup=False, highlight=False)
    if as_json:
        print_json(
            {
                label: {
                    name: [{"label": one.label, "notes": one.notes, **_tables(one)} for one in trials]
                    for name, trials in systems.items()
                }
                for label, systems in found.items()
            }
        )


def _tables(prepared: Prepared) -> dict[str, pd.DataFrame]:
    return {name: prepared.tables[name] for name in ("sweep", "sweep_kinds") if name in prepared.tables}
