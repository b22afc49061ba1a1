"""Optional libraries, imported on first use."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a library that an extra of this package installs.

    Args:
        module: Its name.
        extra: The extra.
        purpose: The feature that needs it, for the message.

    Raises:
        ModuleNotFoundError: It is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModuleNotFoundError(f"{purpose}: pip install 'pyterrier-merge[{extra}]'", name=module) from error
