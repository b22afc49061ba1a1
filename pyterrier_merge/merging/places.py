"""The place of a tensor in a model, by its canonical name."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

EMBEDDINGS, FINAL_NORM, PROJECTION_HEAD = "embeddings", "final norm", "projection head"
PROJECTION = "head."  # the dense modules that sentence-transformers puts after the pooling: head.0, head.1 …
LAYER = re.compile(
    r"^(?P<prefix>(?:\w+\.)*?)"
    r"(?P<stack>(?:(?:encoder|decoder)\.)?(?:layers|layer|h|blocks|block)|transformer\.layer)\.(?P<index>\d+)\."
)
_FINAL_NORM = re.compile(r"^((encoder|decoder|transformer)\.)?(norm|final_norm|ln_f|layer_norm|final_layer_norm)\.")
_EMBEDDING = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|shared)\.")


class Place(NamedTuple):
    """A part of a model. Places sort in the order in which a text passes through them.

    Attributes:
        rank: Order of its kind: embeddings, layers, final norm, projection head.
        kind: ``embeddings``, ``layer``, ``final norm`` or ``projection head``.
        layer: Number of the layer from 0; None outside the layers.
    """

    rank: int
    kind: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind} {self.layer}"


def place_of(name: str) -> Place:
    """Return the part of the model that a tensor of this canonical name belongs to; merges may change the tensor."""
    layer = layer_of(name)
    if layer is not None:
        return Place(1, "layer", layer)
    if is_embedding(name):
        return Place(0, EMBEDDINGS)
    return Place(3, PROJECTION_HEAD) if is_projection(name) else Place(2, FINAL_NORM)


@lru_cache(maxsize=2**14)
def layer_of(name: str) -> int | None:
    """Return the number of the layer, from 0, that a canonical name belongs to; None outside the layers."""
    match = LAYER.match(name)
    return int(match["index"]) if match else None


def is_final_norm(name: str) -> bool:
    """Whether a canonical name is the norm after the last layer."""
    return bool(_FINAL_NORM.match(name))


def is_embedding(name: str) -> bool:
    """Whether a canonical name belongs to the embeddings of tokens, positions or types, including their norm."""
    return bool(_EMBEDDING.search(name)) and not is_projection(name)


def is_projection(name: str) -> bool:
    """Whether a canonical name belongs to a projection head."""
    return name.startswith(PROJECTION)
