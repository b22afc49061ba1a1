"""How PyTerrier draws the transformers of this package in a pipeline, also without a network."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import pyterrier as pt

_objects_inv = pt.documentation.objects_inv


def labelled(label: str | None = None) -> dict[str, Any]:
    """Return a transformer's ``schematic``: its label, the class's name when None, and no page of documentation."""
    return {"help_url": None, **({"label": label} if label else {})}


@cache
def _pages() -> dict[Any, Any]:
    """Return PyTerrier's pages by class; an empty mapping if its website cannot be reached.

    Otherwise PyTerrier would raise an error, and every display of a pipeline would print a traceback. After a failure,
    a process does not try again, because every display would wait for it.
    """
    try:
        return _objects_inv()
    except (OSError, ValueError, zlib.error):
        return {}


pt.documentation.objects_inv = _pages
