"""Windows of texts: token sequences for training, with the tokens that the retriever puts around a document."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np

from pyterrier_merge.encoding.contract import RetrieverContract
from pyterrier_merge.encoding.tokens import tokenise

logger = logging.getLogger(__name__)

TOKENIZE = 1000  # texts per call of the tokenizer
UNCUT = 1 << 30  # tokens; longer than any text


@dataclass(frozen=True)
class TokenisedTexts:
    """The tokens of whole texts, without those that the retriever puts around each text.

    Attributes:
        before: Token ids before a text: special tokens and the document prompt.
        bodies: ``int32`` token ids of each text that has an ordinary token.
        after: Token ids after a text.
        special: Ids of special tokens, including the token of unknown words.
        separator: Ends each text in a block of texts; empty if the tokenizer has no separator.
    """

    before: list[int]
    bodies: list[np.ndarray]
    after: list[int]
    special: frozenset[int]
    separator: list[int]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, including those around it."""
        return np.array([len(body) for body in self.bodies]) + len(self.before) + len(self.after)

    def windows(self, length: int, *, packing: str) -> list[np.ndarray]:
        """Cut the texts into windows. Every token is in one window; windows with only unknown words are left out.

        Args:
            length: Maximum tokens of a window; must be more than the retriever puts around a text.
            packing: ``document``: one text per window; a longer text is cut into parts of similar length. ``block``:
                texts are joined, each with a separator at its end, and cut into windows of ``length``.

        Returns:
            ``int32`` token ids of each window, including those around a text.
        """
        room = length - len(self.before) - len(self.after)
        parts = self._blocks(room) if packing == "block" else self._parts(room)
        return [
            np.concatenate([self.before, part, self.after]).astype(np.int32)
            for part in parts
            if not self.special.issuperset(part.tolist())
        ]

    def _parts(self, room: int) -> Iterator[np.ndarray]:
        for body in self.bodies:
            yield from np.array_split(body, -(-len(body) // room))

    def _blocks(self, room: int) -> Iterator[np.ndarray]:
        joined = np.concatenate([part for body in self.bodies for part in (body, self.separator)]).astype(np.int32)
        return (joined[start : start + room] for start in range(0, len(joined), room))


def tokenise_whole(
    texts: Sequence[str], tokenizer: Any, contract: RetrieverContract, *, masked: bool = True
) -> TokenisedTexts:
    """Tokenise texts as the retriever tokenises documents, but without truncation.

    Texts without an ordinary token are left out: blank texts, and texts in which the tokenizer knows no word. A warning
    counts the latter.

    Args:
        texts: The corpus.
        tokenizer: The retriever's tokenizer.
        contract: Gives the document prompt, and the special tokens that the tokenizer does not add itself.
        masked: Whether the training masks tokens, so that the tokenizer needs a mask token.

    Raises:
        ValueError: No text has an ordinary token, or the tokenizer cannot mask or pad.
    """
    if masked and (tokenizer.mask_token_id is None or tokenizer.pad_token_id is None):
        raise ValueError(
            "the base's tokenizer has no mask token or no padding token; add it, and save the tokenizer again"
        )
    special, whole = frozenset(tokenizer.all_special_ids), replace(contract, max_length=UNCUT)
    before, after = _around(tokenizer, whole)
    filled = [text for text in texts if text.strip()]
    bodies: list[np.ndarray] = []
    unknown = 0
    for start in range(0, len(filled), TOKENIZE):
        for row in _tokens(filled[start : start + TOKENIZE], tokenizer, whole):
            body = row[_common(before, row) : len(row) - len(after)]
            if not special.issuperset(body):
                bodies.append(np.array(body, dtype=np.int32))
            elif tokenizer.unk_token_id in body:
                unknown += 1
    _require_known(len(texts), len(bodies), unknown, tokenizer)
    separator = [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
    return TokenisedTexts(before, bodies, after, special, separator)


def _tokens(texts: Sequence[str], tokenizer: Any, contract: RetrieverContract) -> list[list[int]]:
    return tokenise(tokenizer, list(texts), contract.document_prompt, contract)[0]


def _around(tokenizer: Any, contract: RetrieverContract) -> tuple[list[int], list[int]]:
    """Return the tokens before and after a text: those around a special token that is not added to texts."""
    usual = _tokens([""], tokenizer, contract)[0]
    for token, number in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True):
        framed = _tokens([token], tokenizer, contract)[0]
        if number not in usual and framed.count(number) == 1:
            at = framed.index(number)
            return framed[:at], framed[at + 1 :]
    raise ValueError("the base's tokenizer has no unused special token, such as an unknown or a mask token; add one")


def _common(before: list[int], row: list[int]) -> int:
    """Return how many tokens before a text are the retriever's: the prompt's last may have merged with the text."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, row, strict=False)))


def _require_known(texts: int, known: int, unknown: int, tokenizer: Any) -> None:
    if not known and unknown:
        raise ValueError(
            f"none of the {texts:,} texts has a token to train on: the base's tokenizer knows none of their words and "
            f"reads each as {tokenizer.unk_token!r}; use a base for their language and script"
        )
    if not known:
        raise ValueError(
            f"none of the {texts:,} texts has a token to train on: all are empty or blank; check the field that they "
            "come from"
        )
    if unknown:
        logger.warning("%d of %d texts are left out: the base's tokenizer knows none of their words", unknown, texts)
