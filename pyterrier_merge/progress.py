"""Progress bars: in terminals and notebooks, not in logs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pyterrier as pt

P = ParamSpec("P")
R = TypeVar("R")

DELAY = 3.0  # seconds of work before a bar appears by default
_asked: list[bool] = []  # verbose=True or False of the calls in progress, innermost last


def progress(items: Any = None, *, verbose: bool | None, **options: Any) -> Any:
    """Return PyTerrier's progress bar over ``items``.

    Args:
        items: An iterable; None for a bar that is updated by hand.
        verbose: Show the bar. None shows it in terminals and notebooks, if the work takes more than some seconds.
        options: Options of tqdm, such as ``total`` and ``unit``.
    """
    delay = DELAY if verbose is None else 0.0
    return pt.tqdm(items, disable=not shown(verbose), delay=delay, **options)


def shown(verbose: bool | None) -> bool:
    """Return whether bars are shown: as set here or by an outer call, else in terminals and notebooks."""
    if verbose is not None:
        return verbose
    return _asked[-1] if _asked else _terminal() or _notebook()


def verbosity(function: Callable[P, R]) -> Callable[P, R]:
    """Apply a function's argument ``verbose`` to all functions that it calls without their own ``verbose``."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        verbose = kwargs.get("verbose")
        if not isinstance(verbose, bool):
            return function(*args, **kwargs)
        _asked.append(verbose)
        try:
            return function(*args, **kwargs)
        finally:
            _asked.pop()

    return run


def _terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return "ZMQInteractiveShell" in {kind.__name__ for kind in type(shell).__mro__}  # Colab's is a subclass
