"""Global state that a training restores: random generators, and how glibc treats freed memory."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import set_seed


@contextmanager
def kept_generators(seed: int | None = None) -> Iterator[None]:
    """Restore the random generators of Python, NumPy and torch at the end; start from a seed if one is given."""
    ours, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if seed is not None:
                set_seed(seed)
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)


@contextmanager
def kept_memory(device: str) -> Iterator[None]:
    """Let glibc keep freed memory on a CPU, because requesting it again takes longer than a step's computation."""
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):
        yield
        return
    map_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of <malloc.h>
    if device == "cpu":
        mallopt(map_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        if device == "cpu":
            mallopt(map_max, 65536)  # glibc's defaults
            mallopt(trim_threshold, 128 * 1024)
            trim(0)
