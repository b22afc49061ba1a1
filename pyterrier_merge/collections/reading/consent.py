"""A large download needs the user's consent."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PYTERRIER_MERGE_DOWNLOAD"


def require_consent(name: str, *, said: bool, what: str, size: str, source: str, place: str | Path) -> None:
    """Return if the user has allowed a download, with an option or in the environment.

    Args:
        name: The collection.
        said: Whether the option ``download=True`` was given.
        what: Description of the download.
        size: Its size, with the unit.
        source: The address that it comes from.
        place: The target folder, where a user's own copy is also looked for.

    Raises:
        RuntimeError: There is no consent; the message states the download, its size, source and target, and how to
            allow it.
    """
    if said or os.environ.get(VARIABLE, "").strip().lower() in {"1", "true", "yes"}:
        return
    raise RuntimeError(
        f"{name} needs {what}, which this machine lacks: {size} from {source}. To have it fetched, say "
        f"get_collection({name!r}, download=True) or set {VARIABLE}=1; it goes to {place}. If you have it already, put "
        "it there yourself"
    )
