"""Queries that are parts of documents: divides a document into the query and the rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from pyterrier_merge.collections.names import squeezed

UNSPACED = frozenset({"ja", "km", "lo", "my", "th", "zh"})  # ISO 639-1: written without spaces between words
TITLES = ("title", "name")  # fields; the first one in a document is used
FIFTH, LEAST, MOST = 0.2, 0.1, 0.4  # shares of a text
SHORTEST, SHORTEST_REST = 10, 5  # words of a text, and of the rest without a title
LONGEST = 64  # words of a query
CHARACTERS = 2  # count as one word in languages without spaces
_BETWEEN = " .:;,|-\u2013\u2014\u3001\u3002\uff1a"  # separators between a title and its text

Part = tuple[str, str]  # query, the rest of the text
Divide = Callable[[Mapping[str, str], str, random.Random], Part | None]


def head(doc: Mapping[str, str], language: str, _: random.Random) -> Part | None:
    """Divide after the first fifth of the words."""
    return _front(_units(doc["text"], language), FIFTH, language)


def drawn(doc: Mapping[str, str], language: str, generator: random.Random) -> Part | None:
    """Divide after the first words, a drawn share of 10 to 40 %."""
    return _front(_units(doc["text"], language), generator.uniform(LEAST, MOST), language)


def crop(doc: Mapping[str, str], language: str, generator: random.Random) -> Part | None:
    """Remove a span of 10 to 40 % of the words from the text."""
    units = _units(doc["text"], language)
    size = _size(units, generator.uniform(LEAST, MOST), language)
    return _divided(units, generator.randint(0, max(0, len(units) - size)), size, language)


def title(doc: Mapping[str, str], language: str, _: random.Random) -> Part | None:
    """Remove the title (or ``name``) from the start of the text.

    None if a document has no title, if little else is left, or if the rest repeats the title.
    """
    query = next((found for field in TITLES if (found := squeezed(doc.get(field)))), "")
    rest = without_title(squeezed(doc["text"]), query) if query else ""
    short = len(_units(rest, language)) < _words(SHORTEST_REST, language)
    return None if not query or short or query.casefold() in rest.casefold() else (query, rest)


def without_title(text: str, title: str) -> str:
    """Return a text without the title at its start, also if it is repeated there; case is ignored."""
    end = len(title)
    while text[:end].casefold() == title.casefold() and not (text[end - 1 : end + 1].isalnum() and text[end:]):
        text = text[end:].lstrip(_BETWEEN)
    return text


WAYS: dict[str, Divide] = {"head": head, "drawn": drawn, "title": title, "crop": crop}


def _units(text: str, language: str) -> Sequence[str]:
    return list(squeezed(text)) if language in UNSPACED else text.split()


def _words(count: int, language: str) -> int:
    return count * CHARACTERS if language in UNSPACED else count


def _size(units: Sequence[str], share: float, language: str) -> int:
    return min(_words(LONGEST, language), max(1, round(share * len(units))))


def _front(units: Sequence[str], share: float, language: str) -> Part | None:
    return _divided(units, 0, _size(units, share, language), language)


def _divided(units: Sequence[str], start: int, size: int, language: str) -> Part | None:
    if len(units) < _words(SHORTEST, language):
        return None
    space = "" if language in UNSPACED else " "
    query, before, after = units[start : start + size], units[:start], units[start + size :]
    return space.join(query).strip(), space.join((*before, *after)).strip()
