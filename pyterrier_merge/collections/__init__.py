"""Test collections, by name. Importing this room reads no data and loads no library that reads data."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.frames import from_frames

__all__ = ["TestCollection", "from_frames", "get_collection", "list_collections"]

# Collection -> the module of this room that has a function of that name which makes it.
_MODULES = {"hpo": "hpo", "nfcorpus": "beir", "scifact": "beir"}


def list_collections() -> list[str]:
    """Return the names that ``get_collection`` knows, in alphabetical order."""
    return sorted(_MODULES)


@cache
def get_collection(name: str) -> TestCollection:
    """Return the collection of that name, the same object each time; nothing is downloaded before it is asked for.

    Raises:
        ValueError: There is no collection of that name.
    """
    if name not in _MODULES:
        close = difflib.get_close_matches(name.lower(), _MODULES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"no collection is named {name!r}; {hint}there are {', '.join(list_collections())}")
    module = import_module(f"{__name__}.{_MODULES[name]}")
    collection: TestCollection = getattr(module, name)()
    return collection
