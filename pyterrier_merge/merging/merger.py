"""Blends checkpoints into a live model, tensor by tensor."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from pyterrier_merge.merging.blending import Blender, TensorMerge
from pyterrier_merge.merging.change import require_change
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.merging.places import is_final_norm, is_projection, layer_of
from pyterrier_merge.recipe import MergeRecipe, Segment

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_Decision = tuple[Any, ...]  # everything that decides a parameter's weights


class Merger:
    """Writes merges of some checkpoints into one live model, in place, any number of times.

    The parents stay untouched, so every merge starts from them and never from the last merge. Tensors whose weights
    have not changed since the last merge are left alone.

    mergekit's own planner is not used: with a retriever (``MistralModel``) and a language model
    (``MistralForCausalLM``) it matches no tensor and returns one parent unchanged. The arithmetic is mergekit's, in
    float32.
    """

    def __init__(
        self, model: torch.nn.Module, parents: Parents, projection: Mapping[str, torch.nn.Parameter] | None = None
    ) -> None:
        """Check that the models fit together; no weights are read yet.

        Args:
            model: The live body of the source model; its parameters have canonical names, as those of an ``AutoModel``.
            parents: The checkpoints; the source's is the one that ``model`` was loaded from.
            projection: Live parameters of the source's projection head, by canonical name.

        Raises:
            ValueError: The checkpoints cannot be merged, or the model has parameters that the source's files lack.
        """
        for compatibility in parents.compatibilities:
            compatibility.require()
            for note in compatibility.notes:
                logger.info("merging %s with %s: %s", parents.source.folder, compatibility.domain.folder, note)
        self.model = model
        self._parameters: dict[str, torch.nn.Parameter] = {**dict(model.named_parameters()), **(projection or {})}
        _require_loaded(self._parameters, parents.source)
        self._parents = parents
        self._held: dict[str, tuple[_Decision, TensorMerge]] = {}  # by parameter: last decision and result
        self._written: set[str] = set()  # parameters that may differ from the source's
        parents.reside(next(iter(self._parameters.values())).device)

    def merge(self, recipe: MergeRecipe) -> tuple[TensorMerge, ...]:
        """Write the merge into the live model and return what happened to each tensor.

        Raises:
            ValueError: A parent holds NaN or infinity, the recipe's segments do not fit the layers, the recipe merges
                token embeddings and the vocabularies differ, or something that should have changed did not (see
                :func:`~pyterrier_merge.merging.change.require_change`).
        """
        import torch

        self._parents.require(recipe)
        blender = Blender(self._parents, recipe)
        wanted = {name: (blender.part(name), *decision) for name, decision in self._decisions(blender, recipe).items()}
        concerned = [name for name in self._parameters if blender.merges(name) or name in self._written]
        stale = [name for name in concerned if name not in self._held or self._held[name][0] != wanted[name]]
        for name in stale:
            self._held.pop(name, None)
            self._written.add(name)
        squares = [blender.blend_into(self._parameters[name], name) for name in stale]
        figures = iter(torch.cat(squares).tolist() if squares else ())  # one read: each one waits for the device
        for name, own in zip(stale, squares, strict=True):
            described = blender.describe(name, list(islice(figures, own.numel())), self._parameters[name].dtype)
            self._held[name] = (wanted[name], described)
        merges = tuple(self._held[name][1] for name in self._parameters if name in self._held)
        require_change(merges, recipe)
        return merges

    def levels(self, recipe: MergeRecipe) -> tuple[Hashable, ...]:
        """Return what decides the weights below the layers, and those of each layer, lowest first.

        If two recipes agree in the first ``1 + n`` entries, a text's state after ``n`` layers is the same.
        """
        found: list[list[_Decision]] = [[] for _ in range(1 + self._parents.source.num_layers)]
        for name, decision in self._decisions(Blender(self._parents, recipe), recipe).items():
            layer = layer_of(name)
            if layer is not None:
                found[1 + layer].append(decision)
            elif not is_final_norm(name) and not is_projection(name):
                found[0].append(decision)
        return tuple(map(tuple, found))

    def _decisions(self, blender: Blender, recipe: MergeRecipe) -> dict[str, _Decision]:
        return {name: self._wanted(blender.segment(name), recipe) for name in self._parameters}

    def _wanted(self, segment: Segment, recipe: MergeRecipe) -> _Decision:
        """What decides a parameter's weights."""
        if segment.keeps_source:
            return ()
        return (segment.weights(len(self._parents.domains)), recipe.method, recipe.parameters, recipe.seed)


def _require_loaded(parameters: Mapping[str, torch.Tensor], source: Checkpoint) -> None:
    # Sentence embeddings do not use the pooler of BERT's pre-training, and many files do not have it.
    missing = [name for name in parameters if name not in source.body and not name.startswith("pooler.")]
    renamed = [name for name in source.body if name not in parameters and layer_of(name) is not None]
    if missing and renamed:
        raise ValueError(
            f"transformers loads {source.folder} ({source.config.get('model_type')}) under other names than its file "
            f"has, such as {missing[0]!r}, where the file has {renamed[0]!r}: it cannot be merged in memory; "
            "write the merge to a folder (`pyterrier-merge merge`) and load that folder"
        )
    if missing:
        raise ValueError(
            f"{source.folder} has no weights for {len(missing)} parameters of the model, such as {missing[0]!r}: they "
            "would be random; give a checkpoint that was saved from the retriever itself"
        )
    for name, parameter in parameters.items():
        if name in source.body and tuple(parameter.shape) != source.body[name].shape:
            raise ValueError(
                f"parameter {name!r} is {tuple(parameter.shape)} in the model, "
                f"{source.body[name].shape} in {source.folder}"
            )
