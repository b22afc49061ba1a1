"""Names of systems: their dependencies, and the names of their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.systems.base import System


def require_own_files(names: Iterable[str]) -> None:
    """Raise ``ValueError`` if two systems would have the same file name."""
    files: dict[str, str] = {}
    for name in names:
        if (other := files.setdefault(file_name(name).lower(), name)) != name:
            raise ValueError(f"systems: {other!r} and {name!r} would be kept in the same file; rename one of them")


def require_known_uses(systems: Mapping[str, System]) -> None:
    """Raise ``ValueError`` if a system builds on an unknown system, on itself, or in a cycle."""
    for name, system in systems.items():
        for used in system.uses():
            if used not in systems:
                raise ValueError(f"systems.{name}: no system is named {used!r}; {did_you_mean(used, systems)}")
    for name in systems:
        seen, path = set[str](), [name]
        while path:
            current = path.pop()
            for used in systems[current].uses():
                if used == name:
                    raise ValueError(f"systems.{name}: it builds on itself (through {current!r})")
                if used not in seen:
                    seen.add(used)
                    path.append(used)


def file_name(system: str, trial: int | None = None) -> str:
    """Return a system's name as the name of a file: letters, digits, ``_``, ``.`` and ``-``.

    Args:
        system: The name.
        trial: Number of the trial, from 0, for a system with several. The suffix ``@1`` is the first: files count from
            1, as reports do, and file names of systems have no other ``@``.
    """
    name = re.sub(r"[^\w.-]+", "_", system).strip("_.") or "system"
    return name if trial is None else f"{name}@{trial + 1}"
