"""Encodes letters beyond ASCII for the engines' English tokenisers, which treat them as separators."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

from pyterrier_merge.retrieval.lexical.analysis import Analysis

_LATIN = "ß-öø-ʯḀ-ỿⱠ-Ɀꜣ-ꟿꬰ-ꭤ"  # Latin letters beyond ASCII that remain in lower case and NFKC
_ASCII = "0-9A-Za-z"
_BEYOND = re.compile(rf"(?<![{_ASCII}])([{_ASCII}{_LATIN}]*[{_LATIN}])([{_ASCII}]*)|[^\W_{_ASCII}{_LATIN}]+")
_LETTERS_AND_DIGITS = ("Lu", "Ll", "Lt", "Lo", "Nd")
_ORDINALS = "ªº"  # often a degree sign
# Terrier drops terms of more than 20 letters, of more than 4 digits, and with one letter more than 3 times in a row.
# English stemmers cut after the first vowel: a vowel at the start lets them stem the rest of a word as after "Sjö" or
# "naï". No suffix of these stemmers begins with a letter that ends a pair.
_PAIRS = [first + second for first in "bcdfghlmnt" for second in "jkpqrvwxz"]
_PART, _WHOLE = 5, 9  # pairs: 32 and 58 bits of a hash
_MAX_REST = 20 - (1 + 2 * _PART)


class LettersBeyondAscii(Analysis):
    """Leaves English to the engine, and encodes in ASCII letters what its tokeniser would lose.

    - A Latin word is one term (naïve, Sjögren). The engine stems what follows its last letter beyond ASCII, if that is
      at most 9 letters long.
    - Letters of another script are a separate term, and adjacent ASCII is not changed: β2 becomes β and 2.
    - Composed and decomposed letters, upper and lower case, and compatible forms (ﬁ and fi) are equal.
    - Other signs beyond ASCII (dashes, quotes, degrees, superscripts) stay separators.
    """

    def settings(self) -> dict[str, str]:
        """Return the kind of terms, and the version of Unicode that says what a letter is."""
        return {
            "analyser": f"the engine's, Unicode {unicodedata.unidata_version}",
            "terms": f"letters beyond ASCII in {_PART} pairs before at most {_MAX_REST} letters, or in {_WHOLE}",
        }

    def encoded(self, text: str) -> str:
        """Return the text with letters beyond ASCII encoded; unchanged if it has none."""
        if text.isascii():
            return text
        return _BEYOND.sub(_encoded, unicodedata.normalize("NFC", text).translate(_FOLDED))


class _Folded(dict[int, str]):
    """Characters beyond ASCII by code point: folded letters, no marks, spaces for other alphanumeric characters."""

    def __missing__(self, number: int) -> str:
        sign = chr(number)
        category = unicodedata.category(sign)
        if number < 128:
            folded = sign
        elif category in _LETTERS_AND_DIGITS and sign not in _ORDINALS:
            compatible = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sign).casefold())
            folded = "".join(part for part in compatible if not unicodedata.combining(part))
        elif category.startswith("M"):
            folded = ""
        else:
            folded = " " if sign.isalnum() else sign
        self[number] = folded
        return folded


_FOLDED = _Folded()


def _encoded(found: re.Match[str]) -> str:
    begin, rest = found.groups()
    if begin is None:
        return f" {_code(found[0], _WHOLE)} "
    if rest and not (rest.isalpha() and len(rest) <= _MAX_REST):
        return _code(found[0].casefold(), _WHOLE)
    return _code(begin.casefold(), _PART) + rest


@lru_cache(maxsize=1 << 17)
def _code(word: str, pairs: int) -> str:
    number = int.from_bytes(hashlib.sha256(word.encode()).digest(), "big")
    code = "a"
    for _ in range(pairs):
        number, place = divmod(number, len(_PAIRS))
        code += _PAIRS[place]
    return code
