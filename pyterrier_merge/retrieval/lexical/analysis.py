"""Turns text into terms for languages that an engine does not support, encoded so that every engine keeps them."""

from __future__ import annotations

import base64
import importlib.util
import re
import unicodedata
from abc import ABC, abstractmethod
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

from pyterrier_merge.retrieval.lexical.engines import SNOWBALL_STEMMERS

_MAX_TERM = 18  # significant UTF-16 units of a term: Terrier keeps 61 bytes, and an encoded unit takes 3.2
_SOFT_HYPHEN = "\N{SOFT HYPHEN}"
_WORD = re.compile(r"[^\W_]+")
_PIECE = re.compile(r".{1,1000}[。\n]|.{1,1000}", re.DOTALL)  # Sudachi's limit is 49,149 bytes
# Signs, white space, particles and auxiliary verbs.
_DROPPED = ("補助記号", "空白", "助詞", "助動詞")


class Analysis(ABC):
    """The processing of documents and queries before an engine reads them."""

    def check(self) -> None:  # noqa: B027 (most need nothing)
        """Raise if a requirement of the analysis is not installed."""

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """Return the settings that an index depends on besides the documents."""

    @abstractmethod
    def encoded(self, text: str) -> str:
        """Return the engine's input for this text."""


class Terms(Analysis):
    """Finds the terms itself, for an engine that uses them unchanged."""

    @abstractmethod
    def terms(self, text: str) -> list[str]:
        """Return the terms of a text, in order and with repeats."""

    def encoded(self, text: str) -> str:
        """Return the terms with spaces between, each in small ASCII letters and digits, which every engine keeps.

        Terms are distinguished by their first 18 UTF-16 units.
        """
        return " ".join(_encoded(term) for term in self.terms(text))


class Japanese(Terms):
    """Sudachi's shortest units in their normalized form, without signs, white space, particles and auxiliary verbs.

    The normalized form unifies spellings of a word (引越し, 引越 and 引っ越し; サーバ and サーバー). On JSQuAD (1,145
    paragraphs, 4,442 questions, PISA, k1 1.2, b .75) nDCG@10 is .9435. It is .9429 and .9424 with the middle and the
    longest units; .9397 if particles and auxiliaries are kept, .9400 with surface forms added; .9422 with MeCab and
    UniDic; .9440 with pairs of characters, in 2.4 times as many terms; .3386 with ``Words``.
    """

    def check(self) -> None:
        """Raise ``ModuleNotFoundError`` if analyser or dictionary is missing."""
        for package in ("sudachipy", "sudachidict_core"):
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(
                    f"BM25 on Japanese needs the analyser Sudachi and its dictionary, and {package} is not installed; "
                    "pip install 'pyterrier-merge[japanese]'",
                    name=package,
                )

    def settings(self) -> dict[str, str]:
        """Return unit, form, dropped parts of speech, and the versions of analyser and dictionary."""
        return {
            "analyser": f"sudachi {version('sudachipy')}, sudachidict_core {version('sudachidict_core')}",
            "terms": f"mode A, normalized form, without {' '.join(_DROPPED)}, first {_MAX_TERM} units",
        }

    def terms(self, text: str) -> list[str]:
        """Return the normalized forms, folded to one width and case."""
        dictionary, is_dropped = _sudachi()
        tokenizer = dictionary.tokenizer(mode="A")  # cheap, and not thread-safe
        return [
            unicodedata.normalize("NFKC", morpheme.normalized_form()).casefold()
            for piece in _PIECE.findall(text)
            for morpheme in tokenizer.tokenize(piece)
            if not is_dropped(morpheme)
        ]


class Words(Terms):
    """Runs of letters and digits of any script, in one width and case, without a stemmer.

    Soft hyphens and combining marks without a composed letter are removed, because they would end a word: the stress
    mark in за́мок, the dot in the lower case of İ. Composed letters (é, й) stay.
    """

    def settings(self) -> dict[str, str]:
        """Return the kind of terms, and the version of Unicode that defines letters."""
        return {
            "analyser": f"Unicode {unicodedata.unidata_version}",
            "terms": f"words without marks, first {_MAX_TERM} units",
        }

    def terms(self, text: str) -> list[str]:
        """Return the words."""
        folded = unicodedata.normalize("NFKC", text).casefold().replace(_SOFT_HYPHEN, "")
        return _WORD.findall("".join(sign for sign in folded if not unicodedata.combining(sign)))


ANALYSES: dict[str, Terms] = {"ja": Japanese(), **dict.fromkeys(SNOWBALL_STEMMERS, Words())}


@cache
def _sudachi() -> tuple[Any, Any]:
    from sudachipy import Dictionary

    dictionary = Dictionary(dict="core")
    return dictionary, dictionary.pos_matcher([(part_of_speech,) for part_of_speech in _DROPPED])


@lru_cache(maxsize=1 << 17)
def _encoded(term: str) -> str:
    # Lower-case base32 is not changed by case folding and has no separators; the "x" prevents terms that are numbers.
    units = term.encode("utf-16-be")[: 2 * _MAX_TERM]
    return "x" + base64.b32encode(units).decode().rstrip("=").lower()
