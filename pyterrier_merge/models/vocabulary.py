"""The vocabulary of the tokenizer in a model's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pyterrier_merge.models.live import quiet_loading

ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary in a tokenizer's own files.

    Attributes:
        ids: Token -> id, added tokens included.
        special: Role (``bos`` ... ``mask``) -> token and id; roles without a token are absent.
    """

    ids: Mapping[str, int]
    special: Mapping[str, tuple[str, int]]


def has_vocabulary(folder: Path) -> bool:
    """Whether a transformer's folder holds a whole tokenizer, not only its settings."""
    return any((folder / file).is_file() for file in _FILES)


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary of the tokenizer in a model's folder; no code from the folder is run.

    Raises:
        ValueError: The folder has no tokenizer, or one that cannot be read.
    """
    if not has_vocabulary(folder):  # transformers would make one with five tokens
        raise ValueError(f"no tokenizer in {folder}")
    from transformers import AutoTokenizer

    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise ValueError(f"the tokenizer in {folder} cannot be read: {error!r}") from error
    special = {role: (getattr(tokenizer, f"{role}_token"), getattr(tokenizer, f"{role}_token_id")) for role in ROLES}
    return Vocabulary(tokenizer.get_vocab(), {role: pair for role, pair in special.items() if None not in pair})
