"""Attention kernels that let a transformer run near a processor's peak matrix rate, with the same arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import eager_mask

from pyterrier_merge.encoding.fast_layers import use_fast_layers

ATTENTION = "pyterrier_merge"
BLOCK = 1 << 20  # attention weights held at once: 2 to 4 MB, which stay in the processor's cache
LARGEST = 1 << 24  # for one text; above it, a kernel that never stores the weights is faster
LANES = 32  # two-byte values; softmax handles the remainder one by one, which is slow for more than half a row
LARGEST_LEARNT = (1 << 25) - (1 << 14)  # bytes: glibc adapts to blocks of up to 32 MB, including its own header


def use_fast_kernels(body: nn.Module) -> None:
    """Let a transformer on a CPU use a fast attention kernel, and linear layers with packed weights.

    Both give the same results up to rounding, and help for texts of some hundred tokens: see
    ``experiments/benchmarks/encoding.py``. Freed memory is also kept.

    Args:
        body: The transformer, in the type that it computes in. Attention that does not use torch's
            ``scaled_dot_product_attention`` is not changed, nor are linear layers of more than 1 GB.
    """
    keep_freed_memory()
    config: Any = body.config
    if config._attn_implementation == "sdpa":
        body.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    use_fast_layers(body)


def keep_freed_memory() -> None:
    """Let this process keep up to 64 MB of freed memory, so that a batch's activations reuse its pages.

    glibc returns free memory at the end of its heap to the system once it is more than twice the largest block that it
    ever mapped and freed. This function allocates and frees one such block without using it. Otherwise, fetching new
    pages for each batch takes 8 % of the time with MiniLM. Other C libraries are not affected.
    """
    torch.empty(LARGEST_LEARNT, dtype=torch.uint8)


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

    The fused kernel is made for sequences whose attention weights do not fit into the cache. Those of a retriever's
    texts do, and its small tiles then reach only part of a processor's matrix rate. Products over a few texts are
    faster, except on processors that multiply tiles themselves (AMX). The kernel takes keys that heads share directly,
    while transformers repeats them: a third less time. The arguments are those of transformers' functions.

    Args:
        module: The layer.
        query: ``(texts, heads, tokens, size)``.
        key: ``(texts, key_heads, tokens, size)``.
        value: ``(texts, key_heads, tokens, size)``.
        attention_mask: Added to the products, ``(texts, 1, tokens, tokens)``; None if every token sees every other.
        scaling: Factor of the products; 1 divided by the square root of the size when None.
        **kwargs: For transformers' own function, which computes gradients and takes a position bias.

    Returns:
        ``(texts, tokens, heads, size)``, and None in place of the weights.
    """
    texts, heads, tokens, size = query.shape
    large = heads * tokens * tokens > LARGEST
    if torch.is_grad_enabled() or kwargs.get("position_bias") is not None:
        kwargs["is_causal"] = False  # the mask includes it
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if large or multiplies_tiles():
        weighted = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=key.shape[1] != heads
        )
        return weighted.transpose(1, 2).contiguous(), None
    query = query * (size**-0.5 if scaling is None else scaling)
    out = query.new_empty(texts, tokens, heads, value.shape[-1])
    rest = tokens % LANES if query.element_size() == 2 else 0
    filler = LANES - rest if rest > LANES // 2 else 0  # padding keys, masked out
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
        torch.softmax(weights, dim=-1, out=weights)  # in place: softmax works row by row
        out[some] = (weights @ values).transpose(1, 2)
    return out, None


def multiplies_tiles() -> bool:
    """Whether the processor has AMX."""
    return torch.cpu._is_amx_tile_supported()


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
