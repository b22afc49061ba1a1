"""Training of a LoRA adapter for a retrieval model on labelled pairs: the baseline of every merge."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ir_measures import nDCG

from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models import fingerprint_model, locate_model
from pyterrier_merge.precision import resolve_dtype
from pyterrier_merge.progress import verbosity
from pyterrier_merge.storage import user_path
from pyterrier_merge.training.adapter import add_adapter, lora_config, save_adapter
from pyterrier_merge.training.checkpoints import Checkpoints
from pyterrier_merge.training.contrastive import load_for_training, train_on_pairs
from pyterrier_merge.training.dev import DevMeasure, dev_identity
from pyterrier_merge.training.engine import Dev
from pyterrier_merge.training.folder import Trained, one_device, trained_folder
from pyterrier_merge.training.kept import kept_generators
from pyterrier_merge.training.provenance import describe
from pyterrier_merge.training.settings import LoRATraining

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.training.pairs import TrainingPairs

logger = logging.getLogger(__name__)

PROCEDURE = 2  # part of every fingerprint: increase it if the same settings would give another adapter


@verbosity
def train_lora(
    source: str | Path | E5Encoder,
    pairs: TrainingPairs,
    out: str | Path,
    settings: LoRATraining | None = None,
    *,
    dev: TestCollection | None = None,
    split: str = "dev",
    metric: Measure = nDCG @ 10,
    checkpoint_every: int | None = None,
    overwrite: bool = False,
    verbose: bool | None = None,
) -> Path:
    """Train a LoRA adapter of a retrieval model on pairs, and return its folder.

    The loss is InfoNCE over the other texts of a batch and hard negatives (van den Oord et al., 2018). Texts become the
    same token ids as in the source's encoder. With ``dev``, the model is measured before the first step and during
    training, and the best state is kept. If no step is better than the source, this is step 0: a warning is logged, and
    :class:`pyterrier_merge.LoRAE5Encoder` with this folder equals the source.

    The folder is an adapter as peft and sentence-transformers save it, with ``training.json`` (settings, pairs, best
    step, versions, device, seconds) and ``training.csv`` (loss and dev measure of each step). An interrupted training
    resumes from its last checkpoint, and ends with the same weights on a CPU. A finished adapter of the same source,
    pairs and settings is returned at once.

    Args:
        source: The model, or its encoder with task, prompts, length and device.
        pairs: Labelled queries, see :func:`pyterrier_merge.training.pairs.pairs_from_collection`.
        out: Output folder.
        settings: Settings of the training.
        dev: A collection with queries to choose the best step on; a pool is enough.
        split: The split of these queries; never the test split.
        metric: The measure of the choice, over 100 results per query.
        checkpoint_every: Steps between checkpoints; a tenth of the training when None, but at most 200. With ``dev``,
            each measurement writes one instead.
        overwrite: Replace another training at ``out``.
        verbose: Show a progress bar; in terminals and notebooks when None.

    Raises:
        ValueError: The source is an encoder of a merge or of an adapter, or cannot be read, the dev split is the test
            split or shares queries with the pairs, or the model does not have the ``target_modules``.
        FileExistsError: ``out`` exists with other content and ``overwrite`` is false, or is not a training's folder.
        RuntimeError: The training diverged, and there is no measured state to return to.
    """
    encoder = source if isinstance(source, E5Encoder) else E5Encoder(source)
    settings = settings or LoRATraining()
    _require_plain(encoder)
    device = one_device(encoder.device)
    _require_apart(pairs, dev, split)
    folder = locate_model(encoder.model)
    content = {
        "source": fingerprint_model(folder),
        "encoder": encoder.contract_settings(),
        "pairs": pairs.fingerprint,
        "settings": settings.model_dump(),
        "dev": None if dev is None else dev_identity(dev, split, metric),
        "dtype": str(resolve_dtype(settings.dtype, device)),
        "procedure": PROCEDURE,
    }
    identity = fingerprint(["lora", content])

    def train(checkpoints: Checkpoints) -> Trained:
        model, texts, dtype = load_for_training(encoder, settings, device, paper=settings.paper_prompts)
        config = lora_config(
            model.transformers_model, encoder.model, rank=settings.rank, alpha=settings.alpha,
            dropout=settings.dropout, targets=settings.target_modules,
        )  # fmt: skip
        with kept_generators(settings.seed):
            add_adapter(model, config)
        measure = None
        if dev is not None:  # with the length of the search
            read = replace(texts.contract, max_length=encoder.max_length or texts.contract.max_length)
            measure = Dev(
                DevMeasure(model, encoder, read, dev, split, metric),
                settings.evaluate_every,
                settings.patience,
            )
        course = train_on_pairs(
            model, pairs, texts, settings, dtype, device, checkpoints,
            stop_at=settings.stop_at, dev=measure, description="LoRA training", verbose=verbose,
        )  # fmt: skip
        if course.best_step == 0:
            logger.warning(
                "no step of the training was better than %s on %s: the adapter in %s changes nothing",
                encoder.model, f"{split} of {dev.name}" if dev else split, out,
            )  # fmt: skip
        report = {
            "objective": "lora",
            "source": encoder.model,
            "source_fingerprint": content["source"],
            "settings": settings.model_dump(),
            "pairs": {"name": pairs.name, "queries": len(pairs), "labels": sorted(pairs.labels)},
            "dev": None if dev is None else f"{metric} on {split} of {dev.name}",
            "best_step": course.best_step,
            "diverged_at": course.diverged_at,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device,
        }
        return Trained(
            lambda building: save_adapter(model, building, encoder.model, texts.contract),
            describe(pairs) | report,
            course,
        )

    return trained_folder(user_path(out), identity, train, every=checkpoint_every, overwrite=overwrite)


def _require_plain(encoder: E5Encoder) -> None:
    if type(encoder) is not E5Encoder:
        raise ValueError(
            f"an adapter is trained on one model, found a {type(encoder).__name__}: save a merge "
            "(encoder.save(folder)) and give E5Encoder(folder); to train on an adapter, give E5Encoder('BASE+ADAPTER')"
        )


def _require_apart(pairs: TrainingPairs, dev: TestCollection | None, split: str) -> None:
    """Raise ``ValueError`` if the step would be chosen on test queries or on training queries."""
    if dev is None:
        return
    if split == "test":
        raise ValueError("the best step must not be chosen on test queries: give another split, or held-out pairs")
    topics = dev.topics(split)
    shared = set(topics["query"]) & set(pairs.queries["query"])
    if shared:
        raise ValueError(
            f"{len(shared)} of the {len(topics)} queries of {split} of {dev.name} are trained on, such as "
            f"{min(shared)!r}: the best step would be chosen on training queries"
        )
