"""``pyterrier-merge train-lora``: trains a LoRA adapter on labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyterrier_merge.advice import in_settings
from pyterrier_merge.cli.console import reported_errors
from pyterrier_merge.cli.training import (
    STOPPED,
    DeviceOption,
    OverwriteOption,
    QuietOption,
    SetOption,
    read_collection,
    read_settings,
    tell_trained,
)

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.training.pairs import TrainingPairs


def train_lora(
    source: Annotated[str, typer.Argument(help="The retrieval model: a folder, package:NAME/FOLDER, or a hub id.")],
    collection: Annotated[str, typer.Argument(help="The collection to learn from: its name, or a folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    split: Annotated[str, typer.Option(help="The split whose judgements are trained on.")] = "train",
    dev: Annotated[str | None, typer.Option(metavar="SPLIT", help="The split that chooses the best step.")] = None,
    pool: Annotated[
        int | None,
        typer.Option(min=0, help="BM25 results to search for each dev query; 0 for all documents, 100 when not given."),
    ] = None,
    fraction: Annotated[float | None, typer.Option(help="Train on this share of the queries, drawn at random.")] = None,
    queries: Annotated[int | None, typer.Option(help="Train on this number of queries, drawn at random.")] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Which draw of queries or negatives, from 0; 0 when not given.")
    ] = None,
    negatives_run: Annotated[
        Path | None, typer.Option(help="A TREC run of the training queries to draw hard negatives from.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The instruction, for models that follow one.")] = None,
    settings: SetOption = None,
    device: DeviceOption = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a LoRA adapter on a collection's judgements; resumes a stopped training."""
    with reported_errors(in_settings, stopped=STOPPED):
        from pyterrier_merge.encoding.encoders import E5Encoder
        from pyterrier_merge.storage import user_path
        from pyterrier_merge.training.lora import train_lora as train
        from pyterrier_merge.training.pairs import pairs_from_collection
        from pyterrier_merge.training.settings import LoRATraining

        sampled = fraction is not None or queries is not None
        if trial is not None and not sampled and negatives_run is None:
            raise ValueError("--trial is a draw of queries or negatives: give --fraction, --queries or --negatives-run")
        if pool is not None and dev is None:
            raise ValueError("--pool is for the dev queries: give --dev SPLIT")
        told = read_settings(LoRATraining, settings or ())
        if "patience" in told.model_fields_set and told.patience is not None and dev is None:
            raise ValueError("--set patience=... stops at the best step on dev queries: give --dev SPLIT")
        given = read_collection(collection)
        pairs = pairs_from_collection(given, split)
        if sampled:
            pairs = pairs.sample(fraction=fraction, number=queries, trial=trial or 0)
        if negatives_run is not None:
            pairs = _with_negatives(pairs, given, negatives_run, told.negatives, trial or 0)
        encoder = E5Encoder(source, task=given.task if task is None else task, device=device)
        chosen_on = _dev(given, dev, 100 if pool is None else pool) if dev is not None else None
        folder = train(
            encoder, pairs, user_path(out), told,
            dev=chosen_on, split=dev or "dev", overwrite=overwrite, verbose=False if quiet else None,
        )  # fmt: skip
        tell_trained(folder)


def _with_negatives(
    pairs: TrainingPairs, collection: TestCollection, file: Path, negatives: int, trial: int
) -> TrainingPairs:
    from pyterrier_merge.collections.reading.runs import read_run
    from pyterrier_merge.storage import user_path

    if not negatives:
        raise ValueError("--negatives-run needs --set negatives=N: how many of them each query has in a batch")
    return pairs.with_negatives(read_run(user_path(file)), collection, trial=trial)


def _dev(collection: TestCollection, split: str, pool: int) -> TestCollection:
    from pyterrier_merge.collections.pool import pooled
    from pyterrier_merge.retrieval.lexical.bm25 import bm25

    if not pool:
        return collection
    run = bm25(collection, num_results=pool).transform(collection.topics(split))
    return pooled(collection, split, [run], depth=pool)
