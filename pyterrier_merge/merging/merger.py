"""Blends two checkpoints into a live model, tensor by tensor, through mergekit's merge methods."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyterrier_merge.merging.checkpoint import Checkpoint, layer_of
from pyterrier_merge.merging.compatibility import check_compatible
from pyterrier_merge.recipe import MergeRecipe

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorMerge:
    """What happened to one tensor.

    Attributes:
        name: Canonical name.
        layer: Number of its layer from 0; None for the final norm.
        alpha: Weight of the source.
        to_source: Relative distance ``|merged - source| / |source|``, of the weights as the model holds them.
        to_domain: The same to the domain model.
    """

    name: str
    layer: int | None
    alpha: float
    to_source: float
    to_domain: float


class Merger:
    """Writes merges of two checkpoints into one live model, in place, as often as it is asked to.

    The parents stay untouched on disk (memory-mapped, one tensor in memory at a time), so every merge starts from them
    and never from the last merge. Tensors whose weight has not changed since the last merge are left alone.

    mergekit's own planner is not used: with a retriever (``MistralModel``) and a language model
    (``MistralForCausalLM``) it matches no tensor and returns one parent unchanged. The arithmetic is mergekit's, in
    float32.
    """

    def __init__(self, model: torch.nn.Module, source: Checkpoint, domain: Checkpoint) -> None:
        """Check that the three fit together; no weights are read yet.

        Args:
            model: The live body of the source model; its parameters go by canonical names, as an ``AutoModel``'s do.
            source: The checkpoint that ``model`` was loaded from.
            domain: The checkpoint to blend into it.

        Raises:
            ValueError: The checkpoints cannot be merged, or the model has parameters that the source's files lack.
        """
        self._compatibility = check_compatible(source, domain)
        self._compatibility.require()
        self.model = model
        self._parameters = dict(model.named_parameters())
        _require_loaded(self._parameters, source)
        self._source = source
        self._domain = domain
        self._done: dict[str, TensorMerge] = {}
        self._method: str | None = None
        for note in self._compatibility.notes:
            logger.info("merging %s with %s: %s", source.folder, domain.folder, note)

    def merge(self, recipe: MergeRecipe) -> tuple[TensorMerge, ...]:
        """Write the merge into the live model and return what happened to each tensor.

        Raises:
            ValueError: A parent holds NaN or infinity, the recipe's segments do not fit the layers, or nothing changed
                although some weight is below 1.
        """
        alphas = recipe.layer_alphas(self._source.num_layers)
        if recipe.method != self._method:
            self._done.clear()
            self._method = recipe.method
        for name in self._compatibility.merged:
            if name not in self._parameters:
                continue
            layer = layer_of(name)
            alpha = alphas[-1] if layer is None else alphas[layer]
            done = self._done.pop(name, None)
            self._done[name] = (
                done if done and done.alpha == alpha else self._merge_tensor(name, layer, alpha, recipe.method)
            )
        merges = tuple(self._done.values())
        _require_change(merges, recipe)
        return merges

    def _merge_tensor(self, name: str, layer: int | None, alpha: float, method: str) -> TensorMerge:
        import torch

        live = self._parameters[name]
        source, domain = (_finite(checkpoint, name, live.device) for checkpoint in (self._source, self._domain))
        with torch.no_grad():
            live.copy_(blend(source, domain, alpha, method=method, name=name))
        merged = live.detach().float()
        return TensorMerge(
            name, layer, alpha, _relative_distance(merged, source.float()), _relative_distance(merged, domain.float())
        )


def blend(
    source: torch.Tensor, domain: torch.Tensor, alpha: float, *, method: str, name: str = "tensor"
) -> torch.Tensor:
    """Blend two tensors of one shape with mergekit: float32 throughout, float32 out.

    Args:
        source: The retriever's tensor, weighted ``alpha``.
        domain: The domain model's tensor, weighted ``1 - alpha``.
        alpha: Within [0, 1].
        method: ``linear``, ``slerp`` or ``nuslerp``.
        name: Named in mergekit's error messages.
    """
    import torch
    from mergekit.merge_methods import merge_tensors

    if alpha in (0, 1):  # the parent itself, to the bit, whatever a method's arithmetic rounds to
        return (source if alpha else domain).float()
    parameters: Mapping[str, Any] = {"t": 1 - alpha} if method == "slerp" else {"weight": [alpha, 1 - alpha]}
    base_index = 0 if method == "slerp" else None
    return merge_tensors(
        [source, domain], method, parameters=parameters, base_index=base_index, name=name, dtype=torch.float32
    )


def _finite(checkpoint: Checkpoint, name: str, device: torch.device) -> torch.Tensor:
    tensor = checkpoint.tensor(name).to(device)
    if not tensor.is_floating_point():
        raise ValueError(
            f"tensor {name!r} of {checkpoint.folder} is {tensor.dtype}: quantised weights cannot be merged"
        )
    if not tensor.isfinite().all():
        raise ValueError(f"tensor {name!r} of {checkpoint.folder} holds NaN or infinity; the checkpoint is damaged")
    return tensor


def _relative_distance(merged: torch.Tensor, parent: torch.Tensor) -> float:
    return float((merged - parent).norm() / parent.norm().clamp_min(1e-30))


def _require_loaded(parameters: Mapping[str, torch.Tensor], source: Checkpoint) -> None:
    # No sentence embedding goes through the pooler of BERT's pre-training, which many a file leaves out.
    missing = [name for name in parameters if name not in source.body and not name.startswith("pooler.")]
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


def _require_change(merges: tuple[TensorMerge, ...], recipe: MergeRecipe) -> None:
    if not merges:
        raise ValueError(f"nothing was merged: no tensor of the model lies in a layer ({recipe})")
    asked = [merge for merge in merges if merge.alpha < 1]
    if asked and all(merge.to_source == 0 for merge in asked):
        raise ValueError(
            f"nothing was merged: all {len(asked)} tensors with a weight below 1 equal the source's ({recipe}); "
            "is the domain model a copy of the source?"
        )
