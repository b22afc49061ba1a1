"""Progress bars: in terminals and notebooks, not in logs."""

from __future__ import annotations

import sys
from typing import Any

import pyterrier as pt

DELAY = 3.0  # seconds of work before a bar appears that nobody asked for


def progress(items: Any = None, *, verbose: bool | None, **options: Any) -> Any:
    """Return PyTerrier's progress bar over ``items``.

    Args:
        items: An iterable; None for a bar that is updated by hand.
        verbose: Show the bar. None shows it in terminals and notebooks, if the work takes more than some seconds.
        options: Of tqdm, such as ``total`` and ``unit``.
    """
    delay = DELAY if verbose is None else 0.0
    return pt.tqdm(items, disable=not shown(verbose), delay=delay, **options)


def shown(verbose: bool | None) -> bool:
    """Return whether bars are shown: as asked for, else where someone watches."""
    return (_terminal() or _notebook()) if verbose is None else verbose


def _terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"
