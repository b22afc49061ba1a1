"""The blend of one tensor: the segment of the recipe that it belongs to, its new weights, and how far they moved."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pyterrier_merge.merging.distances import damage, relative_distance
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.merging.places import is_embedding, is_final_norm, is_projection, layer_of
from pyterrier_merge.methods import blend, get_method, linear_divisor
from pyterrier_merge.recipe import MergeRecipe, Segment

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_PIECE = 2**19  # elements; on a CPU, a few float32 pieces of this size fit in the cache


@dataclass(frozen=True)
class TensorMerge:
    """What happened to one tensor.

    Attributes:
        name: Canonical name.
        layer: Number of its layer from 0; None outside the layers.
        weights: Of the source and of each domain model; None if the method decides.
        to_source: Relative distance ``|merged - source| / |source|``, for the weights in the type they are held in.
        to_domains: The same to each domain model.
        apart: Relative distance ``|domain - source| / |source|`` of each domain model, for the weights as stored.
        part: The part of its layer that gave it its weights; None if it has the segment's weights.
    """

    name: str
    layer: int | None
    weights: tuple[float, ...] | None
    to_source: float
    to_domains: tuple[float, ...]
    apart: tuple[float, ...]
    part: str | None = None


class Blender:
    """Blends the tensors of one recipe, one by one, into existing memory."""

    def __init__(self, parents: Parents, recipe: MergeRecipe) -> None:
        """Lay the recipe's segments over the source's layers.

        Raises:
            ValueError: A segment would get no layer.
        """
        self._parents = parents
        self._recipe = recipe
        self._method = get_method(recipe.method)
        self._memory: torch.Tensor | None = None
        self._layers = recipe.layer_segments(parents.source.num_layers)

    def segment(self, name: str) -> Segment:
        """Return the weights of the tensor of this canonical name: its segment's, or those of a part of it."""
        layer = layer_of(name)
        if layer is not None:
            return self._layers[layer].of(self.part(name))
        if is_final_norm(name):
            return self._recipe.final_norm or self._layers[-1].rest
        if is_projection(name):
            return self._recipe.head
        return self._recipe.embeddings if is_embedding(name) else Segment(1)

    def part(self, name: str) -> str | None:
        """Return the part of its layer, with weights of its own, that the tensor of this canonical name belongs to."""
        layer = layer_of(name)
        return None if layer is None else self._layers[layer].part_of(name)

    def merges(self, name: str) -> bool:
        """Whether the tensor is in every merge (layers, final norm), or is merged by this recipe."""
        return layer_of(name) is not None or is_final_norm(name) or not self.segment(name).keeps_source

    def blend_into(self, out: torch.Tensor, name: str) -> torch.Tensor:
        """Blend one tensor into ``out``: computed in float32, rounded once to the type that ``out`` has.

        Args:
            out: Where to write, on any device; contiguous.
            name: Canonical name of the tensor.

        Returns:
            Float64 on the device of ``out``, which :meth:`describe` takes: squared norms of source and domain models,
            squared distances of the source to each (both left out if an earlier merge computed them), and of ``out`` to
            each.

        Raises:
            ValueError: A parent lacks the tensor, or has it in another shape.
        """
        import torch

        parents, segment = self._parents, self.segment(name)
        tensors = [parents.read(checkpoint, name, out) for checkpoint in parents.checkpoints]
        known = parents.squares.get(name)  # the parents do not change between merges
        if (in_one_pass := self._in_one_pass(out, tensors, segment)) is not None:
            return in_one_pass[len(known or ()) :]
        with torch.no_grad():
            if not self._method.elementwise:
                self._write(out, tensors, segment, name)
            held, flat = out.view(-1), [tensor.reshape(-1) for tensor in tensors]
            whole, size = _converts_as_it_reads(out), max(held.numel(), 1)  # no elements: one empty piece
            step = size if whole else _PIECE
            squares = []
            for start in range(0, size, step):
                piece = held[start : start + step]
                now, room, *models = self._pieces(piece, [tensor[start : start + step] for tensor in flat])
                compared = models[: len(parents.models)]
                of_parents = [] if known else _squares_of_parents(compared, now, room)
                if self._method.elementwise:
                    self._write(piece, models, segment, name, memory=now)
                now.copy_(piece)
                rooms = [room] * len(models) if whole else models  # no longer needed, and in the cache
                squares.append(torch.stack([*of_parents, *_squares_apart(now, compared, rooms)]))
            return squares[0].double() if len(squares) == 1 else torch.stack(squares).double().sum(dim=0)

    def _in_one_pass(self, out: torch.Tensor, tensors: list[torch.Tensor], segment: Segment) -> torch.Tensor | None:
        """Blend with the one-pass kernel; return all squares, or None if the kernel does not support this merge."""
        weights = segment.weights(1)
        if not out.is_cuda or self._method.name != "linear" or weights is None or len(tensors) != 2:
            return None
        if (interpolate := _kernel(out.device)) is None:
            return None
        total = linear_divisor(weights, dict(self._recipe.parameters))
        squares: torch.Tensor = interpolate(out, *tensors, weights, total=total, exact=self._exact(weights, segment))
        return squares

    def describe(self, name: str, squares: Sequence[float], dtype: torch.dtype) -> TensorMerge:
        """Return what happened to a tensor of type ``dtype``, from what :meth:`blend_into` returned.

        Raises:
            ValueError: A parent holds NaN or infinity, or the merge cannot be held in ``dtype``.
        """
        squares, models = (*self._parents.squares.get(name, ()), *squares), len(self._parents.models)
        norms, apart, distances = squares[:models], squares[models:-models], squares[-models:]
        base = self._parents.base
        damaged = [model for model, norm in zip(self._parents.models, norms, strict=True) if not math.isfinite(norm)]
        if not damaged and not all(map(math.isfinite, distances)):
            if base is None or base.tensor(name).isfinite().all():
                raise ValueError(misfit(name, dtype))
            damaged = [base]
        if damaged:
            raise ValueError(damage(name, damaged[0]))
        self._parents.squares[name] = (*norms, *apart)
        return TensorMerge(
            name,
            layer_of(name),
            weights=self.segment(name).weights(len(self._parents.domains)),
            to_source=relative_distance(distances[0], norms[0]),
            to_domains=tuple(map(relative_distance, distances[1:], norms[1:])),
            apart=tuple(relative_distance(far, norms[0]) for far in apart[1:]),
            part=self.part(name),
        )

    def _pieces(self, like: torch.Tensor, stored: list[torch.Tensor]) -> list[torch.Tensor]:
        """Float32 memory for two pieces, the same every time, and the models' pieces for reading."""
        import torch

        rows = 2 if _converts_as_it_reads(like) else 2 + len(stored)
        elements = rows * like.numel()
        if self._memory is None or self._memory.numel() < elements:
            self._memory = torch.empty(elements, dtype=torch.float32, device=like.device)
        now, room, *models = self._memory[:elements].view(rows, like.numel())
        return [now, room, *([model.copy_(piece) for model, piece in zip(models, stored, strict=False)] or stored)]

    def _write(
        self,
        out: torch.Tensor,
        tensors: list[torch.Tensor],
        segment: Segment,
        name: str,
        memory: torch.Tensor | None = None,
    ) -> None:
        """Write the blend of (a piece of) source, domain models and base to ``out``; ``memory`` may be used for it."""
        weights = segment.weights(len(self._parents.domains))
        exact = self._exact(weights, segment)
        if exact is not None:  # copy the parent bit for bit: the method's arithmetic could round
            out.copy_(tensors[exact])
            return
        models, base = (tensors[:-1], tensors[-1]) if self._parents.base else (tensors, None)
        recipe = self._recipe
        parameters = dict(recipe.parameters)
        blended = blend(
            models, self._method, weights, base=base, parameters=parameters, name=name, seed=recipe.seed, memory=memory
        )
        out.copy_(blended)

    def _exact(self, weights: tuple[float, ...] | None, segment: Segment) -> int | None:
        if segment.keeps_source:
            return 0
        interpolates = self._method.interpolates and not self._parents.base
        if interpolates and weights and 1 in weights and weights.count(0) == len(weights) - 1:
            return weights.index(1)
        return None


def misfit(name: str, dtype: torch.dtype) -> str:
    """Return the message for a tensor that overflows the type it is held in."""
    narrow = str(dtype) == "torch.float16"
    mend = ": use bfloat16 or float32" if narrow else "; are the recipe's weights or parameters too large?"
    return f"tensor {name!r} has weights that {dtype} cannot hold{mend}"


def _converts_as_it_reads(tensor: torch.Tensor) -> bool:
    """Whether the device converts other types to float32 while reading. A CPU allocates new memory for each one."""
    return tensor.is_cuda


@cache
def _kernel(device: torch.device) -> Callable[..., torch.Tensor] | None:
    """The one-pass GPU kernel for two models; None if Triton is not installed or cannot compile."""
    import torch

    try:
        from pyterrier_merge.merging.one_pass import interpolate

        source = torch.linspace(-1, 1, 10_001, device=device)  # not random: would change generators
        domain, out = source.flip(0).square(), torch.empty_like(source)
        interpolate(out, source, domain, (0.3, 0.7))
        torch.testing.assert_close(out, 0.3 * source + 0.7 * domain)
    except Exception as error:  # noqa: BLE001 (a compiler may raise anything; torch computes the same)
        logger.warning("Triton's kernel for merging does not work here; torch is several times slower: %s", error)
        return None
    return interpolate


def _squares_of_parents(models: Sequence[torch.Tensor], first: torch.Tensor, room: torch.Tensor) -> list[torch.Tensor]:
    """Squared norm of each model, then squared distance of each from the first. Both memories are float32."""
    first.copy_(models[0])
    norms = [first.dot(first), *(room.copy_(model).dot(room) for model in models[1:])]
    return [*norms, *_squares_apart(first, models, [room] * len(models))]


def _squares_apart(
    one: torch.Tensor, models: Sequence[torch.Tensor], rooms: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Squared distance of each model from ``one``; ``rooms``, float32 as ``one``, take the differences."""
    import torch

    return [torch.sub(one, model, out=room).dot(room) for model, room in zip(models, rooms, strict=False)]
