"""The checkpoints that a recipe blends, and their tensors on the device that computes the merge."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.compatibility import Compatibility, check_compatible
from pyterrier_merge.merging.layer_parts import require_parts
from pyterrier_merge.merging.places import is_final_norm, is_projection
from pyterrier_merge.models import locate_model
from pyterrier_merge.recipe import MergeRecipe

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_SHARE_OF_FREE_MEMORY = 0.8  # of a GPU; parents stay on it if they need no more


class Parents:
    """Source, domain models and base of a recipe, as checkpoints.

    On a CPU each tensor is read from its file on request and dropped: the operating system caches files in free
    memory. On a GPU with room for all tensors they stay there after the first read.

    Attributes:
        source: The retrieval model.
        domains: The domain models, in the recipe's order.
        base: The model that differences are taken from, if it is not the source.
        squares: By canonical name, for tensors measured so far: the squared norms of a tensor in source and domain
            models, and its squared distances from the source in each of them.
    """

    def __init__(self, recipe: MergeRecipe) -> None:
        """Locate the recipe's models and read their headers.

        Raises:
            FileNotFoundError: No such model.
            ValueError: A checkpoint is damaged, quantised, or of an architecture without one stack of layers.
        """
        self.source, *domains = (Checkpoint(locate_model(name)) for name in (recipe.source, *recipe.domains))
        self.domains = tuple(domains)
        self.base = None if recipe.base is None else Checkpoint(locate_model(recipe.base))
        self._names = (recipe.source, recipe.domains, recipe.base)
        self.squares: dict[str, tuple[float, ...]] = {}
        self._resident: dict[tuple[Checkpoint, str, torch.device], torch.Tensor] | None = None

    @property
    def models(self) -> tuple[Checkpoint, ...]:
        """Source and domain models: the models that have weights in the recipe."""
        return (self.source, *self.domains)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All checkpoints: source and domain models, and the base if it is another model."""
        return self.models if self.base is None else (*self.models, self.base)

    @cached_property
    def compatibilities(self) -> tuple[Compatibility, ...]:
        """The source side by side with each of the others."""
        return tuple(check_compatible(self.source, other) for other in self.checkpoints[1:])

    def require(self, recipe: MergeRecipe) -> None:
        """Raise ``ValueError`` if these models cannot be merged, or not in the places that the recipe merges."""
        if (recipe.source, recipe.domains, recipe.base) != self._names:
            raise ValueError(f"the recipe merges other models than those that were opened: {recipe}")
        for compatibility in self.compatibilities:
            compatibility.require()
            if not recipe.embeddings.keeps_source:
                compatibility.require_vocabulary()
        require_parts(recipe, self.source)
        if not recipe.head.keeps_source and not any(map(is_projection, self.source.body)):
            raise ValueError(f"{self.source.folder} has no projection head to merge: leave `head` at 1")
        if recipe.final_norm is not None and not any(map(is_final_norm, self.source.body)):
            # no error: a mergekit gradient gives every model a final norm weight
            logger.warning(
                "%s has no norm after its last layer: final_norm=%s merges nothing",
                self.source.folder,
                recipe.final_norm,
            )

    def reside(self, device: torch.device) -> None:
        """Keep tensors on this device from now on, if it is a GPU with room for all of them."""
        import torch

        if device.type != "cuda":
            return
        needed = sum(stored.nbytes for checkpoint in self.checkpoints for stored in checkpoint.body.values())
        free, _ = torch.cuda.mem_get_info(device)
        if needed <= _SHARE_OF_FREE_MEMORY * free:
            self._resident = {}

    def read(self, checkpoint: Checkpoint, name: str, like: torch.Tensor) -> torch.Tensor:
        """Return a checkpoint's tensor of this canonical name, in its stored type, on the device of ``like``.

        Raises:
            ValueError: The checkpoint lacks it, or has it in another shape.
        """
        key = (checkpoint, name, like.device)
        if self._resident is not None and key in self._resident:
            return self._resident[key]
        if name not in checkpoint.body:
            raise ValueError(f"{checkpoint.folder} has no tensor {name!r}")
        tensor = checkpoint.tensor(name).to(like.device)
        if tensor.shape != like.shape:
            raise ValueError(
                f"tensor {name!r} of {checkpoint.folder} is {tuple(tensor.shape)}, not {tuple(like.shape)}"
            )
        if self._resident is not None:
            self._resident[key] = tensor
        return tensor
