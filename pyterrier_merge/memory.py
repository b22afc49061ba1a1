"""How much memory work that can be cut smaller takes where nobody says."""

from __future__ import annotations

SHARE = 4  # one part in so many of what is free
MOST = 4 << 30  # bytes; more makes blocks so large that a killed job loses much


def spare_memory(device: str) -> int:
    """Return a quarter of the memory that is free on a torch device now, and 4 GiB at most, in bytes."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
    else:
        import psutil

        free = psutil.virtual_memory().available
    return min(free // SHARE, MOST)
