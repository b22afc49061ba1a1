"""Test collections, by name. Importing this package reads no data and loads no library that reads data."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from typing import Any

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.frames import from_frames
from pyterrier_merge.collections.irds import from_irds
from pyterrier_merge.collections.local import from_folder
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.spelling import did_you_mean

__all__ = ["TestCollection", "from_folder", "from_frames", "from_irds", "get_collection", "list_collections"]

# Collection -> the module with the function that makes it, which has the collection's name with "_" for "-".
_MODULES = {
    "hpo": "hpo",
    "jqara": "jqara",
    "miracl-ja": "miracl",
    "nfcorpus": "beir",
    "ntcir15-datasearch-en": "ntcir",
    "ntcir15-datasearch-ja": "ntcir",
    "scifact": "beir",
    "trec-cds-2014": "trec_cds",
    "trec-cds-2015": "trec_cds",
    "trec-cds-2016": "trec_cds",
    "trec-cds-2017": "trec_pm",
    "trec-pm-2017": "trec_pm",
}
_IRDS = "irds:"
_made: dict[tuple[str, str], TestCollection] = {}


def list_collections() -> list[str]:
    """Return the names that ``get_collection`` knows, in alphabetical order."""
    return sorted(_MODULES)


def get_collection(name: str, /, **options: Any) -> TestCollection:
    """Return the collection of that name; data are downloaded only on first use.

    It is the same object each time, except if it is read from a ``path``, because files may have changed.

    Args:
        name: One of ``list_collections()``; "local", with ``path``, for a folder of the user's own (see
            ``from_folder``); or "irds:" and a name of ir_datasets (see ``from_irds``), also a new object each time.
        **options: The collection's options, such as ``pool="judged"`` for "miracl-ja": the arguments of the function
            that makes it (``pyterrier_merge.collections.miracl.miracl_ja``).

    Raises:
        ValueError: There is no collection of that name, or it has no such option, or needs one that was not given, or
            its path is not a name.
    """
    check_options(name, options)
    make = _maker(name)
    if name not in _MODULES or "path" in options:
        return make(**options)
    key = (name, fingerprint(options))
    if key not in _made:
        _made[key] = make(**options)
    return _made[key]


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check the name and the options of a collection before it is made.

    Raises:
        ValueError: There is no collection of that name, or it has no such option, or needs one that was not given, or
            its path is not a name.
    """
    known = inspect.signature(_maker(name)).parameters
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} has no option {unknown[0]!r}; {did_you_mean(unknown[0], known, 'it has')}")
    needed = [option for option, parameter in known.items() if parameter.default is parameter.empty]
    if missing := [option for option in needed if option not in options]:
        raise ValueError(f"{name} needs the option {missing[0]!r}: get_collection({name!r}, {missing[0]}=...)")
    path = options.get("path", "")
    if not isinstance(path, str | os.PathLike) and path is not known["path"].default:  # YAML's "path:" is None
        raise ValueError(f"{name}: path is the name of a folder, found {path!r}")


@cache
def _maker(name: str) -> Callable[..., TestCollection]:
    if name == "local":
        return from_folder
    if name.startswith(_IRDS):
        return partial(from_irds, name.removeprefix(_IRDS))
    if name not in _MODULES:
        raise ValueError(
            f"no collection is named {name!r}; {did_you_mean(name, list_collections())}, local and irds:..."
        )
    module = import_module(f"{__name__}.{_MODULES[name]}")
    maker: Callable[..., TestCollection] = getattr(module, name.replace("-", "_"))
    return maker
