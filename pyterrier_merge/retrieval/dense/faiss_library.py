"""FAISS, imported when it is first needed."""

from __future__ import annotations

from types import ModuleType


def import_faiss() -> ModuleType:
    """Return the module.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "dense search needs faiss: pip install 'pyterrier-merge[cpu]', or 'pyterrier-merge[gpu]' with an NVIDIA GPU"
        ) from error
    return faiss
