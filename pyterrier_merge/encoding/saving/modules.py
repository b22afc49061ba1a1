"""Writes the modules of a retrieval model whose settings differ from its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.storage import write_file

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Keys that all versions of sentence-transformers, vLLM and text-embeddings-inference read; version 6 writes others.
_TYPE = "sentence_transformers.models."
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def save_modules(model: SentenceTransformer, folder: Path) -> None:
    """Write ``modules.json`` and the configurations of pooling and normalisation, as the live model has them.

    Modules that the files in ``folder`` list at the same place are kept, dense ones with their weights.

    Args:
        model: The live model, with or without weights.
        folder: Its new folder, with copies of the files it was loaded from.
    """
    file = folder / "modules.json"
    listed: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    modules = []
    for place, module in enumerate(model):
        kind = type(module).__name__
        own = listed[place] if place < len(listed) and listed[place]["type"].rpartition(".")[2] == kind else None
        path = "" if place == 0 else f"{place}_{kind}"
        modules.append(own or {"idx": place, "name": str(place), "path": path, "type": _TYPE + kind})
        part = folder / modules[-1]["path"]
        part.mkdir(exist_ok=True)
        if kind == "Pooling":
            write_file(part / "config.json", _pooling(module))
    for dropped in listed[len(modules) :]:
        shutil.rmtree(folder / dropped["path"], ignore_errors=True)
    write_file(file, json.dumps(modules, indent=2))


def _pooling(module: Any) -> str:
    modes = [module.pooling_mode] if isinstance(module.pooling_mode, str) else module.pooling_mode
    content: dict[str, Any] = {"word_embedding_dimension": module.embedding_dimension}
    content |= {key: mode in modes for mode, key in _POOLING_KEYS.items()}
    return json.dumps({**content, "include_prompt": True}, indent=2)
