"""From texts to token ids, by the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyterrier_merge.encoding.contract import POOLING_MODES, RetrieverContract
from pyterrier_merge.encoding.families import known_family
from pyterrier_merge.encoding.loading import load_retriever


def read_tokenizer(
    folder: Path, name: str, *, contract: RetrieverContract | None = None, max_length: int | None = None
) -> tuple[Any, RetrieverContract]:
    """Return the tokenizer of a retrieval model, and its contract, without loading weights.

    A plain checkpoint of unknown pooling is read as if it had mean pooling: tokens do not depend on the pooling.

    Args:
        folder: The folder of the files.
        name: The user's name for the model, to recognise its family.
        contract: Document prompt, pooling and length, instead of those in the model's files.
        max_length: Tokens; instead of the value of ``contract`` or the model.

    Raises:
        ValueError: As :func:`~.loading.load_retriever`.
    """
    pooling = None
    if contract is not None and contract.pooling in POOLING_MODES:
        pooling = contract.pooling
    elif not (folder / "modules.json").is_file():
        family = known_family(name, folder)
        pooling = (family.pooling if family else None) or "mean"
    model, own = load_retriever(
        folder,
        name,
        device="meta",
        pooling=pooling,
        query_prompt="",
        document_prompt=contract.document_prompt if contract else None,
        max_length=max_length or (contract.max_length if contract else None),
    )
    return model.tokenizer, own


def tokenise(tokenizer: Any, texts: list[str], prompt: str, contract: RetrieverContract) -> tuple[list[list[int]], int]:
    """Return the token ids of each text, special tokens and prompt included, and how many texts were cut.

    Texts are cut first and the contract's tokens are added afterwards, so that the end token is kept. A lone surrogate
    becomes ``?``.

    Args:
        tokenizer: The model's.
        texts: At least one.
        prompt: Put before each text.
        contract: Gives the length, and the tokens that the tokenizer does not add.
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
    else:  # tokenizers in Python do not report it
        cut = sum(len(tokenizer(prompted[row])["input_ids"]) > limit for row in full)
    before, after = list(contract.prepended), list(contract.appended)
    return [before + row + after or _nothing(tokenizer) for row in ids], cut


def _nothing(tokenizer: Any) -> list[int]:
    """The tokens for an empty text if the tokenizer adds no special tokens: a model needs at least one token."""
    return [next(token for token in (tokenizer.eos_token_id, tokenizer.pad_token_id, 0) if token is not None)]
