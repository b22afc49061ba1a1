"""Settings for OpenMP, which torch and FAISS use: how its threads wait, and how it survives a fork."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # standard, GNU, Intel and LLVM
_GNU = re.compile(r"/.*/libgomp[^/]*$")  # Intel's and LLVM's runtimes restart in a child by themselves
_SOFT = 1  # omp_pause_soft

_threads_remain = False


def prepare_openmp() -> None:
    """Let idle threads sleep, and let a forked child compute.

    A thread that has finished its part of an operation waits for the others. By default it spins while waiting, and
    takes a core from them if another process needs one too. The runtimes read the setting when they are loaded, so
    nothing is set once torch is loaded, nor if the user has set one of ``_SETTINGS``.

    A child has only the thread that forked. GNU's runtime does not detect this and would wait for the others forever.
    """
    if "torch" not in sys.modules and not any(setting in os.environ for setting in _SETTINGS):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_end_threads, after_in_child=_use_one_thread)


def _end_threads() -> None:
    """End the threads that wait for work from the forking thread; parent and child start new ones when they compute."""
    global _threads_remain
    _threads_remain = bool([runtime for runtime in _gnu_runtimes() if not _ended(runtime)])


def _gnu_runtimes() -> set[str]:
    """Paths of the loaded runtimes: torch and FAISS each have their own."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # macOS, where torch and FAISS use LLVM's runtime
        return set()
    return {found.group() for line in maps.splitlines() if (found := _GNU.search(line))}


def _ended(runtime: str) -> bool:
    import ctypes

    try:
        library = ctypes.CDLL(runtime, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        return bool(library.omp_pause_resource_all(_SOFT) == 0)
    except (OSError, AttributeError):  # its file was replaced, or it is older than GCC 9
        return False


def _use_one_thread() -> None:
    """Compute in the child's only thread, if the parent's threads could not be ended."""
    if not _threads_remain:
        return
    for name, setter in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        if name in sys.modules:
            getattr(sys.modules[name], setter)(1)
