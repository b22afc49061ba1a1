"""Training of a domain model for a merge on a collection's own documents, without labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.pseudo_queries import known_items
from pyterrier_merge.encoding.contract import POOLING_MODES, RetrieverContract
from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.encoding.tokens import read_tokenizer
from pyterrier_merge.fingerprint import fingerprint, fingerprint_texts
from pyterrier_merge.models import fingerprint_model, locate_model, transformer_folder
from pyterrier_merge.precision import resolve_dtype
from pyterrier_merge.progress import verbosity
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.storage import cache_folder, user_path
from pyterrier_merge.training.batches import WindowBatches
from pyterrier_merge.training.causal import CausalLM, require_decoder, train_causal
from pyterrier_merge.training.checkpoints import Checkpoints
from pyterrier_merge.training.contrastive import load_for_training, prepare, train_on_pairs
from pyterrier_merge.training.engine import Loop
from pyterrier_merge.training.folder import Trained, one_device, trained_folder
from pyterrier_merge.training.kept import kept_generators
from pyterrier_merge.training.masked import MaskedLM, encoder_config, train_masked
from pyterrier_merge.training.pairs import TrainingPairs, pairs_from_collection
from pyterrier_merge.training.plan import choose_window, make_plan
from pyterrier_merge.training.processes import count_processes
from pyterrier_merge.training.provenance import describe
from pyterrier_merge.training.settings import (
    OBJECTIVES,
    CausalTraining,
    DomainSettings,
    KnownItemTraining,
    MaskedTraining,
)
from pyterrier_merge.training.windows import tokenise_whole

PROCEDURE = 4  # part of every fingerprint: increase it if the same settings would give another model


@verbosity
def train_domain_model(
    texts: Iterable[str] | TestCollection | TrainingPairs,
    base: str | Path,
    out: str | Path | None = None,
    *,
    objective: str | None = None,
    settings: DomainSettings | None = None,
    contract: RetrieverContract | None = None,
    device: str | None = None,
    checkpoint_every: int | None = None,
    overwrite: bool = False,
    verbose: bool | None = None,
) -> Path:
    """Continue training a model on unlabelled text, and return the folder of the domain model.

    Objectives:

    - ``masked``: an encoder learns to predict masked tokens. If the base has no head, a new one is trained alone first.
    - ``causal``: a decoder learns to predict the next token. Large decoders train a LoRA adapter, which is merged in.
    - ``known-items``: a retrieval model learns to find documents by parts of themselves (see
      :func:`pyterrier_merge.known_items`).

    Embeddings do not change: a merge takes them from the source. Texts are tokenised as the retriever reads documents,
    with its document prompt. ``masked`` and ``causal`` use whole texts; long texts are cut into several windows. The
    log states how much of the text is read.

    The folder is a transformers checkpoint (for ``known-items`` a sentence-transformers model) in float32, or in the
    base's type if an adapter was trained in a shorter type and merged in. It has the base's tokenizer,
    ``training.json`` (settings, numbers of texts, passes and tokens, versions, device, seconds, loss) and
    ``training.csv`` (the loss of each step).

    An interrupted run resumes from its last checkpoint, and ends with exactly the weights of an uninterrupted run on
    the same machine. A finished model of the same texts, base and settings is returned at once.

    Args:
        texts: The documents' texts, read once and held in memory. For ``known-items``: a collection or pairs.
        base: A model saved by sentence-transformers or transformers, named as for
            :func:`pyterrier_merge.models.locate_model`.
        out: Output folder; ``domain-models/<fingerprint>`` in the package's cache when None.
        objective: ``masked``, ``causal`` or ``known-items``; when None, that of ``settings``, or ``masked`` without.
        settings: Settings of the training, of the objective's class in :mod:`pyterrier_merge.training.settings`.
        contract: Contract of the encoder to be merged (``encoder.contract``), if its length or prompts differ from
            those in the base's files; these are used when None.
        device: ``cpu`` or ``cuda``; when None, a GPU if there is one.
        checkpoint_every: Steps between checkpoints (three times the size of the trained weights, next to ``out``); a
            tenth of the training when None, but at most 200.
        overwrite: Replace another training at ``out``.
        verbose: Show a progress bar with the loss; in terminals and notebooks when None.

    Raises:
        ValueError: The objective is unknown or does not suit the base, the settings are for another objective, there
            is no text to train on, the base cannot be read as a retriever, ``max_length`` is more than it can read, or
            ``out`` is to be overwritten and is the current folder.
        FileNotFoundError: The base does not exist or has no weights.
        FileExistsError: ``out`` exists with other content and ``overwrite`` is false, or is not a training's folder.
        RuntimeError: The training diverged.
    """
    settings = _settings(objective, settings)
    folder = locate_model(base)
    training: _OnTexts | _OnItems
    if isinstance(settings, KnownItemTraining):
        training = _OnItems(texts, str(base), settings, contract, device, verbose)
    else:
        training = _OnTexts(texts, str(base), folder, settings, contract, device, verbose)
    identity = fingerprint(
        {
            "base": fingerprint_model(folder),
            "settings": settings.model_dump(),
            "procedure": PROCEDURE,
            **training.content,
        }
    )
    out = cache_folder("domain-models") / identity if out is None else user_path(out)
    return trained_folder(out, identity, training.train, every=checkpoint_every, overwrite=overwrite)


class _OnTexts:
    """Masked and causal training on windows of texts."""

    def __init__(
        self,
        texts: Any,
        base: str,
        folder: Path,
        settings: MaskedTraining | CausalTraining,
        contract: RetrieverContract | None,
        device: str | None,
        verbose: bool | None,
    ) -> None:
        if count_processes() > 1:
            raise ValueError(
                f"objective={settings.objective!r} trains in one process: start it without accelerate or torchrun"
            )
        self._texts = _checked(texts)
        self._base, self._body, self._settings = base, transformer_folder(folder), settings
        self._device, self._verbose = one_device(device), verbose
        (encoder_config if isinstance(settings, MaskedTraining) else require_decoder)(self._body)
        self._tokenizer, self._contract = read_tokenizer(
            folder, base, contract=contract, max_length=settings.max_length
        )

    @property
    def content(self) -> dict[str, Any]:
        """Everything that decides the model, except the base and the settings."""
        names = ("document_prompt", "max_length", "prepended", "appended")  # these decide a document's tokens
        read = {name: getattr(self._contract, name) for name in names}
        return {"texts": fingerprint_texts(self._texts), "contract": read}

    def train(self, checkpoints: Checkpoints) -> Trained:
        settings = self._settings
        masked = isinstance(settings, MaskedTraining)
        tokenised = tokenise_whole(self._texts, self._tokenizer, self._contract, masked=masked)
        window = settings.max_length or choose_window(tokenised.lengths, self._contract.max_length)
        sequences = tokenised.windows(window, packing=settings.packing)
        if not masked:
            sequences = [tokens for tokens in sequences if len(tokens) > 1]  # a single token predicts nothing
            if not sequences:
                raise ValueError(f"no text has two tokens for {self._base}: there is nothing to predict")
        plan = make_plan(settings, texts=len(self._texts), windows=len(sequences), window=window)
        plan.log()
        filler = self._tokenizer.pad_token_id
        windows = WindowBatches(sequences, plan.batch_size, 0 if filler is None else filler, settings.seed)
        dtype = resolve_dtype(settings.dtype, self._device)
        loop = Loop.of(settings, steps=plan.steps, dtype=dtype, device=self._device)
        model: MaskedLM | CausalLM
        told: dict[str, Any] = {}
        with kept_generators(settings.seed):
            if isinstance(settings, MaskedTraining):
                model = MaskedLM(self._body, dropout=settings.dropout, device=self._device)
                course = train_masked(model, windows, settings, loop, checkpoints, verbose=self._verbose)
                told = {"head_steps": settings.head_steps if model.fresh_head else 0}
            else:
                model = CausalLM(self._body, self._base, settings, dtype=dtype, device=self._device)
                course = train_causal(model, windows, loop, checkpoints, verbose=self._verbose)
                told = {"rank": model.rank}
        return Trained(model.save, _report(self._base, settings, self._device, dtype) | plan.report() | told, course)


class _OnItems:
    """Contrastive training on known items."""

    def __init__(
        self,
        given: Any,
        base: str,
        settings: KnownItemTraining,
        contract: RetrieverContract | None,
        device: str | None,
        verbose: bool | None,
    ) -> None:
        self._pairs = _items(given, settings)
        self._settings, self._device, self._verbose = settings, one_device(device), verbose
        read = {} if contract is None else {name: getattr(contract, name) for name in _OF_ENCODERS}
        if contract is not None and contract.pooling in POOLING_MODES:
            read["pooling"] = contract.pooling
        self._encoder = E5Encoder(base, **read)

    @property
    def content(self) -> dict[str, Any]:
        """Everything that decides the model, except the base and the settings."""
        return {"pairs": self._pairs.fingerprint, "encoder": self._encoder.contract_settings()}

    def train(self, checkpoints: Checkpoints) -> Trained:
        settings, rank = self._settings, self._settings.rank
        whole = not rank or resolve_dtype(settings.dtype, self._device) == torch.float32
        model, texts, dtype = load_for_training(
            self._encoder, settings, self._device, dtype="float32" if whole else "stored"
        )
        with kept_generators(settings.seed):
            wrapped = prepare(model, self._encoder.model, rank, settings.dropout)
        course = train_on_pairs(
            model, self._pairs, texts, settings, dtype, self._device, checkpoints,
            symmetric=True, description="known-item training", verbose=self._verbose,
        )  # fmt: skip

        def save(folder: Path) -> None:
            if wrapped is not None:
                wrapped.merge_and_unload(safe_merge=True)
            model.prompts = {"query": texts.contract.query_prompt, "document": texts.contract.document_prompt}
            model.save_pretrained(str(folder), create_model_card=False)

        report = _report(self._encoder.model, settings, self._device, dtype)
        return Trained(save, report | {"pairs": len(self._pairs)} | describe(self._pairs), course)


_OF_ENCODERS = ("query_prompt", "document_prompt", "max_length", "normalize")


def _settings(objective: str | None, settings: DomainSettings | None) -> DomainSettings:
    if objective is not None and objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; {did_you_mean(objective, OBJECTIVES, 'choose one of')}")
    if settings is None:
        return OBJECTIVES[objective or "masked"]()
    if not isinstance(settings, tuple(OBJECTIVES.values())):
        wanted = " or ".join(one.__name__ for one in OBJECTIVES.values())
        raise ValueError(f"settings must be a {wanted}, found {settings!r}")  # noqa: TRY004 (a value of the user's)
    if objective not in (None, settings.objective):
        raise ValueError(f"{type(settings).__name__} is for objective={settings.objective!r}, found {objective!r}")
    return settings


def _checked(texts: Any) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("texts must be strings, one per document, but is a single string; put it in a list")  # noqa: TRY004
    if isinstance(texts, TestCollection):
        texts = [doc["text"] for doc in texts.corpus_iter()]
    texts = list(texts)
    if not texts:
        raise ValueError("there is no text to train on: the corpus is empty")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"every text must be a string, but number {number} is {text!r}")  # noqa: TRY004
    return texts


def _items(given: Any, settings: KnownItemTraining) -> TrainingPairs:
    """Return the training pairs of known items."""
    if isinstance(given, TrainingPairs):
        return given
    if not isinstance(given, TestCollection):
        raise ValueError(f"objective='known-items' needs a collection, or pairs; found {type(given).__name__}")  # noqa: TRY004
    if given.labelled:
        given = known_items(given, settings.items, seed=settings.seed, query=settings.query)
    return pairs_from_collection(given, "train")


def _report(base: str, settings: DomainSettings, device: str, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "objective": settings.objective,
        "base": base,
        "settings": settings.model_dump(),
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
    }
