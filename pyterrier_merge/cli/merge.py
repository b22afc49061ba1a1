"""``pyterrier-merge merge``: writes a merge as a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyterrier_merge.advice import in_flags
from pyterrier_merge.cli.assignments import read_assignments
from pyterrier_merge.cli.console import print_table, reported_errors

if TYPE_CHECKING:
    import pandas as pd

    from pyterrier_merge.recipe import MergeRecipe


def merge(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE DOMAIN... OUT | RECIPE.yml OUT",
            help="The retrieval model, one or more domain models (folders, package:NAME/FOLDER, hub ids), and the "
            "folder to write; or a merge in mergekit's YAML, and the folder.",
        ),
    ],
    alpha_lower: Annotated[float | None, typer.Option(help="Weight of SOURCE in the lower half of the layers.")] = None,
    alpha_upper: Annotated[float | None, typer.Option(help="Weight of SOURCE in the upper half.")] = None,
    method: Annotated[str | None, typer.Option(help="mergekit's name of the method; linear when not given.")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter, such as density=0.5. Repeatable.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The model that differences are taken from; else SOURCE.")] = None,
    embeddings: Annotated[float | None, typer.Option(help="Alpha of the token embeddings; 1 when not given.")] = None,
    dtype: Annotated[str, typer.Option(help="auto (as SOURCE is stored), float32, bfloat16 or float16.")] = "auto",
    task: Annotated[str | None, typer.Option(help="The instruction, for models that follow one.")] = None,
    query_prompt: Annotated[str | None, typer.Option(help="Put before each query, instead of SOURCE's own.")] = None,
    document_prompt: Annotated[str | None, typer.Option(help="Put before each document, instead of SOURCE's.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Maximum tokens of a text; else SOURCE's.")] = None,
    pooling: Annotated[
        str | None, typer.Option(help="mean, cls, lasttoken …: for a SOURCE without sentence-transformers files.")
    ] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Whether vectors get length 1; else as SOURCE.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model in OUT.")] = False,
    push: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Upload OUT to this (private) repository of the hub.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Write a merge as a model folder that sentence-transformers, MTEB and vLLM load."""
    from rich.console import Console

    console = Console()
    with reported_errors(
        in_flags, stopped="OUT appears when it is whole, and is as it was; give the same command again"
    ):
        from pyterrier_merge.encoding.saving.folder import save_merge
        from pyterrier_merge.encoding.saving.publishing import require_token, upload
        from pyterrier_merge.models.files import MERGE
        from pyterrier_merge.precision import default_device

        *models, out = names
        settings = {
            "alpha_lower": alpha_lower,
            "alpha_upper": alpha_upper,
            "method": method,
            "parameters": read_assignments("--parameter", parameter, "density=0.5") if parameter else None,
            "base": base,
            "embeddings": embeddings,
        }
        recipe = _recipe(models, {name: value for name, value in settings.items() if value is not None})
        api = require_token(push) if push else None
        folder = save_merge(
            recipe,
            out,
            dtype=dtype,
            device=default_device(),
            overwrite=overwrite,
            title=push,
            verbose=False if quiet else None,
            task=task,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            max_length=max_length,
            pooling=pooling,
            normalize=normalize,
        )
        record = json.loads((folder / MERGE).read_text(encoding="utf-8"))
        print_table(console, str(recipe), _merge_table(record["segments"], recipe.domains))
        typer.echo(f"model: {folder}  ({record['dtype']}; README.md says what it is made of)")
        if push:
            with reported_errors(
                in_flags, stopped=f"{folder} is whole; give the same command and --overwrite to push it"
            ):
                typer.echo(f"pushed: {upload(api, folder, push)}")


def _recipe(models: list[str], settings: dict[str, Any]) -> MergeRecipe:
    from pyterrier_merge.recipe import MergeRecipe

    if len(models) == 1 and Path(models[0]).suffix in (".yml", ".yaml"):
        from pyterrier_merge.mergekit_yaml import read_recipe

        if settings:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in settings).replace("parameters", "parameter")
            raise ValueError(f"{models[0]} says how to merge: leave {options} out")
        return read_recipe(models[0])
    if len(models) < 2:
        raise ValueError(
            f"expected SOURCE DOMAIN... OUT (three names at least), or RECIPE.yml OUT; found {len(models) + 1} "
            f"name{'s' if models else ''}"
        )
    if not settings.keys() & {"alpha_lower", "alpha_upper", "method"}:
        raise ValueError("say how much of SOURCE is kept: --alpha-lower and --alpha-upper, between 0 and 1")
    _require_both_alphas(settings)
    alphas = [settings.pop(name, None) for name in ("alpha_lower", "alpha_upper")]
    return MergeRecipe.halves(models[0], models[1:], *alphas, **settings)


def _require_both_alphas(settings: dict[str, Any]) -> None:
    from pyterrier_merge.methods import get_method

    method = settings.get("method", "linear")
    missing = [f"--{name.replace('_', '-')}" for name in ("alpha_lower", "alpha_upper") if name not in settings]
    if missing and (method == "linear" or get_method(method).weighted):  # importing mergekit takes seconds
        raise ValueError(f"{method} needs the weight of SOURCE in both halves: {' and '.join(missing)}, from 0 to 1")


def _merge_table(segments: list[dict[str, Any]], domains: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        [
            segment["place"],
            "-" if segment["weights"] is None else f"{segment['weights'][0]:g}",
            *(f"{far:.4f}" for far in (segment["to_source"], *segment["to_domains"])),
        ]
        for segment in segments
    ]
    return pd.DataFrame(
        rows, columns=["part", "alpha", "distance to source", *(f"to {Path(name).name}" for name in domains)]
    )
