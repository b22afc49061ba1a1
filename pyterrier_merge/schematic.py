"""How PyTerrier draws the transformers of this package in a pipeline, without a network, too."""

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

    PyTerrier raises an error then, and every display of a pipeline prints a traceback. What failed once in a process is
    not tried again, because a display would wait for it.
    """
    try:
        return _objects_inv()
    except (OSError, ValueError, zlib.error):
        return {}


pt.documentation.objects_inv = _pages
