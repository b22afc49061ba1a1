"""The default memory of work that can be divided into blocks."""

from __future__ import annotations

SHARE = 4  # one quarter of the free memory
MOST = 4 << 30  # bytes; with larger blocks a killed job would lose more work


def spare_memory(device: str) -> int:
    """Return a quarter of a torch device's free memory, at most 4 GiB, in bytes."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
    else:
        import psutil

        free = psutil.virtual_memory().available
    return min(free // SHARE, MOST)
