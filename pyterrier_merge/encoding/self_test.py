"""What must hold of any retrieval model that is loaded: a vector depends on its text and the model alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TEXTS = ("fever", "acute renal failure in the elderly", "pain " * 12)
_TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}  # of a vector's length; what rounding alone can do


def require_sound(
    run: Callable[[list[list[int]]], torch.Tensor], ids: list[list[int]], *, dtype: torch.dtype, name: str
) -> None:
    """Run a few texts through a model and check that vectors are finite, and the same alone as padded in any batch.

    Takes some milliseconds with a small model, four forward passes of a few tokens with a large one. What a rounded
    type does to a vector is allowed for; reading a padding token instead of the last one is far more.

    Args:
        run: From the token ids of a batch to its vectors, ``(n_texts, dim)`` float32.
        ids: Token ids of texts of different lengths.
        dtype: What the transformer computes in.
        name: The model's, for messages.

    Raises:
        RuntimeError: A vector is not finite, or changes with padding, batch or order.
    """
    import torch

    with torch.inference_mode():
        together = run(ids)
        turned = run(ids[::-1]).flip(0)
        alone = torch.cat([run([row]) for row in ids])
    if not together.isfinite().all():
        raise RuntimeError(f"{name}: vectors hold NaN or infinity in {dtype}; try dtype='float32', check the weights")
    tolerance = _TOLERANCE[str(dtype).removeprefix("torch.")]
    for clause, other in (("alone and padded in a batch", alone), ("in another order of the batch", turned)):
        apart = float(((together - other).norm(dim=1) / together.norm(dim=1).clamp_min(1e-12)).max())
        if apart > tolerance:
            raise RuntimeError(
                f"{name}: the vector of a text is not the same {clause}: they lie {apart:.2g} of its length apart, "
                f"expected {tolerance:g} at most in {dtype}; the pooling or the attention does not heed padding"
            )
