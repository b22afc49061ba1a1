"""Facts from a model's files, read without loading the model and without a request to the hub."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pyterrier_merge.models.files import projection_folders, read_config, read_json, transformer_folder
from pyterrier_merge.models.hub import offline
from pyterrier_merge.models.names import PACKAGE_SCHEME, places
from pyterrier_merge.models.weights import FLOATS, stored_tensors


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model before it is loaded; None if unknown.

    Attributes:
        where: Description of where its files are.
        loadable: Its files can be loaded as they are: nothing has to be downloaded, converted or merged.
        parameters: Number of weights in its files.
        stored_bytes: Size of these weights.
        dtype: The type of most of these weights, as safetensors writes it: ``F32``.
        dimension: Components of its vectors.
    """

    where: str
    loadable: bool = False
    parameters: int | None = None
    stored_bytes: int | None = None
    dtype: str | None = None
    dimension: int | None = None


def model_facts(name: str) -> ModelFacts:
    """Return the facts about a model of that name. For a model with an adapter, the numbers are those of its base.

    Raises:
        FileNotFoundError: No such folder or package, or it holds no weights.
        ValueError: The name or the files are damaged.
    """
    try:
        with offline():
            place, *adapters = places(name)
    except RuntimeError:
        return ModelFacts("to be downloaded from the hub")
    where = "GGUF file" if place.is_file() else "folder"
    if name.startswith(PACKAGE_SCHEME):
        where = "installed package"
    elif place.parent.name == "snapshots":
        where = f"the hub's cache, commit {place.name[:7]}"
    if place.is_file():
        return ModelFacts(where)
    where += ", with an adapter" if adapters else ""
    floats = [tensor for tensor in stored_tensors(transformer_folder(place)).values() if tensor.dtype in FLOATS]
    kinds: Counter[str] = Counter()
    for tensor in floats:
        kinds[tensor.dtype] += tensor.nbytes
    parameters = sum(size // FLOATS[kind] for kind, size in kinds.items())
    dtype = max(kinds, key=kinds.__getitem__, default=None)
    return ModelFacts(where, not adapters, parameters, kinds.total(), dtype, _dimension(place))


def _dimension(folder: Path) -> int | None:
    if dense := projection_folders(folder):
        found = read_json(dense[-1] / "config.json").get("out_features")
    else:
        config = read_config(transformer_folder(folder))
        found = config.get("hidden_size", config.get("text_config", {}).get("hidden_size"))
    return found if isinstance(found, int) else None
