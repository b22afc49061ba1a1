"""Well-known retrieval models whose files do not state everything: pooling, prompts, length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pyterrier_merge.models import transformer_folder
from pyterrier_merge.models.files import MERGE, read_json

TASK = "{task}"  # placeholder in a prompt for the user's task
INSTRUCTION = f"Instruct: {TASK}\nQuery: "


@dataclass(frozen=True)
class Family:
    """The settings that a family of models was trained with, for models whose files do not state them.

    Attributes:
        pattern: Pattern for a model's name without the organisation; case is ignored.
        pooling: How token vectors become one, by sentence-transformers' name; None if no source was found.
        normalize: Whether vectors have length 1.
        query_prompt: Put before every query; with ``{task}`` in it, for models that follow an instruction.
        document_prompt: Put before every document.
        max_length: Maximum number of tokens of a text, if the model's card states fewer than its positions.
    """

    pattern: str
    pooling: str | None
    normalize: bool
    query_prompt: str = ""
    document_prompt: str = ""
    max_length: int | None = None


_SEARCH = "Represent this sentence for searching relevant passages: "

# Sources: the models' cards; FlagEmbedding's inference/embedder/model_mapping.py for the pooling of BGE, E5, GTE, SFR
# and Linq; mteb's models/*_models.py for prompts. Values without a source are left out, and so are models that run
# their own code (gte-*-v1.5, gte-Qwen2): without it they compute something else.
FAMILIES = (
    Family(r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?", "mean", True, "query: ", "passage: ", 512),
    Family(r"multilingual-e5-large-instruct", "mean", True, INSTRUCTION, "", 512),
    Family(r"e5-mistral-7b-instruct|sfr-embedding-mistral", "lasttoken", True, INSTRUCTION, "", 4096),
    Family(r"sfr-embedding-2_r|linq-embed-mistral|zeta-alpha-e5-mistral", "lasttoken", True, INSTRUCTION),
    Family(r"qwen3-embedding-[\d.]+b", "lasttoken", True, f"Instruct: {TASK}\nQuery:", "", 8192),
    Family(r"repllama-v1-.*", "lasttoken", True, "query: ", "passage: "),
    Family(r"bge-(small|base|large)-en(-v1\.5)?", "cls", True, _SEARCH),
    Family(r"bge-(small|base|large)-zh(-v1\.5)?", "cls", True, "为这个句子生成表示以用于检索相关文章："),  # noqa: RUF001
    Family(r"bge-m3", "cls", True),
    Family(r"mxbai-embed-large-v1", "cls", True, _SEARCH),
    Family(r"(snowflake-)?arctic-embed-(xs|s|m|m-v1\.5|l)", "cls", True, _SEARCH),
    Family(r"gte-(small|base|large)", "mean", True),
    Family(r"gte-((small|base|large)-zh|modernbert-base)", "cls", True),
    Family(r"m?contriever(-msmarco)?", "mean", False),
    Family(r"nomic-embed-text-v1(\.5)?", "mean", True, "search_query: ", "search_document: "),
    Family(r"ruri-(small|base|large)(-v2)?", "mean", True, "クエリ: ", "文章: ", 512),
    Family(r"ruri-v3-\d+m", "mean", True, "検索クエリ: ", "検索文書: ", 8192),
    Family(r"glucose-base-ja-v2", None, True, "query: ", "passage: ", 512),
    Family(r"all-minilm-l6-v2|msmarco-minilm-l6-cos-v5", "mean", True),
)


def known_family(name: str, folder: Path | None = None) -> Family | None:
    """Return the family of a model by its name; None if the family is unknown.

    A copy of a model is recognised by the last part of its path, by the name of its folder in the hub's cache, or by
    the name in its ``config.json`` that it was loaded from (``_name_or_path``). For ``BASE+ADAPTER``, the adapter's
    name counts first. A saved merge has no family: its files state everything.

    Args:
        name: The user's name for the model.
        folder: The folder of its files.
    """
    if folder is not None and (folder / MERGE).is_file():
        return None
    names = [*reversed(name.split("+")), *([] if folder is None else _origin(folder))]
    return next((family for name in names for family in FAMILIES if _is_of(name, family)), None)


def _is_of(name: str, family: Family) -> bool:
    parts = re.split(r"[/\\]", name.rstrip("/").partition("@")[0])
    cached = next((part for part in parts if part.startswith("models--")), None)  # of the hub's cache
    last = cached.rpartition("--")[2] if cached else parts[-1]
    return re.fullmatch(family.pattern, last, re.IGNORECASE) is not None


def _origin(folder: Path) -> list[str]:
    config = transformer_folder(folder) / "config.json"
    origin = read_json(config).get("_name_or_path") if config.is_file() else None
    return [origin] if isinstance(origin, str) else []
