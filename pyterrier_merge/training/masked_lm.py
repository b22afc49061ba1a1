"""A masked language model under training: loaded from a base, stepped, and its body written out again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from pyterrier_merge.training.masking import MaskedBatch

_HIDDEN_DROPOUT = ("hidden_dropout_prob", "dropout", "mlp_dropout")
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
LOSS_ROWS = 64
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class MaskedLM:
    """A masked language model, its float32 master weights and their optimizer.

    The model computes in ``dtype``; updates go to the masters, because a bfloat16 weight swallows small steps.
    Embeddings are frozen: a merge takes them from the source model.

    Attributes:
        tokenizer: The base's.
        vocabulary: Number of ids that both the tokenizer and the embeddings know.
        fresh_head: Whether the base had no head for masked tokens, so that it was initialised at random.
    """

    def __init__(self, base: Path, *, dropout: float, weight_decay: float, dtype: torch.dtype, device: str) -> None:
        """Load the base model; a missing head is drawn from torch's global generator.

        Raises:
            ValueError: The base is no encoder, or weights of its body are missing.
        """
        config = encoder_config(base)
        self._base = base
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        for names, value in ((_HIDDEN_DROPOUT, dropout), (_ATTENTION_DROPOUT, 0.0)):
            for name in filter(lambda name: hasattr(config, name), names):
                setattr(config, name, value)
        # On CPUs the fused attention's backward pass is slower than the plain one's.
        attention = "eager" if torch.device(device).type == "cpu" else "sdpa"
        with quiet_loading():
            model, loading = AutoModelForMaskedLM.from_pretrained(
                base, config=config, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
            )
        self.vocabulary = min(len(self.tokenizer), config.vocab_size)
        body_prefix = model.base_model_prefix + "."
        missing = sorted(name for name in loading["missing_keys"] if name.startswith(body_prefix))
        if missing:
            raise ValueError(
                f"{base} lacks weights of its body, such as {missing[0]!r}; give a complete model, or one whose "
                "configuration fits its weights"
            )
        # A bias that is tied to another is reported too, where an older release saved the model.
        self.fresh_head = any(name.endswith("weight") for name in loading["missing_keys"])

        _embeddings(model.base_model).requires_grad_(False)
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._masters = {name: weight.detach().to(device, copy=True) for name, weight in trained.items()}
        self._model = model.to(device, dtype).train()
        self._weights = {name: weight for name, weight in model.named_parameters() if name in trained}
        self._body = [name for name in trained if name.startswith(body_prefix)]
        self._body_prefix = body_prefix
        self._device = device
        if torch.device(device).type == "cpu":
            quicken_dropout(self._model)

        matrices = [weight for weight in self._masters.values() if weight.ndim > 1]
        vectors = [weight for weight in self._masters.values() if weight.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}], fused=True
        )
        self._predicted: torch.Tensor
        model.base_model.register_forward_hook(self._keep_predicted)

    def step(self, batch: MaskedBatch, *, learning_rate: float, head_only: bool) -> float:
        """Take one optimizer step, gradients clipped to norm 1, and return the batch's mean loss (nats a token)."""
        for name in self._body:
            self._weights[name].requires_grad_(not head_only)
        input_ids, attention_mask, predicted, labels = (torch.from_numpy(array).to(self._device) for array in batch)
        self._predicted = predicted
        logits = self._model(input_ids=input_ids, attention_mask=attention_mask).logits[0, : len(labels)]
        loss = _cross_entropy(logits, labels)
        torch.autograd.backward(loss)

        for name, weight in self._weights.items():
            self._masters[name].grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        nn.utils.clip_grad_norm_(self._masters.values(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._publish()
        return loss.item()

    def require_finite(self) -> None:
        """Raise ``RuntimeError`` where training has driven a weight to NaN or infinity."""
        for name, master in self._masters.items():
            if not master.isfinite().all():
                raise RuntimeError(f"the training diverged: {name} holds NaN or infinity; lower learning_rate")

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that training changes, as float32 tensors on the CPU."""
        tensors = {f"weight.{name}": master for name, master in self._masters.items()}
        for name, master in self._masters.items():
            tensors |= {f"{part}.{name}": value for part, value in self._optimizer.state[master].items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go back to a :meth:`state`."""
        for name, master in self._masters.items():
            master.copy_(state[f"weight.{name}"])
            if f"step.{name}" in state:  # absent for a body that no step has reached yet
                self._optimizer.state[master] = {part: state[f"{part}.{name}"].to(self._device) for part in _ADAM_STATE}
        self._publish()

    def save(self, folder: Path) -> None:
        """Write the body as a transformers model, named and configured as the base's own, and the base's tokenizer.

        The head is left out. The pooler, which masked training does not touch, is the base's own; where the base has
        none, none is written.
        """
        with quiet_loading():
            body, loading = AutoModel.from_pretrained(self._base, dtype=torch.float32, output_loading_info=True)
            missing = loading["missing_keys"]
            weights = {name: weight for name, weight in body.state_dict().items() if name not in missing}
            for name in self._body:
                weights[name.removeprefix(self._body_prefix)].copy_(self._masters[name])
            body.save_pretrained(folder, state_dict=weights)
        AutoTokenizer.from_pretrained(self._base).save_pretrained(folder)  # use changes a tokenizer's own settings

    @torch.no_grad()
    def _publish(self) -> None:
        for name, weight in self._weights.items():
            weight.copy_(self._masters[name])

    def _keep_predicted(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        # The head, a product with the whole vocabulary, sees the masked positions alone.
        hidden = output["last_hidden_state"][self._predicted]
        output["last_hidden_state"] = nn.functional.pad(hidden, (0, 0, 0, -len(hidden) % LOSS_ROWS)).unsqueeze(0)
        return output


def encoder_config(base: Path) -> PretrainedConfig:
    """Return the configuration of a model that can learn to fill in masked tokens.

    Raises:
        ValueError: The folder holds a decoder, an encoder-decoder, or nothing that transformers knows.
    """
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{base} holds no model that transformers can load: {error}") from error
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise ValueError(
            f"{base} is a {config.model_type!r} model: a decoder, or another kind that fills in no masked tokens. "
            "train_domain_model() trains encoders such as BERT; for a decoder, take a published domain language model"
        )
    return config


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # In parts: float32 logits of a whole batch are a block that the allocator fetches from the system at every step.
    parts = zip(torch.split(logits, LOSS_ROWS), torch.split(labels, LOSS_ROWS), strict=True)
    losses = [nn.functional.cross_entropy(part.float(), label, reduction="sum") for part, label in parts]
    return torch.stack(losses).sum() / len(labels)


class ByteDropout(nn.Dropout):
    """Dropout that spends one random byte an element: faster than torch's on a CPU, ``p`` rounded to 1/256."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Zero a share ``p`` of the elements and scale the others up, while training."""
        dropped = min(255, round(self.p * 256))
        if not self.training or dropped == 0:
            return hidden
        words = torch.empty(-(-hidden.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: hidden.numel()].view(hidden.shape) >= dropped
        return hidden * (kept.to(hidden.dtype) * (256 / (256 - dropped)))


def quicken_dropout(model: nn.Module) -> None:
    """Put :class:`ByteDropout` in the place of every dropout of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, ByteDropout(child.p))


def _embeddings(body: PreTrainedModel) -> nn.Module:
    whole = getattr(body, "embeddings", None)  # positions, token types and normalisation too, where they are together
    return whole if isinstance(whole, nn.Module) else body.get_input_embeddings()
