"""The files of a base with an adapter: a folder with merged weights, or one to load the base from before merging."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models.adapter_weights import merge_adapter
from pyterrier_merge.models.added_tokens import copy_tokenizer
from pyterrier_merge.models.conversion import kept_model
from pyterrier_merge.models.files import defining_files, fingerprint_model, transformer_folder, weight_files
from pyterrier_merge.models.live import quiet_loading
from pyterrier_merge.models.weights import require_unquantised, stored_tensors, writing_weights

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_PROCEDURE = 5  # part of every fingerprint: increase it if the same files would give another model


def fingerprint_adapted(base: Path, adapter: Path) -> str:
    """Return the fingerprint of a base with an adapter, from the content of both."""
    return fingerprint(["adapter", _PROCEDURE, fingerprint_model(base), fingerprint_model(adapter)])


def with_adapter(base: Path, adapter: Path, *, base_name: str) -> Path:
    """Return a cached folder with the base's files and its weights with the adapter merged in (by peft).

    A merge of models reads its parents from files and needs such a folder; an encoder does not, see
    :func:`adapted_files`. The folder holds the transformer's body in the base's stored type. A head, which merges of
    models do not use, and the adapter's changes of it are left out. Its other files are those of
    :func:`adapted_files`.

    Args:
        base: Folder of the base.
        adapter: Folder of the adapter.
        base_name: The user's name for the base.

    Raises:
        ValueError: As :func:`merge_adapter`; or the base is quantised, or lacks weights.
        OSError: The disk has no room for the result, or a file could not be written; the partial result is deleted.
    """

    def size() -> int:
        files = {stored.file for stored in stored_tensors(transformer_folder(base)).values()}
        files.update(transformer_folder(adapter).glob("adapter_model.*"))  # may hold embeddings of added tokens
        return sum(file.stat().st_size for file in files)

    def write(building: Path) -> None:
        target = _copy_files(base, adapter, building)
        body, unsaved = _load_body(transformer_folder(base))
        merge_adapter(body, base, adapter, tokenizer=target)
        weights = {name: tensor for name, tensor in body.state_dict().items() if name not in unsaved}
        with quiet_loading(), writing_weights(target):
            body.save_pretrained(target, state_dict=weights)

    return kept_model(
        fingerprint_adapted(base, adapter), write, size=size, what=f"{base_name} with the adapter {adapter}"
    )


@contextmanager
def adapted_files(base: Path, adapter: Path) -> Iterator[Path]:
    """Yield a temporary folder that loads the base with the adapter's settings; weights are links.

    An adapter that sentence-transformers saved as a retriever (it has ``modules.json``) keeps its own pooling, prompts,
    length, dense modules and tokenizer. Any other adapter (from peft, Tevatron) gets the base's files. A tokenizer in
    the adapter's folder is the one that it was trained with, and replaces the base's. The weights are still the base's:
    call :func:`~.adapter_weights.merge_adapter` after loading.
    """
    with TemporaryDirectory(prefix="adapted-") as temporary:
        target = _copy_files(base, adapter, Path(temporary))
        for file in weight_files(transformer_folder(base)):
            (target / file.name).symlink_to(file.absolute())
        yield Path(temporary)


def _copy_files(base: Path, adapter: Path, building: Path) -> Path:
    """Copy everything but the transformer's weights; return the folder for the weights."""
    modules = adapter if (adapter / "modules.json").is_file() else base
    transformer = transformer_folder(modules)
    for file in defining_files(modules):
        own = file.parent in (modules, transformer)
        weights = file.suffix in (".safetensors", ".bin") or file.name.endswith(".index.json")
        foreign = not own and not (modules / "modules.json").is_file()
        if foreign or (own and weights) or file.name.startswith("adapter_"):
            continue
        copy = building / file.relative_to(modules)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    target = building / transformer.relative_to(modules)
    target.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(transformer_folder(base), transformer_folder(adapter), target)
    # an adapter's configuration may have more tokens
    shutil.copyfile(transformer_folder(base) / "config.json", target / "config.json")
    return target


def _load_body(base: Path) -> tuple[Any, set[str]]:
    """The live body of a base, and the names of its parameters that the files do not have (a pooler's)."""
    from transformers import AutoModel

    require_unquantised(base)
    with quiet_loading():
        body, loading = AutoModel.from_pretrained(
            base, dtype=_stored_dtype(base), output_loading_info=True, trust_remote_code=False
        )
    missing = [name for name in loading["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise ValueError(f"{base} has no weights for {len(missing)} parameters of the model, such as {missing[0]!r}")
    return body, set(loading["missing_keys"])


def _stored_dtype(folder: Path) -> torch.dtype:
    import torch

    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found = {types[stored.dtype] for stored in stored_tensors(folder).values() if stored.dtype in types}
    return found.pop() if len(found) == 1 else torch.float32
