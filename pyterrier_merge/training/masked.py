"""Masked language modelling: an encoder learns to predict masked tokens of unlabelled text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from pyterrier_merge.models import quiet_loading
from pyterrier_merge.training.batches import WindowBatches
from pyterrier_merge.training.checkpoints import Checkpoints
from pyterrier_merge.training.engine import Course, Loop, fit
from pyterrier_merge.training.masking import MaskedBatches
from pyterrier_merge.training.settings import MaskedTraining

_HIDDEN_DROPOUT = ("hidden_dropout_prob", "dropout", "mlp_dropout")
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
LOSS_ROWS = 64


class MaskedLM:
    """A masked language model in float32. Its embeddings are frozen: a merge takes them from the source model.

    Attributes:
        model: The live model.
        tokenizer: Tokenizer of the base.
        fresh_head: Whether the base had no head for masked tokens, so that a new one was initialised at random.
    """

    def __init__(self, base: Path, *, dropout: float, device: str) -> None:
        """Load the base model. A missing head is initialised with torch's global random generator.

        Raises:
            ValueError: The base is not an encoder, or weights of its body are missing.
        """
        config = encoder_config(base)
        self._base = base
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        for names, value in ((_HIDDEN_DROPOUT, dropout), (_ATTENTION_DROPOUT, 0.0)):
            for name in filter(lambda name: hasattr(config, name), names):
                setattr(config, name, value)
        # On CPUs, the backward pass of fused attention is slower.
        attention = "eager" if torch.device(device).type == "cpu" else "sdpa"
        with quiet_loading():
            self.model, loading = AutoModelForMaskedLM.from_pretrained(
                base, config=config, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
            )
        missing = sorted(name for name in loading["missing_keys"] if name.startswith(self._body_prefix))
        if missing:
            raise ValueError(
                f"{base} lacks weights of its body, such as {missing[0]!r}; give a complete model, or one with a "
                "configuration that fits its weights"
            )
        # Tied biases are reported as missing too if an older release saved the model.
        self.fresh_head = any(name.endswith("weight") for name in loading["missing_keys"])
        self.model.to(device)
        self.train_head_only(False)
        if torch.device(device).type == "cpu":
            quicken_dropout(self.model)

    @property
    def vocabulary(self) -> int:
        """Number of ids that both the tokenizer and the embeddings have."""
        return min(len(self.tokenizer), self.model.config.vocab_size)

    @property
    def _body_prefix(self) -> str:
        return f"{self.model.base_model_prefix}."

    def train_head_only(self, alone: bool) -> None:
        """Choose what is trained: only the head, or the head and the layers."""
        self.model.requires_grad_(True)
        self.model.base_model.requires_grad_(not alone)
        _embeddings(self.model.base_model).requires_grad_(False)

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean loss of a batch (nats per predicted token)."""
        predicted, tokens = batch["predicted"], batch["tokens"]

        def keep_predicted(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            # Only the predicted positions go through the head, a product with the whole vocabulary.
            hidden = output["last_hidden_state"][predicted]
            output["last_hidden_state"] = nn.functional.pad(hidden, (0, 0, 0, -len(hidden) % LOSS_ROWS)).unsqueeze(0)
            return output

        hook = self.model.base_model.register_forward_hook(keep_predicted)
        try:
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        finally:
            hook.remove()
        return _cross_entropy(output.logits[0, : len(tokens)], tokens)

    def save(self, folder: Path) -> None:
        """Write the body as a transformers model, with names and configuration of the base, and the base's tokenizer.

        The head is not written. The pooler is that of the base, because masked training does not change it; if the
        base has no pooler, none is written.
        """
        with quiet_loading():
            body, loading = AutoModel.from_pretrained(self._base, dtype=torch.float32, output_loading_info=True)
            missing = loading["missing_keys"]
            weights = {name: weight for name, weight in body.state_dict().items() if name not in missing}
            for name, weight in self.model.named_parameters():
                if name.startswith(self._body_prefix) and weight.requires_grad:
                    weights[name.removeprefix(self._body_prefix)].copy_(weight.detach())
            body.save_pretrained(folder, state_dict=weights)
        AutoTokenizer.from_pretrained(self._base).save_pretrained(folder)  # use changes a tokenizer's settings


def train_masked(
    model: MaskedLM,
    windows: WindowBatches,
    settings: MaskedTraining,
    loop: Loop,
    checkpoints: Checkpoints,
    *,
    verbose: bool | None = None,
) -> Course:
    """Train a new head alone, then the head and the layers.

    Args:
        model: The loaded model.
        windows: Training text, in windows.
        settings: Settings of the training.
        loop: Loop of the second stage.
        checkpoints: Checkpoints of the second stage; an interrupted training of the head starts again.
        verbose: Show progress bars; in terminals and notebooks when None.
    """
    tokenizer = model.tokenizer
    special = tuple(tokenizer.all_special_ids)
    draws = (settings.mask_probability, tokenizer.mask_token_id, special, model.vocabulary)
    head_steps = settings.head_steps if model.fresh_head else 0
    if head_steps and checkpoints.last() is None:
        model.train_head_only(True)
        head = replace(loop, steps=head_steps, learning_rate=settings.head_learning_rate)
        aside = Checkpoints(folder=checkpoints.folder / "head", identity=checkpoints.identity, every=head_steps + 1)
        with aside.alone():
            batches = MaskedBatches(windows, head_steps, *draws)
            fit(model.model, model.loss, batches, head, aside, description="head for masked tokens", verbose=verbose)
        model.train_head_only(False)
    batches = MaskedBatches(windows, loop.steps, *draws, first=head_steps)
    return fit(model.model, model.loss, batches, loop, checkpoints, description="domain training", verbose=verbose)


def encoder_config(base: Path) -> PretrainedConfig:
    """Return the configuration of a model that can be trained to predict masked tokens.

    Raises:
        ValueError: The folder has a decoder, an encoder-decoder, or no model that transformers knows.
    """
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{base} holds no model that transformers can load: {error}") from error
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise ValueError(
            f"{base} is a {config.model_type!r} model: a decoder, or another kind that does not predict masked tokens. "
            "Masked training needs an encoder such as BERT; train a decoder with objective='causal' or 'known-items'"
        )
    return config


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # In parts: for float32 logits of a whole batch, the allocator would request memory from the system at every step.
    parts = zip(torch.split(logits, LOSS_ROWS), torch.split(labels, LOSS_ROWS), strict=True)
    losses = [nn.functional.cross_entropy(part.float(), label, reduction="sum") for part, label in parts]
    return torch.stack(losses).sum() / len(labels)


class ByteDropout(nn.Dropout):
    """Dropout with one random byte per element: faster than torch's on a CPU; ``p`` is rounded to 1/256."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """While training, set a share ``p`` of the elements to 0 and scale up the others."""
        dropped = min(255, round(self.p * 256))
        if not self.training or dropped == 0:
            return hidden
        words = torch.empty(-(-hidden.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: hidden.numel()].view(hidden.shape) >= dropped
        return hidden * (kept.to(hidden.dtype) * (256 / (256 - dropped)))


def quicken_dropout(model: nn.Module) -> None:
    """Replace every dropout module of a model with :class:`ByteDropout`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, ByteDropout(child.p))


def _embeddings(body: PreTrainedModel) -> nn.Module:
    whole = getattr(body, "embeddings", None)  # with positions, token types and normalisation, if they are one module
    return whole if isinstance(whole, nn.Module) else body.get_input_embeddings()
