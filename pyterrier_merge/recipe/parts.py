"""The parts of a layer, by the names of its tensors."""

from __future__ import annotations

# Family-neutral names and the pieces of tensor names that each one stands for, as in the filters of mergekit's YAML.
# Norms around attention and feed-forward network belong to neither. A digit before it distinguishes BERT's last dense
# layer from that of its attention ("attention.output.dense").
NEUTRAL_PARTS = {
    "attention": (
        ".self_attn.",  # Llama, Mistral, Qwen, Gemma, OPT
        ".attn.",  # GPT-2, ModernBERT, MPNet
        ".self_attention.",  # Bloom, Falcon
        ".attention.self.",  # BERT, RoBERTa, Electra, DeBERTa
        ".attention.output.dense.",
        ".attention.query_key_value.",  # GPT-NeoX
        ".attention.dense.",
        "_lin.",  # DistilBERT
    ),
    "feed_forward": (
        ".mlp.",  # Llama, Mistral, Qwen, Gemma, GPT-2, GPT-NeoX, Bloom, Falcon, ModernBERT
        ".block_sparse_moe.",  # Mixtral
        ".feed_forward.",  # LFM2
        ".ffn.",  # DistilBERT
        ".fc1.",  # OPT
        ".fc2.",
        ".intermediate.dense.",  # BERT, RoBERTa, Electra, DeBERTa, MPNet
        *(f"{digit}.output.dense." for digit in range(10)),
    ),
}


def pieces(part: str) -> tuple[str, ...]:
    """Return the pieces of names that a part stands for: a neutral name's, or the part itself."""
    return NEUTRAL_PARTS.get(part, (part,))


def belongs_to(name: str, part: str) -> bool:
    """Whether a tensor of a layer belongs to a part.

    Args:
        name: Canonical name of the tensor.
        part: ``attention``, ``feed_forward``, or a piece of tensors' names. In Llama's family, mergekit compares with
            names that begin with ``model.``, and so does this function.
    """
    full = f"model.{name}"
    return any(piece in full for piece in pieces(part))
