"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the nearest known name, None if none is near; case is ignored."""
    spelt = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).strip().lower(), spelt, n=1)
    return spelt[close[0]] if close else None


def did_you_mean(name: object, known: Iterable[str], listed: str = "there are") -> str:
    """Return ``did you mean 'NEAREST'? there are A, B``; without the question if no known name is near.

    Args:
        name: The given name.
        known: The known names.
        listed: The words before them.
    """
    names = list(known)
    close = nearest(name, names)
    return f"{f'did you mean {close!r}? ' if close else ''}{listed} {', '.join(names) or 'none'}"
