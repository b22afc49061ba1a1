"""What a retrieval model expects of its input and does to its output: prompts, special tokens, length, pooling."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyterrier_merge.models import count_positions

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_CLASSIC_E5 = re.compile(r"(^|/)(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?$")


@dataclass(frozen=True)
class RetrieverContract:
    """The conditions under which a model's vectors are good; a merge keeps those of its source.

    Attributes:
        pooling: How token vectors become one: sentence-transformers' name (``mean``, ``cls``, ``lasttoken`` …).
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        max_length: Tokens of a text at most, prompt and special tokens counted; the rest is cut off.
        appended: Ids of tokens that the model was trained to see at the end and that its tokenizer does not put there.
            Since transformers 5 that is the end-of-sequence token of Llama and Mistral tokenizers, without which the
            last token's vector is that of some word.
    """

    pooling: str
    query_prompt: str
    document_prompt: str
    max_length: int
    appended: tuple[int, ...] = ()

    @classmethod
    def read(
        cls,
        model: SentenceTransformer,
        name: str,
        *,
        task: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
    ) -> RetrieverContract:
        """Read the contract from a loaded model; what the caller gives wins over what the model says.

        Args:
            model: The model, loaded from sentence-transformers files.
            name: Its name, for messages, and to recognise the E5 models whose prompts are in no file.
            task: Written into the prompt of a model that follows instructions; other models do not see it.
            query_prompt: Instead of the model's own.
            document_prompt: Instead of the model's own.
            max_length: Tokens; at most what the model has positions for.

        Raises:
            ValueError: ``max_length`` is more than the model can take, or leaves no room for text.
        """
        pooling = "+".join(_pooling_modes(model))
        prompts = {key: value for key, value in model.prompts.items() if value}
        own = next((prompt for prompt in prompts.values() if prompt.startswith("Instruct:")), None)
        if own or pooling == "lasttoken" or name.endswith("-instruct"):
            default_query = _instruction(task, own) if task else prompts.get("query", "")
            default_document = prompts.get("document", "")
            if not task and query_prompt is None and not default_query:
                logger.warning("%s follows instructions and was given no task: queries are encoded without one", name)
        elif _CLASSIC_E5.search(name) and not prompts:
            default_query, default_document = "query: ", "passage: "
        else:
            default_query, default_document = prompts.get("query", ""), prompts.get("document", "")
        contract = cls(
            pooling,
            default_query if query_prompt is None else query_prompt,
            default_document if document_prompt is None else document_prompt,
            _length(model, name, max_length),
            _missing_end(model.tokenizer, pooling),
        )
        contract._require_room(model.tokenizer, name)
        return contract

    def _require_room(self, tokenizer: Any, name: str) -> None:
        for kind, prompt in (("query", self.query_prompt), ("document", self.document_prompt)):
            used = len(tokenizer(prompt)["input_ids"]) + len(self.appended)
            if used >= self.max_length:
                raise ValueError(
                    f"{name}: max_length={self.max_length} tokens leaves no room for text, "
                    f"the {kind} prompt and special tokens take {used}"
                )


def _instruction(task: str, own: str | None) -> str:
    """The paper's prompt; where the model's own spaces its second line otherwise (Qwen3 does), as that one does."""
    query = own[own.index("\nQuery:") :] if own and "\nQuery:" in own else "\nQuery: "
    return f"Instruct: {task}{query}"


def _pooling_modes(model: SentenceTransformer) -> list[str]:
    modes: list[str] = []
    for module in model:
        if not getattr(module, "include_prompt", True):
            raise ValueError(
                "the model pools over the text without its prompt (include_prompt is false): not supported"
            )
        mode = getattr(module, "pooling_mode", None)
        if mode is not None:
            modes.extend([mode] if isinstance(mode, str) else mode)
    return modes


def _length(model: SentenceTransformer, name: str, wanted: int | None) -> int:
    own = model.max_seq_length
    positions = count_positions(model.transformers_model)
    known = [limit for limit in (own, positions) if limit]
    if wanted is None:
        if not known:
            raise ValueError(f"{name} states no maximum length; pass max_length")
        return int(min(known))
    if positions and wanted > positions:
        raise ValueError(f"max_length={wanted} is more than the {positions} positions of {name}")
    return int(wanted)


def _missing_end(tokenizer: Any, pooling: str) -> tuple[int, ...]:
    if pooling != "lasttoken" or tokenizer.eos_token_id is None:
        return ()
    framed, bare = tokenizer("text")["input_ids"], tokenizer("text", add_special_tokens=False)["input_ids"]
    return () if framed[-1] != bare[-1] else (tokenizer.eos_token_id,)  # Qwen3 ends with another token than its EOS
