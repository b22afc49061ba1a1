"""The vocabularies of two models: do the same tokens have the same ids?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.models.vocabulary import ROLES, read_vocabulary

_EXAMPLES = 5


@dataclass(frozen=True)
class VocabularyComparison:
    """Two vocabularies side by side.

    Attributes:
        sizes: Tokens of the source and of the domain model; from ``vocab_size`` if a tokenizer could not be read.
        unread: Why tokenizers could not be read; if not empty, the tokens are not compared.
        same: How many tokens have the same id in both.
        moved: Tokens of both that have a different id in the domain model.
        only_source: Tokens that the domain model lacks.
        only_domain: Tokens that the source lacks.
        special: Role -> (token, id) of the source and of the domain model, None for a model without one.
    """

    sizes: tuple[int | None, int | None]
    unread: tuple[str, ...]
    same: int = 0
    moved: tuple[str, ...] = ()
    only_source: tuple[str, ...] = ()
    only_domain: tuple[str, ...] = ()
    special: Mapping[str, tuple[tuple[str, int] | None, tuple[str, int] | None]] | None = None

    @property
    def agree(self) -> bool | None:
        """Whether both map the same tokens to the same ids; None if unknown."""
        if self.sizes[0] != self.sizes[1]:
            return False
        return None if self.unread else not (self.moved or self.only_source or self.only_domain)

    def __str__(self) -> str:
        source, domain = self.sizes
        size = f"{source} tokens in both" if source == domain else f"{source} tokens (source), {domain} (domain)"
        if self.unread:
            return f"{size}, by vocab_size alone; tokens and ids are not compared: {'; '.join(self.unread)}"
        if self.agree:
            return f"{size}, the same ids for the same tokens"
        parts = (
            (self.moved, "with another id"),
            (self.only_source, "only in the source"),
            (self.only_domain, "only in the domain model"),
        )
        return f"{size}; {self.same} agree, " + ", ".join(f"{len(t)} {what}{_examples(t)}" for t, what in parts if t)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON; for differing tokens, their number and the first few."""
        some = {name: getattr(self, name) for name in ("moved", "only_source", "only_domain")}
        return {
            "agree": self.agree,
            "sizes": {"source": self.sizes[0], "domain": self.sizes[1]},
            "unread": list(self.unread),
            "same": self.same,
            **{name: {"count": len(tokens), "examples": list(tokens[:_EXAMPLES])} for name, tokens in some.items()},
            "special": {
                role: {"source": _as_list(source), "domain": _as_list(domain)}
                for role, (source, domain) in (self.special or {}).items()
            },
        }


def compare_vocabularies(source: Checkpoint, domain: Checkpoint) -> VocabularyComparison:
    """Compare the tokenizers of two checkpoints, token by token."""
    read, unread = [], []
    for checkpoint in (source, domain):
        try:
            read.append(read_vocabulary(checkpoint.folder))
        except ValueError as error:
            unread.append(str(error))
    if unread:
        return VocabularyComparison((_configured_size(source), _configured_size(domain)), tuple(unread))
    own, other = (vocabulary.ids for vocabulary in read)
    moved = [token for token in own.keys() & other.keys() if own[token] != other[token]]
    by_id = own.__getitem__
    return VocabularyComparison(
        sizes=(len(own), len(other)),
        unread=(),
        same=len(own.keys() & other.keys()) - len(moved),
        moved=tuple(sorted(moved, key=by_id)),
        only_source=tuple(sorted(own.keys() - other.keys(), key=by_id)),
        only_domain=tuple(sorted(other.keys() - own.keys(), key=other.__getitem__)),
        special={
            role: (read[0].special.get(role), read[1].special.get(role))
            for role in ROLES
            if any(role in vocabulary.special for vocabulary in read)
        },
    )


def _configured_size(checkpoint: Checkpoint) -> int | None:
    size = checkpoint.config.get("vocab_size")
    return size if isinstance(size, int) else None


def _examples(tokens: tuple[str, ...]) -> str:
    return f" ({', '.join(map(repr, tokens[:_EXAMPLES]))}{', ...' if len(tokens) > _EXAMPLES else ''})"


def _as_list(pair: tuple[str, int] | None) -> list[str | int] | None:
    return None if pair is None else list(pair)
