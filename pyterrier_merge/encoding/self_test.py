"""Self-test of a loaded retrieval model: a vector must depend only on its text and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

TEXTS = ("fever", "acute renal failure in the elderly", "pain " * 12)
_TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}  # relative rounding errors
_LAYERS = 12  # rounding errors add up: 1.1e-5 in float32 for 32 random layers of a 7B model on a GPU
_LEFT = "padded on the right and on the left"
_LEFT_TOLERANCE = {**_TOLERANCE, "bfloat16": 2e-1}  # positions change the angles: 0.1 measured for random decoders


class Run(Protocol):
    """From the token ids of a batch to its vectors, ``(n_texts, dim)`` float32."""

    def __call__(self, ids: list[list[int]], *, padding_side: str = "right") -> torch.Tensor:
        """Run a batch, padded on the side given by ``padding_side``."""


def may_be_padded_left(config: Any) -> bool:
    """Whether padding before a text must not change its vector, which holds for rotary positions.

    Rotary positions are relative. A table of absolute positions (BERT's) counts from the first place of the batch, so
    that padding before a text moves it, and a change of the vector is not an error.

    Args:
        config: The transformer's configuration.
    """
    return any(getattr(config, name, None) for name in ("rope_parameters", "rope_theta", "global_rope_theta"))


def require_sound(
    run: Run,
    ids: list[list[int]],
    *,
    dtype: torch.dtype,
    name: str,
    layers: int | None = None,
    padded_left: bool = False,
) -> int:
    """Run a few texts and check that vectors are finite, and the same alone and padded in any batch.

    That takes some milliseconds with a small model; with a large one, a forward pass of a few tokens for each text, two
    for all together, and one more with padding on the left. The tolerance covers rounding in the
    type; the error of reading a padding token instead of the last token is far larger.

    Args:
        run: Runs a batch.
        ids: Token ids of texts of different lengths.
        dtype: The type that the transformer computes in.
        name: The model's name, for messages.
        layers: Number of layers of the model: above twelve, the tolerance for float32 grows in proportion.
        padded_left: Whether to also check padding on the left, see :func:`may_be_padded_left`.

    Returns:
        Length of a vector.

    Raises:
        RuntimeError: A vector is not finite, or changes with batch, order or padding; the message says which.
    """
    import torch

    with torch.inference_mode():
        together = run(ids)
        others = {
            "alone and padded in a batch": torch.cat([run([row]) for row in ids]),
            "in another order of the batch": run(ids[::-1]).flip(0),
        }
        if padded_left:
            others[_LEFT] = run(ids, padding_side="left")
    if not all(vectors.isfinite().all() for vectors in (together, *others.values())):
        raise RuntimeError(f"{name}: vectors hold NaN or infinity in {dtype}; try dtype='float32', check the weights")
    for clause, other in others.items():
        tolerance = (_LEFT_TOLERANCE if clause == _LEFT else _TOLERANCE)[str(dtype).removeprefix("torch.")]
        if dtype == torch.float32:
            tolerance *= max(1, (layers or 0) / _LAYERS)
        apart = float(((together - other).norm(dim=1) / together.norm(dim=1).clamp_min(1e-12)).max())
        if apart > tolerance:
            raise RuntimeError(
                f"{name}: the vector of a text is not the same {clause}: they lie {apart:.2g} of its length apart, "
                f"expected {tolerance:g} at most in {dtype}; the pooling or the attention does not heed padding, or "
                "torch was told to multiply with less precision (torch.set_float32_matmul_precision)"
            )
    return int(together.shape[1])
