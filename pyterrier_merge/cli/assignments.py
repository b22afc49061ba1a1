"""Options of the form ``NAME=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def read_assignments(option: str, texts: Sequence[str], example: str) -> dict[str, Any]:
    """Read a repeatable option: numbers, true and false as such, everything else as text.

    Args:
        option: The option, such as ``--set``, for messages.
        texts: The given texts.
        example: An example of one, for messages.

    Raises:
        ValueError: A text has another form, or a name is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{option} takes NAME=VALUE, such as {example}; found {text!r}")
        read = _value(value)
        if name in found:
            raise ValueError(f"{option} {name} is given twice, as {found[name]!r} and as {read!r}: give it once")
        found[name] = read
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower())
    except ValueError:
        return text
