"""How far apart two checkpoints are, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.places import Place, place_of
from pyterrier_merge.progress import progress

if TYPE_CHECKING:
    import torch

_PIECE = 2**18  # elements: a piece of each model in float64 stays in the processor's cache


@dataclass(frozen=True)
class Distance:
    """How far the domain model is from the source in one place.

    Attributes:
        place: ``embeddings``, ``layer 0`` and so on, ``final norm``.
        layer: Number of the layer from 0; None outside the layers.
        relative: ``|domain - source| / |source|`` over all of its weights.
        cosine: Between the weight matrices of the two; None if the place has none or they are zero. Vectors are left
            out: the weights of norms are near 1 in every model, and would give two random models a cosine of 0.5.
        copied: The weights are equal at the precision of the coarser of the two.
    """

    place: str
    layer: int | None
    relative: float
    cosine: float | None
    copied: bool


def measure_distances(
    source: Checkpoint, domain: Checkpoint, names: Iterable[str], *, verbose: bool | None = None
) -> tuple[Distance, ...]:
    """Read tensors of both checkpoints, one by one, and measure place by place.

    Computed in float64, piece by piece, so that memory holds one tensor of each model at a time. (Sums in float32 are
    off by a thousandth over a large embedding matrix.)

    Args:
        source: The checkpoint that distances are relative to.
        domain: The other.
        names: Canonical names of tensors that both have, in one shape.
        verbose: Show a progress bar; in terminals and notebooks when None.

    Returns:
        Embeddings first, then the layers in order, then the final norm; those of them that ``names`` has.

    Raises:
        ValueError: A tensor holds NaN or infinity, or cannot be read.
    """
    places: dict[Place, list[_Sums]] = {}
    for name in progress(list(names), desc="distances", unit="tensor", verbose=verbose):
        sums = _sums(source.tensor(name), domain.tensor(name))
        for checkpoint, norm in ((source, sums.source), (domain, sums.domain)):
            if not math.isfinite(norm):
                raise ValueError(damage(name, checkpoint))
        places.setdefault(place_of(name), []).append(sums)
    return tuple(_distance(place, tensors) for place, tensors in sorted(places.items()))


def relative_distance(distance: float, norm: float) -> float:
    """Return ``|a - b| / |b|``, or ``|a - b|`` if ``b`` is zero.

    Args:
        distance: The squared distance ``|a - b|**2``.
        norm: The squared norm ``|b|**2``.
    """
    return math.sqrt(distance / norm) if norm else math.sqrt(distance)


def damage(name: str, checkpoint: Checkpoint) -> str:
    """Return what is wrong with a checkpoint's tensor whose squared norm is NaN or infinite."""
    tensor = checkpoint.tensor(name)
    if tensor.isfinite().all():
        return (
            f"tensor {name!r} of {checkpoint.folder} holds weights up to {float(tensor.abs().max()):.2g}, whose "
            "squares overflow: the distance that a merge moves it cannot be measured; is the checkpoint damaged?"
        )
    return f"tensor {name!r} of {checkpoint.folder} holds NaN or infinity; the checkpoint is damaged"


@dataclass(frozen=True)
class _Sums:
    """Of one tensor: squared norms, squared distance, dot product; whether it is a matrix, and equal in both."""

    source: float
    domain: float
    difference: float
    product: float
    matrix: bool
    copied: bool


def _sums(source: torch.Tensor, domain: torch.Tensor) -> _Sums:
    import torch

    coarser = min(source.dtype, domain.dtype, key=lambda dtype: -torch.finfo(dtype).eps)
    sums, copied = torch.zeros(4, dtype=torch.float64), True
    for own, other in zip(
        torch.split(source.reshape(-1), _PIECE), torch.split(domain.reshape(-1), _PIECE), strict=True
    ):
        copied = copied and torch.equal(own.to(coarser), other.to(coarser))
        own, other = own.double(), other.double()
        difference = other - own
        sums += torch.stack([own.dot(own), other.dot(other), difference.dot(difference), own.dot(other)])
    norm, other_norm, far, product = sums.tolist()
    return _Sums(norm, other_norm, far, product, matrix=source.ndim > 1, copied=copied)


def _distance(place: Place, tensors: list[_Sums]) -> Distance:
    norm = sum(tensor.source for tensor in tensors)
    far = sum(tensor.difference for tensor in tensors)
    matrices = [tensor for tensor in tensors if tensor.matrix]
    norms = math.sqrt(sum(tensor.source for tensor in matrices) * sum(tensor.domain for tensor in matrices))
    return Distance(
        str(place),
        place.layer,
        relative_distance(far, norm),
        sum(tensor.product for tensor in matrices) / norms if norms else None,
        all(tensor.copied for tensor in tensors),
    )
