"""Options that several functions share, written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Taker = TypeVar("Taker", bound=Callable[..., Any])


def takes_options_of(parent: Callable[..., Any]) -> Callable[[Taker], Taker]:
    """Add a function's keyword-only parameters to the signature of one that passes ``**options`` to it.

    ``help()`` and PyTerrier's inspection then show them. A parameter that both have is the decorated function's own.
    """
    keywords = [one for one in inspect.signature(parent).parameters.values() if one.kind is one.KEYWORD_ONLY]

    def sign(taker: Taker) -> Taker:
        own = inspect.signature(taker)
        named = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        shared = [one for one in keywords if one.name not in own.parameters]
        taker.__signature__ = own.replace(parameters=[*named, *shared])  # type: ignore[attr-defined]
        return taker

    return sign
