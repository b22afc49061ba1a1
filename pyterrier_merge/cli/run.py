"""``pyterrier-merge run``: runs an experiment from a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyterrier_merge.advice import in_fields
from pyterrier_merge.cli.console import AsJson, print_json, print_table, reported_errors
from pyterrier_merge.cli.scale import GpusOption, RayOption, WorkersOption, on_cluster

if TYPE_CHECKING:
    from rich.console import Console

    from pyterrier_merge.experiment.comparison import Comparison
    from pyterrier_merge.experiment.plan import ExperimentPlan

_STOPPED = (
    "finished steps are kept (searches in the run folder; in the cache indexes up to their last shard, training up to "
    "its last checkpoint, each pair of alphas); give the same command again to go on"
)


Spec = Annotated[Path, typer.Argument(help="A YAML file, such as experiments/demo.yaml.")]
Out = Annotated[
    Path | None,
    typer.Option(help="The run folder; runs/NAME when not given. A folder with finished steps is continued."),
]
Only = Annotated[
    list[str] | None, typer.Option(metavar="SYSTEM", help="Run this system, what it builds on, and the baselines.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Use a folder that holds the run of another spec.")]


def _print_fields(wanted: bool) -> None:
    if wanted:
        from pyterrier_merge.experiment.fields import fields_reference

        typer.echo(fields_reference(), nl=False)
        raise typer.Exit


def run(
    spec: Spec,
    out: Out = None,
    only: Only = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the steps, which are done already, and their cost; do nothing."),
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="With --dry-run: documents per second of a worker; measured by default."),
    ] = None,
    overwrite: Overwrite = False,
    _fields: Annotated[
        bool,
        typer.Option("--fields", callback=_print_fields, is_eager=True, help="Print the fields of a file, and exit."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
    as_json: AsJson = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusOption = None,
) -> None:
    """Run an experiment: every system over every collection, compared with significance tests."""
    from rich.console import Console

    console = Console(stderr=as_json)
    started = time.monotonic()
    with reported_errors(in_fields, stopped=_STOPPED):
        from pyterrier_merge.experiment.report.marks import legend
        from pyterrier_merge.experiment.run import collection_folder, run_experiment
        from pyterrier_merge.experiment.spec import read_spec

        if rate is not None and not dry_run:
            raise ValueError("--rate is for the times of a plan: give --dry-run, too")
        experiment = on_cluster(read_spec(spec), ray, workers, gpus_per_worker)
        folder = out or Path("runs") / experiment.name

        if dry_run:
            from pyterrier_merge.experiment.plan import plan_experiment

            plan = plan_experiment(experiment, folder, only=tuple(only or ()), overwrite=overwrite, rate=rate)
            _print_plan(console, experiment.name, plan, as_json=as_json)
            return

        def show(name: str, figures: str) -> None:
            console.print(f"[{time.monotonic() - started:.0f} s] {name}: {figures}", markup=False, highlight=False)

        found = run_experiment(
            experiment,
            folder,
            only=tuple(only or ()),
            overwrite=overwrite,
            show=show,
            verbose=False if quiet else None,
        )
    failed = False
    for name, comparison in found.items():
        print_table(console, comparison.title, comparison.marked())
        console.print(legend(comparison), comparison.verdict(), sep="\n", markup=False, highlight=False)
        for system, reason in comparison.failed.items():
            failed = True
            where = f" on {name}" if len(found) > 1 else ""
            typer.secho(f"{system} failed{where}: {in_fields(reason)}", fg="red", err=True)
        report = collection_folder(folder, experiment, name) / "report.html"
        console.print(
            f"report: {report}  (report.md, tables and TREC runs are beside it)", markup=False, highlight=False
        )
    if as_json:
        print_json({name: _as_record(comparison) for name, comparison in found.items()})
    if failed:
        raise typer.Exit(1)


def _as_record(comparison: Comparison) -> dict[str, Any]:
    return {
        "table": comparison.table,
        "tests": comparison.tests,
        "failed": dict(comparison.failed),
        "notes": comparison.notes,
        "verdict": comparison.verdict(),
    }


def _print_plan(console: Console, name: str, plan: ExperimentPlan, *, as_json: bool) -> None:
    if as_json:
        print_json({**plan.tables, "notes": plan.notes})
    console.print(f"plan of {name}; nothing is done", markup=False, highlight=False)
    for title, table in plan.tables.items():
        if len(table):
            print_table(console, title, table)
    console.print("", *plan.notes, sep="\n", markup=False, highlight=False)
