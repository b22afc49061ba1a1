"""How PyTerrier draws the transformers of this package in a pipeline."""

from __future__ import annotations

from typing import Any


def labelled(label: str | None = None) -> dict[str, Any]:
    """Return a transformer's ``schematic``: its label (the class's name when None), and no page of documentation.

    PyTerrier would look for a page on its website otherwise, and print a traceback where there is no network.
    """
    return {"help_url": None, **({"label": label} if label else {})}
