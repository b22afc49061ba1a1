"""From texts to token ids, as the contract wants them."""

from __future__ import annotations

from typing import Any

from pyterrier_merge.encoding.contract import RetrieverContract


def tokenise(tokenizer: Any, texts: list[str], prompt: str, contract: RetrieverContract) -> tuple[list[list[int]], int]:
    """Return the token ids of each text, special tokens and prompt included, and how many texts were cut.

    Texts are cut first and what the contract adds comes after: the end must survive. A lone surrogate becomes ``?``.

    Args:
        tokenizer: The model's.
        texts: At least one.
        prompt: Put before each.
        contract: Says the length, and what the tokenizer leaves out.
    """
    limit = contract.max_length - contract.added
    prompted = [prompt + text.encode(errors="replace").decode() for text in texts]
    encoded = tokenizer(
        prompted, truncation=True, max_length=limit, return_attention_mask=False, return_token_type_ids=False
    )
    ids = encoded["input_ids"]
    full = [row for row, tokens in enumerate(ids) if len(tokens) >= limit]
    if encoded.encodings is not None:
        cut = sum(bool(encoded.encodings[row].overflowing) for row in full)
    else:  # a tokenizer that is no Rust one does not say
        cut = sum(len(tokenizer(prompted[row])["input_ids"]) > limit for row in full)
    before, after = list(contract.prepended), list(contract.appended)
    return [before + row + after or _nothing(tokenizer) for row in ids], cut


def _nothing(tokenizer: Any) -> list[int]:
    """What stands for a text without tokens, where a tokenizer puts nothing around one: a model needs something."""
    return [next(token for token in (tokenizer.eos_token_id, tokenizer.pad_token_id, 0) if token is not None)]
