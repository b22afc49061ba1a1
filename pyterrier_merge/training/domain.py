"""A domain language model from a collection's own documents: continued masked-language-model pretraining, no labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from more_itertools import chunked

from pyterrier_merge.fingerprint import fingerprint, fingerprint_texts
from pyterrier_merge.models import fingerprint_model, locate_model, transformer_folder
from pyterrier_merge.precision import default_device, resolve_dtype
from pyterrier_merge.storage import cache_folder, finished_folder, refuse_existing, user_path
from pyterrier_merge.training.fitting import Snapshot, Stage, fit
from pyterrier_merge.training.masked_lm import MaskedLM
from pyterrier_merge.training.masking import MaskedCorpus, token_sequences
from pyterrier_merge.training.settings import DEFAULTS, DomainTraining
from pyterrier_merge.version import __version__

logger = logging.getLogger(__name__)

REPORT = "training.json"
PROCEDURE = 1  # part of every fingerprint: raise it when the same settings would give another model
CURVE_STEPS = 20  # steps that one point of the recorded loss curve averages


def train_domain_model(
    texts: Iterable[str],
    base: str | Path,
    out: str | Path | None = None,
    *,
    settings: DomainTraining = DEFAULTS,
    device: str | None = None,
    checkpoint_every: int = 200,
    overwrite: bool = False,
    verbose: bool = False,
) -> Path:
    """Train an encoder further on unlabelled text and return the folder of the domain model.

    The model starts as ``base``, with a fresh head for masked tokens where it has none, and learns to fill in masked
    tokens; its embeddings stay as they are. The folder is a plain transformers checkpoint of the body (no head; the
    pooler, if any, is the base's own), named as the body alone is, with the base's tokenizer and ``training.json``:
    fingerprint, settings, versions, device, dtype, loss curve (nats a token), seconds and tokens.

    A run that was killed goes on from its last checkpoint, and ends with the very weights of an uninterrupted one on
    the same machine. A finished model of the same texts, base and settings is returned at once.

    Args:
        texts: The corpus, read once and held in memory.
        base: An encoder, as sentence-transformers or transformers saved it; named as for
            :func:`pyterrier_merge.models.locate_model`.
        out: The folder to make; ``domain-models/<fingerprint>`` in the package's cache when None.
        settings: How to train.
        device: A torch device; a GPU where there is one, when None.
        checkpoint_every: Steps between checkpoints (three times the size of the trained weights, beside ``out``).
        overwrite: Replace another model, or whatever else stands at ``out``.
        verbose: Show a progress bar with the loss.

    Raises:
        ValueError: No text to learn from, a base that is no encoder, ``max_length`` beyond what the base can read, or
            ``out`` is to be overwritten and is the current folder.
        FileNotFoundError: No such base, or it holds no weights.
        FileExistsError: Something else stands at ``out`` and ``overwrite`` is false.
        RuntimeError: The training diverged.
    """
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, but is {checkpoint_every}")
    texts = _checked(texts)
    folder = locate_model(base)
    content = {"texts": fingerprint_texts(texts), "base": fingerprint_model(folder)}
    identity = fingerprint(content | {"settings": asdict(settings), "procedure": PROCEDURE})
    out = cache_folder("domain-models") / identity if out is None else user_path(out)
    snapshot = Snapshot(out.with_name(f".{out.name}.progress.safetensors"), identity, checkpoint_every)
    if _trained(out) == identity:
        logger.info("%s holds this domain model already", out)
        snapshot.path.unlink(missing_ok=True)  # of a run that was killed when it had finished
        return out
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"{out} exists and is not the domain model of these texts, base and settings ({identity}); "
            "choose another folder, delete it, or pass overwrite=True"
        )
    refuse_existing(out, overwrite=overwrite)

    model, outcome = _train(texts, transformer_folder(folder), settings, snapshot, device or default_device(), verbose)
    report = {"fingerprint": identity, "base": str(base), "settings": asdict(settings)} | outcome
    try:
        with finished_folder(out, overwrite=overwrite) as building:
            model.save(building)
            (building / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except FileExistsError:
        if _trained(out) != identity:
            raise
        logger.info("another process has trained %s meanwhile", out)
    snapshot.path.unlink(missing_ok=True)
    return out


def _train(
    texts: list[str], base: Path, settings: DomainTraining, snapshot: Snapshot, device: str, verbose: bool
) -> tuple[MaskedLM, dict[str, Any]]:
    """Return the trained model and what ``training.json`` tells of it."""
    dtype = resolve_dtype(settings.dtype, device)
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(settings.seed)
        model = MaskedLM(base, dropout=settings.dropout, weight_decay=settings.weight_decay, dtype=dtype, device=device)
        corpus = _corpus(texts, model, settings)
        head_steps = settings.head_steps if model.fresh_head else 0
        stages = [
            Stage(head_steps, settings.head_learning_rate, settings.warmup_steps, head_only=True),
            Stage(settings.steps, settings.learning_rate, settings.warmup_steps, head_only=False),
        ]
        progress = fit(model, corpus, stages, snapshot, verbose=verbose)
    return model, {
        "versions": {
            "pyterrier_merge": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "sequences": len(corpus.sequences),
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "head_steps": head_steps,
        "loss": [round(float(np.mean(losses)), 4) for losses in chunked(progress.losses, CURVE_STEPS)],
    }


def _checked(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("texts must be many strings, one a document, but is a single string; put it in a list")  # noqa: TRY004
    texts = list(texts)
    if not texts:
        raise ValueError("there is no text to train on: the corpus is empty")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"every text must be a string, but number {number} is {text!r}")  # noqa: TRY004
    return texts


def _trained(out: Path) -> str | None:
    """Return the fingerprint of the finished domain model at ``out``."""
    report = out / REPORT
    return json.loads(report.read_text(encoding="utf-8")).get("fingerprint") if report.is_file() else None


def _corpus(texts: list[str], model: MaskedLM, settings: DomainTraining) -> MaskedCorpus:
    if settings.max_length > model.max_positions:
        raise ValueError(
            f"max_length is {settings.max_length}, but the base reads {model.max_positions} tokens at most"
        )
    tokenizer = model.tokenizer
    return MaskedCorpus(
        sequences=token_sequences(texts, tokenizer, packing=settings.packing, max_length=settings.max_length),
        batch_size=settings.batch_size,
        mask_probability=settings.mask_probability,
        mask_token=tokenizer.mask_token_id,
        pad_token=tokenizer.pad_token_id,
        special_tokens=tuple(tokenizer.all_special_ids),
        vocabulary=len(tokenizer),
        seed=settings.seed,
    )
