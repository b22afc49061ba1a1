"""A large download does not begin before the user has said yes."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PYTERRIER_MERGE_DOWNLOAD"


def require_consent(name: str, *, said: bool, what: str, size: str, source: str, place: str | Path) -> None:
    """Return when the user has allowed a download, by an option or by the environment.

    Args:
        name: The collection.
        said: The option ``download=True`` was given.
        what: What would be fetched.
        size: How large it is, with its unit.
        source: Where it would come from.
        place: Where it would be put, and where a user's own copy is looked for.

    Raises:
        RuntimeError: Nothing was said: one message with what, how large, from where, to where, and how to say yes.
    """
    if said or os.environ.get(VARIABLE, "").strip().lower() in {"1", "true", "yes"}:
        return
    raise RuntimeError(
        f"{name} needs {what}, which this machine lacks: {size} from {source}. To have it fetched, say "
        f"get_collection({name!r}, download=True) or set {VARIABLE}=1; it goes to {place}. If you have it already, put "
        "it there yourself"
    )
