"""What a retrieval model expects of its input and does to its output: prompts, special tokens, length, pooling."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.encoding.families import INSTRUCTION, TASK, Family, known_family
from pyterrier_merge.models import count_positions, transformer_folder
from pyterrier_merge.models.files import MERGE, read_json
from pyterrier_merge.spelling import did_you_mean

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

POOLING_MODES = ("mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")

# Names of a document prompt, as sentence-transformers documents them for encode_document. An empty "document" prompt in
# its files counts too, so the later names are then not used.
_OF_DOCUMENTS = ("document", "passage", "corpus")

# Tokenizer classes that prepend BOS by default.
_BEGINS_WITH_BOS = re.compile(r"(Code)?(Llama|Gemma)Tokenizer(Fast)?")


@dataclass(frozen=True)
class RetrieverContract:
    """The input and output rules that a model was trained with; a merge keeps those of its source.

    Attributes:
        pooling: How token vectors become one, by sentence-transformers' name (``mean``, ``cls``, ``lasttoken`` …).
        normalize: Whether vectors are normalised to length 1.
        query_prompt: Put before every query.
        document_prompt: Put before every document.
        max_length: Maximum number of tokens of a text, including prompt and special tokens; the rest is cut off.
        prepended: Ids of tokens that the model was trained to see first and that its tokenizer does not add: the
            beginning-of-sequence token of a Llama or Mistral tokenizer whose files lost it.
        appended: The same at the end. Since transformers 5 that is the end-of-sequence token of Llama and Mistral
            tokenizers; without it, the last token's vector would be that of some word.
    """

    pooling: str
    normalize: bool
    query_prompt: str
    document_prompt: str
    max_length: int
    prepended: tuple[int, ...] = ()
    appended: tuple[int, ...] = ()

    @classmethod
    def read(
        cls,
        model: SentenceTransformer,
        name: str,
        *,
        folder: Path | None = None,
        task: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_length: int | None = None,
    ) -> RetrieverContract:
        """Read the contract from a loaded model; the caller's values take precedence over the model's.

        Pooling and normalisation are the model's modules; see :func:`pyterrier_merge.encoding.loading.load_retriever`.
        Prompts that no file sets are those of the model's family, if the family is known.

        Args:
            model: The model, loaded.
            name: Its name, for messages and to recognise its family.
            folder: The folder of its files, for settings outside the modules.
            task: Put into the prompt of a model that follows instructions; not used for other models.
            query_prompt: Instead of the model's own.
            document_prompt: Instead of the model's own.
            max_length: Tokens; at most the number of the model's positions.

        Raises:
            ValueError: ``max_length`` is more than the model supports, or leaves no room for text.
        """
        family = known_family(name, folder)
        pooling = "+".join(_pooling_modes(model))
        given = query_prompt is not None or document_prompt is not None
        own_query, own_document, follows = _prompts(model, name, family, pooling, task, given=given)
        if folder is not None and (folder / MERGE).is_file():  # a saved merge states empty prompts explicitly
            own_document = model.prompts.get("document") or ""
        if follows and not task and query_prompt is None and not own_query:
            logger.warning("%s follows instructions and was given no task: queries are encoded without one", name)
        unused = [key for key, value in model.prompts.items() if value]
        if unused and not (own_query or own_document or follows or given):
            logger.warning(
                "%s has prompts named %s, and none is for queries or documents: texts are encoded without; give "
                "query_prompt=... and document_prompt=...",
                name,
                ", ".join(unused),
            )
        contract = cls(
            pooling,
            normalizes(model),
            own_query if query_prompt is None else query_prompt,
            own_document if document_prompt is None else document_prompt,
            _length(model, name, max_length),
            _missing_start(model.tokenizer, folder),
            _missing_end(model.tokenizer, pooling),
        )
        contract._require_room(model.tokenizer, name)
        return contract

    @property
    def added(self) -> int:
        """Number of tokens of ``max_length`` that are added around a text, besides those that the tokenizer adds."""
        return len(self.prepended) + len(self.appended)

    def _require_room(self, tokenizer: Any, name: str) -> None:
        for kind, prompt in (("query", self.query_prompt), ("document", self.document_prompt)):
            used = len(tokenizer(prompt)["input_ids"]) + self.added
            if used >= self.max_length:
                raise ValueError(
                    f"{name}: max_length={self.max_length} tokens leaves no room for text, "
                    f"the {kind} prompt and special tokens take {used}"
                )


def normalizes(model: SentenceTransformer) -> bool:
    """Whether a model normalises its vectors to length 1."""
    return type(list(model)[-1]).__name__ == "Normalize"


def require_pooling(pooling: str | None) -> None:
    """Raise ``ValueError`` unless ``pooling`` is a mode of sentence-transformers, or None for the model's own."""
    if pooling is not None and pooling not in POOLING_MODES:
        raise ValueError(f"unknown pooling {pooling!r}: {did_you_mean(pooling, POOLING_MODES, 'choose one of')}")


def _prompts(
    model: SentenceTransformer, name: str, family: Family | None, pooling: str, task: str | None, *, given: bool
) -> tuple[str, str, bool]:
    """Query prompt, document prompt, and whether the model follows instructions; files take precedence over family."""
    stated = {key: value for key, value in model.prompts.items() if value}
    query = stated.get("query", "")
    document = next((stated[key] for key in _OF_DOCUMENTS if key in stated), "")
    own = next((prompt for prompt in stated.values() if prompt.startswith("Instruct:")), None)
    if query or document or own or family is None:
        instruction = _instruction(own, query, pooling, name)
    else:
        query, document = family.query_prompt, family.document_prompt
        instruction = query if TASK in query else None
        query = "" if instruction else query
        by_name = known_family(name) is not None
        told = by_name or given or not (family.query_prompt or document)
        logger.log(
            logging.INFO if told else logging.WARNING,
            "%s: prompts are %r and %r, those of %s; give query_prompt=... and document_prompt=... if it has others",
            name,
            family.query_prompt,
            document,
            "its family" if by_name else "the model that its configuration names as its origin",
        )
    return instruction.replace(TASK, task) if instruction and task else query, document, instruction is not None


def _instruction(own: str | None, query: str, pooling: str, name: str) -> str | None:
    """The paper's prompt, with the spacing of the model's own prompt if its second line differs (as in Qwen3)."""
    if own and "\nQuery:" in own:
        return f"Instruct: {TASK}" + own[own.index("\nQuery:") :]
    follows = own or (not query and (pooling == "lasttoken" or name.endswith("-instruct")))
    return INSTRUCTION if follows else None


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
    body: Any = model.transformers_model
    positions, reach = count_positions(body), _reach(body.config)
    known = [limit for limit in (own, positions, reach) if limit]
    if wanted is None:
        if not known:
            raise ValueError(f"{name} states no maximum length; pass max_length=...")
        return int(min(known))
    if positions and wanted > positions:
        raise ValueError(f"max_length={wanted} is more than the {positions} positions of {name}")
    if reach and wanted > reach:
        raise ValueError(
            f"max_length={wanted}: {name} changes rotary positions in batches with a text of more than {reach} tokens "
            f"(longrope), so that a vector would depend on its batch; give {reach} at most"
        )
    return int(wanted)


def _reach(config: Any) -> int | None:
    """Number of tokens up to which ``longrope`` gives every batch the same rotary positions; None for other kinds."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "longrope":
        return None
    return rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)


def _missing_start(tokenizer: Any, folder: Path | None) -> tuple[int, ...]:
    """BOS, if the files ask for it and the ids lack it: the flag is the intention, the ids are what happens."""
    file = None if folder is None else transformer_folder(folder) / "tokenizer_config.json"
    config = read_json(file) if file is not None and file.is_file() else {}
    wanted = config.get("add_bos_token")
    if wanted is None:
        wanted = _BEGINS_WITH_BOS.fullmatch(str(config.get("tokenizer_class")))
    if tokenizer.bos_token_id is None or not wanted:
        return ()
    return () if tokenizer("text")["input_ids"][:1] == [tokenizer.bos_token_id] else (tokenizer.bos_token_id,)


def _missing_end(tokenizer: Any, pooling: str) -> tuple[int, ...]:
    if "lasttoken" not in pooling.split("+") or tokenizer.eos_token_id is None:
        return ()
    framed, bare = tokenizer("text")["input_ids"], tokenizer("text", add_special_tokens=False)["input_ids"]
    # Qwen3 ends with another token than its EOS; a tokenizer for other scripts may lack every letter of that word
    ended = framed[-1] != bare[-1] if bare else framed[-1:] == [tokenizer.eos_token_id]
    return () if ended else (tokenizer.eos_token_id,)
