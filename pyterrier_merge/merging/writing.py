"""Writes a merge to safetensors files, shard by shard, without a live model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyterrier_merge.merging.blending import Blender, TensorMerge, misfit
from pyterrier_merge.merging.change import require_change
from pyterrier_merge.merging.distances import relative_distance
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.merging.places import Place, place_of
from pyterrier_merge.models import locate_model
from pyterrier_merge.models.files import projection_folders
from pyterrier_merge.models.weights import TensorReader, stored_tensors, writing_weights
from pyterrier_merge.progress import progress
from pyterrier_merge.recipe import MergeRecipe
from pyterrier_merge.storage import write_file

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 10**9  # size of a file; as much is held in memory before it is written


@dataclass(frozen=True)
class WrittenTensor:
    """A merged tensor as it was written.

    Attributes:
        merge: Its name, weights and relative distances.
        norms: Squared norms of the source's tensor and of each domain model's.
        distances: Squared distances of the merged tensor to each.
    """

    merge: TensorMerge
    norms: tuple[float, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True)
class PlaceMerge:
    """What happened to a part of the model.

    Attributes:
        place: ``embeddings``, ``layer 0`` or ``layers 0-15``, ``final norm``, ``projection head``; of layers whose
            parts have weights of their own, ``layer 0, attention`` and so on, ``layer 0, rest`` for the other tensors.
        weights: Of the source and of each domain model; None if the method decides.
        to_source: Relative distance ``|merged - source| / |source|`` over the part's merged weights.
        to_domains: The same to each domain model.
    """

    place: str
    weights: tuple[float, ...] | None
    to_source: float
    to_domains: tuple[float, ...]


class MergedWeights:
    """The weights of a recipe, to be written in the source's layout, under the source's names.

    Each tensor is computed in float32 from the parents' files just before it is written, and rounded once. Tensors that
    are not merged are copied.

    Attributes:
        folders: Where weights are written, relative to the model's folder: the transformer's, and those of dense
            modules that are merged too.
        num_bytes: How many bytes of tensors are to be written.
        dtype: The floating-point type that most of the transformer is written in.
    """

    def __init__(self, recipe: MergeRecipe, *, dtype: str = "auto", device: str = "cpu") -> None:
        """Open the parents and plan; no weights are read yet.

        Args:
            recipe: What to merge.
            dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: each tensor in the type the source stores it in.
                Dense modules keep their own type.
            device: Where to compute, one tensor at a time.

        Raises:
            ValueError: The models cannot be merged, or not by this recipe.
        """
        self._recipe = recipe
        self._parents = Parents(recipe)
        self._parents.require(recipe)
        self._blender = Blender(self._parents, recipe)
        self._device = device
        self._reader = TensorReader()
        source = locate_model(recipe.source)
        body = self._parents.source.folder
        self._files = {body.relative_to(source): stored_tensors(body)}
        if not recipe.head.keeps_source:
            self._files |= {dense.relative_to(source): stored_tensors(dense) for dense in projection_folders(source)}
        self._names = {stored: name for name, stored in self._parents.source.body.items()}
        wanted = {folder: "auto" if number else dtype for number, folder in enumerate(self._files)}
        self._planned = {folder: self._plan(folder, wanted[folder]) for folder in self._files}
        self.folders = tuple(self._files)
        self.num_bytes = sum(tensor.nbytes for plan in self._planned.values() for tensor in plan.values())
        self.dtype = _most_common_dtype(self._planned[self.folders[0]].values())

    def write(self, folder: Path, *, verbose: bool | None = None) -> tuple[WrittenTensor, ...]:
        """Write ``model.safetensors``, or shards and their index if there are more than ``SHARD_BYTES``.

        Args:
            folder: The new model's folder; the ``folders`` in it must exist.
            verbose: Show a progress bar; in terminals and notebooks when None.

        Returns:
            What happened to each tensor that the recipe merges.

        Raises:
            ValueError: A parent holds NaN or infinity, a merged weight does not fit the type, or something that should
                have changed did not (see :func:`~pyterrier_merge.merging.change.require_change`).
            OSError: A file could not be written.
        """
        from huggingface_hub import split_torch_state_dict_into_shards
        from safetensors.torch import save_file

        written: list[WrittenTensor] = []
        with progress(
            total=self.num_bytes, desc="merging", unit="B", unit_scale=True, unit_divisor=1000, verbose=verbose
        ) as bar:
            for part, plan in self._planned.items():
                split = split_torch_state_dict_into_shards(plan, max_shard_size=SHARD_BYTES)
                for file, keys in split.filename_to_tensors.items():
                    shard: dict[str, torch.Tensor] = {}
                    for key in keys:
                        shard[key], record = self._compute(part, key)
                        written.extend([record] if record else [])
                        bar.update(shard[key].nbytes)
                    with writing_weights(folder / part / file):
                        save_file(shard, folder / part / file, metadata={"format": "pt"})
                if split.is_sharded:
                    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
                    write_file(folder / part / "model.safetensors.index.json", json.dumps(index, indent=2))
        require_change([tensor.merge for tensor in written], self._recipe)
        return tuple(written)

    def _plan(self, folder: Path, dtype: str) -> dict[str, torch.Tensor]:
        """Name as stored -> a tensor without memory, of the shape and type to write."""
        import torch

        plan: dict[str, torch.Tensor] = {}
        for key, stored in self._files[folder].items():
            own = self._reader.read(stored).dtype
            kept = own if dtype == "auto" or not own.is_floating_point else getattr(torch, dtype)
            plan[key] = torch.empty(stored.shape, dtype=kept, device="meta")
        return plan

    def _compute(self, folder: Path, key: str) -> tuple[torch.Tensor, WrittenTensor | None]:
        import torch

        stored, planned = self._files[folder][key], self._planned[folder][key]
        name = self._names.get(stored)
        if name is None or not self._blender.merges(name):
            own = self._reader.read(stored)
            # a contiguous copy: tensors of a .bin file may share memory or be column-major; safetensors takes neither
            copy = own.to(planned.dtype, copy=True, memory_format=torch.contiguous_format)
            if copy.dtype != own.dtype and not bool((torch.isfinite(copy) | ~torch.isfinite(own)).all()):
                raise ValueError(misfit(key, copy.dtype))
            return copy, None
        out = torch.empty_like(planned, device=self._device)
        squares = self._blender.blend_into(out, name).tolist()
        merge = self._blender.describe(name, squares, out.dtype)
        models = len(self._parents.models)
        norms = self._parents.squares[name][:models]
        return out.cpu(), WrittenTensor(merge, norms, tuple(squares[-models:]))


def by_layer(written: Iterable[WrittenTensor]) -> tuple[PlaceMerge, ...]:
    """Sum up what was written: embeddings and projection head (if they were merged), each layer, the final norm."""
    return tuple(summed for place, tensors in _in_places(written) for summed in _summed([place], tensors))


def by_segment(written: Iterable[WrittenTensor]) -> tuple[PlaceMerge, ...]:
    """Sum up what was written; neighbouring layers with the same weights are one entry."""
    runs: list[tuple[list[Place], list[WrittenTensor]]] = []
    for place, tensors in _in_places(written):
        if runs and runs[-1][0][-1].kind == place.kind and _weights(runs[-1][1]) == _weights(tensors):
            runs[-1][0].append(place)
            runs[-1][1].extend(tensors)
        else:
            runs.append(([place], list(tensors)))
    return tuple(summed for places, tensors in runs for summed in _summed(places, tensors))


def _in_places(written: Iterable[WrittenTensor]) -> list[tuple[Place, list[WrittenTensor]]]:
    places: dict[Place, list[WrittenTensor]] = {}
    for tensor in written:
        places.setdefault(place_of(tensor.merge.name), []).append(tensor)
    return sorted(places.items(), key=lambda item: item[0])


def _weights(tensors: Iterable[WrittenTensor]) -> dict[str | None, tuple[float, ...] | None]:
    return {tensor.merge.part: tensor.merge.weights for tensor in tensors}


def _summed(places: Sequence[Place], tensors: Sequence[WrittenTensor]) -> Iterator[PlaceMerge]:
    """One sum, or one for each part with weights of its own and one for the rest."""
    first, last = places[0], places[-1]
    name, weights = str(first) if first == last else f"layers {first.layer}-{last.layer}", _weights(tensors)
    for part in sorted(weights, key=lambda part: (part is None, part)):
        inside = [tensor for tensor in tensors if tensor.merge.part == part]
        norms = [sum(squares) for squares in zip(*(tensor.norms for tensor in inside), strict=True)]
        far = [sum(squares) for squares in zip(*(tensor.distances for tensor in inside), strict=True)]
        to_source, *to_domains = map(relative_distance, far, norms)
        label = name if weights.keys() == {None} else f"{name}, {part or 'rest'}"
        yield PlaceMerge(label, weights[part], to_source, tuple(to_domains))


def _most_common_dtype(tensors: Iterable[torch.Tensor]) -> str:
    elements: dict[str, int] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            name = str(tensor.dtype).removeprefix("torch.")
            elements[name] = elements.get(name, 0) + tensor.numel()
    return max(elements, key=lambda name: elements[name])
