"""How much of a FAISS structure is searched: the defaults, and what to try where it finds too few documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

# Chosen on HPO's dev queries (see docs/measurements.md): for 16 to 1,024 lists, at least .97 of the exact top 10.
ROOTS = 2  # lists that are searched, in square roots of their number
IN_LISTS = 4  # documents in them, on average, for each that is wanted
EF_SEARCH = 64
_PARAMETERS = {"nprobe": ("nprobe",), "ef_search": ("efSearch", "quantizer_efSearch")}


@dataclass(frozen=True)
class Effort:
    """Values for FAISS' parameters of one structure.

    Attributes:
        values: By FAISS' names, of those that the structure has.
        lists: Its number of lists; 0 where it has none.
    """

    values: Mapping[str, int]
    lists: int

    def apply(self, faiss: ModuleType, index: Any) -> None:
        """Set the values."""
        for name, value in self.values.items():
            faiss.ParameterSpace().set_index_parameter(index, name, int(value))

    def advice(self, least: int, wanted: int) -> str:
        """Say which value to try where some query found ``least`` documents and ``wanted`` were to be found."""
        if nprobe := self.values.get("nprobe"):
            more = min(self.lists, max(2 * nprobe, math.ceil(nprobe * wanted / max(1, least))))
            return f"nprobe={nprobe} of its {self.lists} lists were searched, try nprobe={more}"
        if ef_search := self.values.get("efSearch"):
            return f"it was searched with ef_search={ef_search}, try ef_search={4 * ef_search} or a graph of more links"
        return "give another factory string"


def effort(
    faiss: ModuleType, index: Any, depth: int, *, nprobe: int | None, ef_search: int | None, factory: str
) -> Effort:
    """Return what to search a structure with for ``depth`` documents a query.

    Raises:
        ValueError: A parameter is given that the structure does not have.
    """
    space = faiss.ParameterSpace()
    space.initialize(index)
    known = {space.parameter_ranges.at(place).name for place in range(space.parameter_ranges.size())}
    for name, given in (("nprobe", nprobe), ("ef_search", ef_search)):
        if given and not known.intersection(_PARAMETERS[name]):
            raise ValueError(f"{factory!r} has no {name}: leave it out; FAISS knows {sorted(known)} of it")
    ivf = faiss.try_extract_index_ivf(index)
    lists = int(ivf.nlist) if ivf else 0
    probed = nprobe or default_nprobe(lists, index.ntotal, depth)
    queue = ef_search or EF_SEARCH
    # FAISS finds no more documents, or lists, than the queue is long
    values = {"nprobe": probed, "efSearch": max(queue, depth), "quantizer_efSearch": max(queue, probed)}
    return Effort({name: value for name, value in values.items() if name in known}, lists)


def default_nprobe(lists: int, n_docs: int, depth: int) -> int:
    """Return how many lists are searched: twice the square root of their number, more where many documents are wanted.

    Args:
        lists: Number of lists.
        n_docs: Documents in them.
        depth: Documents wanted a query.
    """
    of_depth = math.ceil(IN_LISTS * depth * lists / max(1, n_docs))
    return max(1, min(lists, max(math.ceil(ROOTS * math.sqrt(lists)), of_depth)))
