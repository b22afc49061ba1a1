"""Saves a tokenizer that ends every text as the encoder does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyterrier_merge.storage import write_file


def save_tokenizer(tokenizer: Any, folder: Path, *, appended: Sequence[int]) -> None:
    """Write a tokenizer that appends tokens to every text, after cutting it.

    The tokens go into the post-processor of ``tokenizer.json``. The class becomes ``PreTrainedTokenizerFast``, which
    uses that file unchanged under transformers 4 and 5; ``LlamaTokenizer`` builds its own post-processor.

    Args:
        tokenizer: A transformers tokenizer, backed by the tokenizers library.
        folder: The target folder; files of the source's tokenizer are replaced.
        appended: Ids of the tokens.

    Raises:
        ValueError: The tokenizer is not backed by the tokenizers library, or its post-processor is of an unknown kind.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} has no tokenizer.json, which is where a token that the model needs at the end "
            f"of a text ({', '.join(tokenizer.convert_ids_to_tokens(list(appended)))}) is written to: give a source "
            "with a fast tokenizer"
        )
    tokenizer.save_pretrained(folder)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for number in appended:
        token = tokenizer.convert_ids_to_tokens(number)
        content["post_processor"] = _ending_with(content["post_processor"], token, number)
    content.update(truncation=None, padding=None)  # settings of the last call
    write_file(folder / "tokenizer.json", json.dumps(content, ensure_ascii=False, indent=2))
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    for key in ("add_bos_token", "add_eos_token", "is_local", "local_files_only"):  # the first two rebuild it
        config.pop(key, None)
    config.update(  # defaults of the class
        tokenizer_class="PreTrainedTokenizerFast",
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=list(tokenizer.model_input_names),
    )
    write_file(file, json.dumps(config, ensure_ascii=False, indent=2))


def _ending_with(processor: dict[str, Any] | None, token: str, number: int) -> dict[str, Any]:
    """The post-processor of ``tokenizer.json``, with one more token at the end of a text or a pair."""
    if processor is None or processor == {"type": "Sequence", "processors": []}:
        return _template(token, number)
    if processor["type"] == "TemplateProcessing":
        end = {"SpecialToken": {"id": token, "type_id": 0}}
        special = {**processor["special_tokens"], token: {"id": token, "ids": [number], "tokens": [token]}}
        return {
            **processor,
            "single": [*processor["single"], end],
            "pair": [*processor["pair"], end],
            "special_tokens": special,
        }
    if processor["type"] == "ByteLevel":
        return {"type": "Sequence", "processors": [processor, _template(token, number)]}
    if processor["type"] == "Sequence":
        *others, last = processor["processors"]
        if last["type"] == "TemplateProcessing":
            return {**processor, "processors": [*others, _ending_with(last, token, number)]}
        if all(other["type"] == "ByteLevel" for other in (*others, last)):
            return {**processor, "processors": [*others, last, _template(token, number)]}
    raise ValueError(
        f"the tokenizer's post-processor is a {processor['type']}, to which {token!r} cannot be appended (expected "
        "TemplateProcessing, ByteLevel, or a sequence of these)"
    )


def _template(token: str, number: int) -> dict[str, Any]:
    from tokenizers import processors

    made = processors.TemplateProcessing(
        single=f"$A {token}", pair=f"$A $B:1 {token}", special_tokens=[(token, number)]
    )
    return dict(json.loads(made.__getstate__()))
