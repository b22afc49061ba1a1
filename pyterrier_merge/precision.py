"""The floating-point type for computing: bfloat16 if the hardware multiplies in it, otherwise float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the torch type for a name; ``"auto"`` depends only on the device's instructions.

    Raises:
        ValueError: The name is not one of ``auto``, ``float32``, ``bfloat16``, ``float16``.
    """
    import torch

    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device: str) -> bool:
    """Whether the device has instructions for it: AMX or AVX512-BF16 on a CPU, Ampere and later GPUs."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.device(device).type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def default_device() -> str:
    """``"cuda"`` if there is a GPU, else ``"cpu"``.

    Raises:
        RuntimeError: The process was forked from one that had used a GPU.
    """
    import torch

    refuse_forked_cuda()
    return "cuda" if torch.cuda.is_available() else "cpu"


def refuse_forked_cuda() -> None:
    """Raise ``RuntimeError`` in a process that was forked from one that had used a GPU, and so cannot use it."""
    import torch

    # the former is also true if a GPU was only looked for; counting devices does not need CUDA
    if torch.cuda._is_in_bad_fork() and torch.cuda.device_count():
        raise RuntimeError(
            "this process was forked from one that had used a GPU, and CUDA cannot be used after a fork: start workers "
            "with multiprocessing's 'spawn' method, or give device='cpu'"
        )
