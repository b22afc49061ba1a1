"""Causal language modelling: a decoder learns to predict the next token of unlabelled text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)

from pyterrier_merge.models import quiet_loading
from pyterrier_merge.training.adapter import lora_config
from pyterrier_merge.training.batches import WindowBatches
from pyterrier_merge.training.checkpoints import Checkpoints
from pyterrier_merge.training.engine import Course, Loop, fit, recompute_activations
from pyterrier_merge.training.settings import CausalTraining

LARGE = 1_000_000_000  # parameters; by default, larger models train an adapter
RANK = 16
IGNORED = -100  # torch's label of tokens that the loss ignores


@dataclass(frozen=True)
class CausalBatches:
    """The batches of a causal training, by number.

    Attributes:
        windows: The windows to batch.
        steps: Number of batches.
    """

    windows: WindowBatches
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels``, all ``(batch, length) int64``.

        The labels are the ids without padding. They include the end-of-sequence token, even if it is also the padding
        token.
        """
        ids, attention = map(torch.from_numpy, self.windows.padded(number))
        return {"input_ids": ids, "attention_mask": attention.long(), "labels": ids.masked_fill(~attention, IGNORED)}


class CausalLM:
    """A causal language model under training. Its embeddings are frozen: a merge takes them from the source model.

    Attributes:
        model: The live model.
        rank: Rank of the adapter that is trained instead of the weights; 0 without an adapter.
    """

    def __init__(self, base: Path, name: str, settings: CausalTraining, *, dtype: torch.dtype, device: str) -> None:
        """Load the base model: in float32, or in its stored type if an adapter is trained and ``dtype`` is shorter.

        Raises:
            ValueError: The base is not a decoder with a language-model head, or weights are missing.
        """
        require_decoder(base)
        self._base = base
        with quiet_loading():
            loader: Any = AutoModelForCausalLM
            model, loading = loader.from_pretrained(base, dtype="auto", output_loading_info=True)
            if loading["missing_keys"]:
                raise ValueError(
                    f"{base} lacks weights of a causal language model, such as {sorted(loading['missing_keys'])[0]!r}: "
                    "a retriever has no head to predict tokens with; give the language model that it comes from"
                )
        size = sum(weight.numel() for weight in model.parameters())
        self.rank = settings.rank if settings.rank is not None else RANK * (size > LARGE)
        self.model: Any = (model if self.rank and dtype != torch.float32 else model.float()).to(device)
        if self.rank:
            from peft import get_peft_model

            config = lora_config(self.model, name, rank=self.rank, alpha=2 * self.rank, dropout=0.0)
            self.model = get_peft_model(self.model, config, autocast_adapter_dtype=True)
        else:
            self.model.get_input_embeddings().requires_grad_(False)
        if settings.checkpointing:
            recompute_activations(self.model)

    def loss(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean loss of a batch (nats per token)."""
        loss: torch.Tensor = model(**batch, use_cache=False).loss
        return loss

    def save(self, folder: Path) -> None:
        """Write the language model, with the adapter merged in, and the base's tokenizer."""
        model = self.model
        if self.rank:
            model = model.merge_and_unload(safe_merge=True)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(self._base).save_pretrained(folder)


def train_causal(
    model: CausalLM, windows: WindowBatches, loop: Loop, checkpoints: Checkpoints, *, verbose: bool | None = None
) -> Course:
    """Train a decoder on windows."""
    batches = CausalBatches(windows, loop.steps)
    return fit(model.model, model.loss, batches, loop, checkpoints, description="domain training", verbose=verbose)


def require_decoder(base: Path) -> None:
    """Raise ``ValueError`` if a folder has no model that can be trained to predict the next token."""
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{base} holds no model that transformers can load: {error}") from error
    encodes = type(config) in MODEL_FOR_MASKED_LM_MAPPING  # BERT can run as a decoder, but was not trained as one
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encodes:
        raise ValueError(
            f"{base} is a {config.model_type!r} model and not a decoder: train it with objective='masked' or "
            "'known-items'"
        )
