"""The known name that a misspelt one is nearest to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest, None where none is near; upper and lower case count as one."""
    spelt = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).strip().lower(), spelt, n=1)
    return spelt[close[0]] if close else None


def did_you_mean(name: object, known: Iterable[str], listed: str = "there are") -> str:
    """Return ``did you mean 'NEAREST'? there are A, B``; without the question where no known name is near.

    Args:
        name: What was given.
        known: The names that there are.
        listed: What stands before them.
    """
    names = list(known)
    close = nearest(name, names)
    return f"{f'did you mean {close!r}? ' if close else ''}{listed} {', '.join(names) or 'none'}"
