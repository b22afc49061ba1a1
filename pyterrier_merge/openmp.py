"""OpenMP, which computes for torch and FAISS: how its threads wait, and what becomes of them when the process forks."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # of the standard, of GNU's, of Intel's and LLVM's
_GNU = re.compile(r"/.*/libgomp[^/]*$")  # those of Intel and LLVM start anew in a child by themselves
_SOFT = 1  # omp_pause_soft

_threads_remain = False


def prepare_openmp() -> None:
    """Let idle threads sleep, and let a forked child compute.

    A thread that has finished its part of an operation waits for the others. By default it spins meanwhile, and takes
    the core away from them where another process needs one, too. The runtimes read the setting when they are loaded,
    so nothing is set once torch is there, nor where the user has set one of ``_SETTINGS``.

    A child has only the thread that forked. GNU's runtime does not know and would wait for the others for ever.
    """
    if "torch" not in sys.modules and not any(setting in os.environ for setting in _SETTINGS):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_end_threads, after_in_child=_use_one_thread)


def _end_threads() -> None:
    """End the threads that wait for work from the one that forks; parent and child start new ones when they compute."""
    global _threads_remain
    _threads_remain = bool([runtime for runtime in _gnu_runtimes() if not _ended(runtime)])


def _gnu_runtimes() -> set[str]:
    """Paths of the runtimes that are loaded: torch and FAISS each bring their own."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # macOS, where torch and FAISS come with LLVM's
        return set()
    return {found.group() for line in maps.splitlines() if (found := _GNU.search(line))}


def _ended(runtime: str) -> bool:
    import ctypes

    try:
        library = ctypes.CDLL(runtime, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        return bool(library.omp_pause_resource_all(_SOFT) == 0)
    except (OSError, AttributeError):  # its file was replaced meanwhile; it is older than GCC 9
        return False


def _use_one_thread() -> None:
    """Compute in the child's only thread, where the parent's could not be ended."""
    if not _threads_remain:
        return
    for name, setter in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        if name in sys.modules:
            getattr(sys.modules[name], setter)(1)
