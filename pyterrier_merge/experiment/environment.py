"""The environment of a measurement: versions, processor, device."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "pyterrier-merge", "pyterrier", "pyterrier-dr", "pyterrier-pisa", "mergekit", "sentence-transformers",
    "transformers", "tokenizers", "torch", "faiss-cpu", "faiss-gpu", "ir-measures", "ir-datasets", "numpy", "pandas",
    "scipy", "statsmodels",
)  # fmt: skip
MATRIX_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16")


def environment() -> dict[str, Any]:
    """Return versions of the packages that figures depend on, the processor with its matrix instructions, and GPUs."""
    import torch

    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "processor": _cpu_field("model name") or platform.processor() or platform.machine(),
        "matrix_instructions": [flag for flag in MATRIX_FLAGS if flag in (_cpu_field("flags") or "").split()],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_field(field: str) -> str | None:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return None
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == field), None)
