"""Checks for docnos and qids, which indexes, runs and qrels must return unchanged; normalises text."""

from __future__ import annotations

from collections.abc import Container
from typing import Any


def name_fault(name: Any, taken: Container[str] = ()) -> str | None:
    """Return what is wrong with a docno or a qid; None if it is valid.

    Args:
        name: The docno or qid.
        taken: Names that are already used.
    """
    if not isinstance(name, str):
        return f"is a {type(name).__name__}, no string"
    if not name:
        return "is empty"
    if name in taken:
        return "occurs twice"
    if name != name.strip():
        return "has white space around it"
    if "\0" in name or name != clean_text(name):
        return "has a NUL or half a surrogate pair in it"
    return None


def squeezed(text: str | None) -> str:
    """Return ``text`` with single spaces and no white space around it; empty for None."""
    return " ".join((text or "").split())


def clean_text(text: str) -> str:
    """Return ``text`` with a question mark for each lone surrogate, which UTF-8 cannot write."""
    return text.encode("utf-8", "replace").decode()
