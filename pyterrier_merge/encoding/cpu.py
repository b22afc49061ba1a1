"""What lets a transformer run near a processor's matrix rate: other kernels for the same arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import eager_mask

ATTENTION = "pyterrier_merge"
PACKED_BYTES = 1 << 30  # layers are packed into copies: not those of a model that fills the memory
BLOCK = 1 << 20  # attention weights that are held at once: 2 to 4 MB, which stay in the processor's cache
LARGEST = 1 << 24  # of one text: beyond, what is never written down is faster
LANES = 32  # of two bytes: softmax takes what is left over one by one, and pays for more than half a row of them
LARGEST_LEARNT = (1 << 25) - (1 << 14)  # bytes: glibc learns from blocks of up to 32 MB, its own header included
_PACKED, _PACKED_STATE = "_packed", "_packed_state"  # kept out of torch's registers: no parameter, never saved


def use_fast_kernels(body: nn.Module) -> None:
    """Let a transformer on a CPU compute attention as suits the processor, and linear layers from packed weights.

    Both give what they gave before, but for rounding, and pay for texts of some hundred tokens: see
    ``experiments/benchmarks/encoding.py``. Freed memory is kept, too.

    Args:
        body: The transformer, in the type that it computes in. Attention that it does not leave to torch's
            ``scaled_dot_product_attention`` stays as it is, and so do linear layers of more than 1 GB.
    """
    keep_freed_memory()
    config: Any = body.config
    if config._attn_implementation == "sdpa":
        body.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    linear = [module for module in body.modules() if type(module) is nn.Linear]
    size = sum(module.weight.nbytes for module in linear)
    if linear and size <= PACKED_BYTES and _packs(linear[0].weight.dtype):
        for module in linear:
            module.__class__ = PackedLinear  # parameters, names and hooks stay: merges write to them as before


def keep_freed_memory() -> None:
    """Let this process keep up to 64 MB of freed memory, so that a batch's activations find their pages there.

    glibc hands what is free at the end of its heap back to the system once it is more than twice the largest block
    that it ever mapped and freed. One such block is taken and freed here, untouched. Without it, fetching pages anew
    for each batch takes 8 % of the time with MiniLM. Other C libraries are not concerned.
    """
    torch.empty(LARGEST_LEARNT, dtype=torch.uint8)


class PackedLinear(nn.Linear):
    """A linear layer that multiplies with a copy of its weights in the processor's own order.

    The copy is made at the first text, and again after the weights were written to. Where gradients are asked for, the
    weights themselves are used.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Return ``input @ weight.T + bias``."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        state = self.weight.data_ptr(), self.weight._version
        if self.__dict__.get(_PACKED_STATE) != state:
            self.__dict__[_PACKED] = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), None)
            self.__dict__[_PACKED_STATE] = state
        return torch.ops.mkldnn._linear_pointwise(input, self.__dict__[_PACKED], self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: it packs its weights itself."""
        return {name: value for name, value in self.__dict__.items() if name not in (_PACKED, _PACKED_STATE)}


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as two batched matrix products and a softmax, or in torch's fused kernel.

    The kernel is made for sequences whose attention weights do not fit into the cache. Those of a retriever's texts do,
    and then its small tiles reach a fraction of a processor's matrix rate, so that products over a few texts at a time
    are faster; but not where the processor multiplies tiles itself (AMX). The arguments are those of transformers'
    attention functions.

    Args:
        module: The layer.
        query: ``(texts, heads, tokens, size)``.
        key: ``(texts, key_heads, tokens, size)``.
        value: ``(texts, key_heads, tokens, size)``.
        attention_mask: Added to the products, ``(texts, 1, tokens, tokens)``; None where every token sees every other.
        scaling: What products are multiplied by; one by the root of the size when None.
        **kwargs: What the fused kernel takes beyond; a position bias is left to it.

    Returns:
        ``(texts, tokens, heads, size)``, and None in place of the weights.
    """
    texts, heads, tokens, size = query.shape
    large = heads * tokens * tokens > LARGEST
    if large or multiplies_tiles() or torch.is_grad_enabled() or kwargs.get("position_bias") is not None:
        kwargs["is_causal"] = False  # the mask says all
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    query = query * (size**-0.5 if scaling is None else scaling)
    out = query.new_empty(texts, tokens, heads, value.shape[-1])
    rest = tokens % LANES if query.element_size() == 2 else 0
    filler = LANES - rest if rest > LANES // 2 else 0  # keys that nothing sees
    if filler:
        key, value = (nn.functional.pad(tensor, (0, 0, 0, filler)) for tensor in (key, value))
    step = max(1, BLOCK // (heads * tokens * tokens))
    for start in range(0, texts, step):
        some = slice(start, start + step)
        keys, values = (repeat_kv(tensor[some], heads // key.shape[1]) for tensor in (key, value))
        weights = query[some] @ keys.transpose(2, 3)
        if attention_mask is not None:
            weights[..., :tokens] += attention_mask[some]
        weights[..., tokens:] = -torch.inf
        torch.softmax(weights, dim=-1, out=weights)  # row by row, so that it may write over what it has read
        out[some] = (weights @ values).transpose(1, 2)
    return out, None


def multiplies_tiles() -> bool:
    """Whether the processor has AMX."""
    return torch.cpu._is_amx_tile_supported()


def _packs(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
