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

from pyterrier_merge.encoding.contract import RetrieverContract
from pyterrier_merge.encoding.tokens import read_tokenizer
from pyterrier_merge.fingerprint import fingerprint, fingerprint_texts
from pyterrier_merge.models import fingerprint_model, locate_model, transformer_folder
from pyterrier_merge.precision import default_device, resolve_dtype
from pyterrier_merge.storage import cache_folder, finished_folder, refuse_existing, user_path
from pyterrier_merge.training.fitting import Snapshot, Stage, fit
from pyterrier_merge.training.masked_lm import MaskedLM, encoder_config
from pyterrier_merge.training.masking import MaskedCorpus
from pyterrier_merge.training.plan import TrainingPlan, choose_window, make_plan
from pyterrier_merge.training.settings import DEFAULTS, DomainTraining
from pyterrier_merge.training.windows import tokenise_whole
from pyterrier_merge.version import __version__

logger = logging.getLogger(__name__)

REPORT = "training.json"
PROCEDURE = 2  # part of every fingerprint: raise it when the same settings would give another model
CURVE_STEPS = 20  # steps that one point of the recorded loss curve averages


def train_domain_model(
    texts: Iterable[str],
    base: str | Path,
    out: str | Path | None = None,
    *,
    settings: DomainTraining = DEFAULTS,
    contract: RetrieverContract | None = None,
    device: str | None = None,
    checkpoint_every: int = 200,
    overwrite: bool = False,
    verbose: bool = False,
) -> Path:
    """Train an encoder further on unlabelled text and return the folder of the domain model.

    The model starts as ``base``, with a fresh head for masked tokens where it has none, and learns to fill in masked
    tokens; its embeddings stay as they are. Texts become tokens as the retriever reads its documents, with its prompt,
    and are used whole: in several windows where they are long. How much of them is read is logged.

    The folder is a plain transformers checkpoint of the body (no head; the pooler, if any, is the base's own), named as
    the body alone is, with the base's tokenizer and ``training.json``: fingerprint, settings, numbers of texts, windows
    and passes, versions, device, dtype, loss curve (nats a token), seconds and tokens.

    A run that was killed goes on from its last checkpoint, and ends with the very weights of an uninterrupted one on
    the same machine. A finished model of the same texts, base and settings is returned at once.

    Args:
        texts: The corpus, read once and held in memory.
        base: An encoder, as sentence-transformers or transformers saved it; named as for
            :func:`pyterrier_merge.models.locate_model`.
        out: The folder to make; ``domain-models/<fingerprint>`` in the package's cache when None.
        settings: How to train.
        contract: Of the encoder that is to be merged (``encoder.contract``), where that was told another length or
            another document prompt than the base's files say; what these say when None.
        device: A torch device; a GPU where there is one, when None.
        checkpoint_every: Steps between checkpoints (three times the size of the trained weights, beside ``out``).
        overwrite: Replace another model, or whatever else stands at ``out``.
        verbose: Show a progress bar with the loss.

    Raises:
        ValueError: No text to learn from, a base that is no encoder or cannot be read as a retriever, ``max_length``
            beyond what it can read, or ``out`` is to be overwritten and is the current folder.
        FileNotFoundError: No such base, or it holds no weights.
        FileExistsError: Something else stands at ``out`` and ``overwrite`` is false.
        RuntimeError: The training diverged.
    """
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, but is {checkpoint_every}")
    texts = _checked(texts)
    folder = locate_model(base)
    encoder_config(transformer_folder(folder))
    tokenizer, read = read_tokenizer(folder, str(base), contract=contract, max_length=settings.max_length)
    content = {"texts": fingerprint_texts(texts), "base": fingerprint_model(folder), "contract": _of_documents(read)}
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

    tokenised = tokenise_whole(texts, tokenizer, read)
    window = settings.max_length or choose_window(tokenised.lengths, read.max_length)
    windows = tokenised.windows(window, packing=settings.packing)
    plan = make_plan(settings, texts=len(texts), windows=len(windows), window=window)
    plan.log()
    model, outcome = _train(windows, plan, transformer_folder(folder), settings, snapshot, device, verbose)
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
    windows: list[np.ndarray],
    plan: TrainingPlan,
    base: Path,
    settings: DomainTraining,
    snapshot: Snapshot,
    device: str | None,
    verbose: bool,
) -> tuple[MaskedLM, dict[str, Any]]:
    """Return the trained model and what ``training.json`` tells of it."""
    device = device or default_device()
    dtype = resolve_dtype(settings.dtype, device)
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(settings.seed)
        model = MaskedLM(base, dropout=settings.dropout, weight_decay=settings.weight_decay, dtype=dtype, device=device)
        corpus = _corpus(windows, plan, model, settings)
        head_steps = settings.head_steps if model.fresh_head else 0
        stages = [
            Stage(head_steps, settings.head_learning_rate, settings.warmup_steps, head_only=True),
            Stage(plan.steps, settings.learning_rate, settings.warmup_steps, head_only=False),
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
        **plan.report(),
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


def _of_documents(contract: RetrieverContract) -> dict[str, Any]:
    """What decides the tokens of a document."""
    names = ("document_prompt", "max_length", "prepended", "appended")
    return {name: getattr(contract, name) for name in names}


def _corpus(windows: list[np.ndarray], plan: TrainingPlan, model: MaskedLM, settings: DomainTraining) -> MaskedCorpus:
    tokenizer = model.tokenizer
    return MaskedCorpus(
        sequences=windows,
        batch_size=plan.batch_size,
        mask_probability=settings.mask_probability,
        mask_token=tokenizer.mask_token_id,
        pad_token=tokenizer.pad_token_id,
        special_tokens=tuple(tokenizer.all_special_ids),
        vocabulary=len(tokenizer),
        seed=settings.seed,
    )
