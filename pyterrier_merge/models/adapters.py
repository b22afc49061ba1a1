"""LoRA adapters, merged into their base. The only importer of peft outside the training."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models.added_tokens import TokenRows, copy_tokenizer, place_embeddings, require_embedded
from pyterrier_merge.models.conversion import kept_model
from pyterrier_merge.models.files import defining_files, fingerprint_model, read_json, transformer_folder
from pyterrier_merge.models.live import quiet_loading
from pyterrier_merge.models.weights import TensorReader, header_of, require_unquantised, stored_tensors, writing_weights

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_ROOT = "base_model.model."  # what peft puts before the names of the model that it wraps
_HEADS = ("lm_head", "cls", "score", "classifier", "embed_out")
_PROCEDURE = 4  # part of every fingerprint: raise it when the same files would give another model


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter."""
    return (transformer_folder(folder) / _CONFIG).is_file()


def base_of(folder: Path) -> str:
    """Return the name of the base that an adapter's configuration names.

    Raises:
        ValueError: It names none.
    """
    config = _read_config(folder)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not base:
        raise ValueError(f"{folder / _CONFIG} names no base_model_name_or_path: say 'BASE+ADAPTER'")
    return f"{base}@{revision}" if revision and not Path(base).exists() else str(base)


def with_adapter(base: Path, adapter: Path, *, base_name: str) -> Path:
    """Return a cached folder with the base's files and its weights with the adapter merged in (by peft).

    The folder holds the transformer's body in the base's stored type. A head, which no merge of models takes, is left
    out, and so is what an adapter does to it. An adapter that is a retriever of sentence-transformers (it has
    ``modules.json``) stays the one that was trained: pooling, prompts, length, dense modules and tokenizer are its own,
    whatever the base has. Any other adapter gets the base's files. A tokenizer in the adapter's folder is the one that
    it was trained with, and replaces the base's; where that training added tokens, the body takes the embeddings that
    the adapter carries.

    Args:
        base: Folder of the base.
        adapter: Folder of the adapter.
        base_name: What the user called the base.

    Raises:
        ValueError: The adapter is no LoRA, is corrupt, does not fit the base, changes nothing, or has tokens without
            embeddings.
        OSError: The disk has no room for the result, or a file could not be written; nothing of the result stays.
    """
    _compare_names(base_name, str(_read_config(adapter).get("base_model_name_or_path")), adapter)
    identity = fingerprint(["adapter", _PROCEDURE, fingerprint_model(base), fingerprint_model(adapter)])

    def size() -> int:
        files = {stored.file for stored in stored_tensors(transformer_folder(base)).values()}
        files.update(transformer_folder(adapter).glob("adapter_model.*"))  # embeddings of added tokens are in there
        return sum(file.stat().st_size for file in files)

    def write(building: Path) -> None:
        modules = adapter if _has_modules(adapter) else base
        target = building / transformer_folder(modules).relative_to(modules)
        own, trained = transformer_folder(base), transformer_folder(adapter)
        _copy_files(modules, building)
        target.mkdir(parents=True, exist_ok=True)
        copy_tokenizer(own, trained, target)
        body, weights, rows = _merged(own, trained)
        require_embedded(target, own, trained, rows)
        with quiet_loading(), writing_weights(target):
            body.save_pretrained(target, state_dict=weights)

    return kept_model(identity, write, size=size, what=f"{base_name} with the adapter {adapter}")


def _read_config(folder: Path) -> dict[str, Any]:
    return read_json(transformer_folder(folder) / _CONFIG)


def _has_modules(folder: Path) -> bool:
    return (folder / "modules.json").is_file()


@cache
def _compare_names(given: str, trained_on: str, adapter: Path) -> None:
    names = {name.rstrip("/").lower() for name in (given, trained_on)}
    if len(names) == 2 and all(name.count("/") == 1 and not Path(name).exists() for name in (given, trained_on)):
        logger.warning("the adapter %s was trained on %s, and is merged into %s", adapter, trained_on, given)


def _copy_files(source: Path, target: Path) -> None:
    """Copy everything but weights of the transformer: configuration, tokenizer, the folders of further modules."""
    transformer = transformer_folder(source)
    for file in defining_files(source):
        own = file.parent in (source, transformer)
        weights = file.suffix in (".safetensors", ".bin") or file.name.endswith(".index.json")
        foreign = not own and not _has_modules(source)
        if foreign or (own and weights) or file.name.startswith("adapter_"):
            continue
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def _merged(base: Path, adapter: Path) -> tuple[Any, dict[str, torch.Tensor], TokenRows | None]:
    """The live body with the adapter in its weights, the weights to save, and the rows of its token embeddings."""
    import torch
    from peft import get_peft_model, set_peft_model_state_dict
    from transformers import AutoModel

    require_unquantised(base)
    config = _lora_config(adapter)
    tensors = _adapter_tensors(adapter)
    with quiet_loading():
        body, loading = AutoModel.from_pretrained(
            base, dtype=_stored_dtype(base), output_loading_info=True, trust_remote_code=False
        )
    missing = [name for name in loading["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise ValueError(f"{base} has no weights for {len(missing)} parameters of the model, such as {missing[0]!r}")
    trained = {_body_name(name, body, adapter): name.removeprefix(_ROOT) for name in tensors}
    tensors = {name: tensors[_ROOT + original] for name, original in trained.items()}
    heads = [name for name in tensors if name.partition(".")[0] in _HEADS]
    if heads:
        logger.info("%s: %d tensors of the head are left out, such as %s", adapter, len(heads), heads[0])
    tensors = {name: tensor for name, tensor in tensors.items() if name not in heads}
    rows = place_embeddings(body, tensors, config.trainable_token_indices, adapter)
    _require_place(tensors, body, base, adapter)
    if rows is None or not rows.changed:
        _require_change(tensors, body, adapter)
    _adapt_config(config, {name: trained[name] for name in tensors}, adapter)
    try:
        with torch.no_grad():
            wrapped = get_peft_model(body, config)
            placed: Any = set_peft_model_state_dict(wrapped, {_ROOT + name: tensor for name, tensor in tensors.items()})
            _require_all(placed)
            body = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"adapter {adapter} cannot be merged into {base}; is it another base's? {' '.join(str(error).split())}"
        ) from error
    unsaved = set(loading["missing_keys"])
    return body, {name: tensor for name, tensor in body.state_dict().items() if name not in unsaved}, rows


def _lora_config(adapter: Path) -> Any:
    """The adapter's configuration, as peft reads it; whatever cannot be merged is refused."""
    from peft import LoraConfig

    kind = _read_config(adapter).get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{adapter / _CONFIG}: peft_type is {kind!r}; LoRA adapters alone can be merged into weights")
    try:
        config = LoraConfig.from_pretrained(str(adapter))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{adapter / _CONFIG} is no configuration that peft reads: {error}") from error
    if config.layer_replication:
        raise ValueError(f"{adapter / _CONFIG}: layer_replication makes a model of another depth; it is not supported")
    return config


def _adapter_tensors(adapter: Path) -> dict[str, torch.Tensor]:
    file = next((adapter / name for name in _WEIGHTS if (adapter / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{adapter} holds an {_CONFIG} and no weights (expected {' or '.join(_WEIGHTS)})")
    reader = TensorReader()
    tensors = {name: reader.read(stored) for name, stored in header_of(file).items()}
    if not any(".lora_" in name for name in tensors):
        raise ValueError(f"{file} holds no LoRA tensors (names with 'lora_A' and 'lora_B')")
    return tensors


def _body_name(name: str, body: Any, adapter: Path) -> str:
    """The name of an adapter's tensor in the body, whether it was trained on the body or on a class with a head."""
    if not name.startswith(_ROOT):
        raise ValueError(f"tensor {name!r} of {adapter} has no name that peft gives (it would begin with {_ROOT!r})")
    return name.removeprefix(_ROOT).removeprefix(f"{body.base_model_prefix}.")


def _module_of(name: str) -> str:
    """The module that a LoRA tensor belongs to, or the parameter that any other tensor replaces."""
    return name.split(".lora_")[0]


def _require_place(names: Iterable[str], body: Any, base: Path, adapter: Path) -> None:
    """Raise ``ValueError`` where a tensor belongs to a module that the base has not; peft compares the shapes."""
    modules, parameters = dict(body.named_modules()), dict(body.named_parameters())
    for name in names:
        place = _module_of(name)
        if place not in (modules if ".lora_" in name else parameters):
            raise ValueError(
                f"tensor {name!r} of {adapter} finds no place: {base} has no {place!r}; the adapter is another base's"
            )


def _require_change(tensors: dict[str, torch.Tensor], body: Any, adapter: Path) -> None:
    """Raise ``ValueError`` where no tensor changes the body: a product of zeros, or a copy of the base's own."""
    parameters = dict(body.named_parameters())
    for name, tensor in tensors.items():
        if ".lora_" not in name:
            own = parameters[name]
            changes = own.shape != tensor.shape or not own.equal(tensor.to(own.dtype))
        else:  # peft begins with zeros in B, and in the A of embeddings
            partner = tensors.get(name.replace("lora_B", "lora_A").replace("lora_embedding_B", "lora_embedding_A"))
            is_up = ".lora_B" in name or ".lora_embedding_B" in name
            changes = is_up and bool(tensor.any()) and (partner is None or bool(partner.any()))
        if changes:
            return
    raise ValueError(
        f"{adapter} changes nothing in the model's body: the LoRA of each module there is zero, as before the first "
        "step of a training (what it does to a head goes into no merge)"
    )


def _require_all(placed: Any) -> None:
    """Raise ``ValueError`` where tensors found no place in the model that peft made, or got none."""
    if placed.unexpected_keys:
        raise ValueError(f"tensor {placed.unexpected_keys[0]!r} finds no place")
    lacking = [name for name in placed.missing_keys if "lora_" in name]
    if lacking:
        raise ValueError(f"{lacking[0]!r} is missing")


def _adapt_config(config: Any, trained: dict[str, str], adapter: Path) -> None:
    """Make a configuration one for the modules that the adapter has tensors for, by the body's names.

    Args:
        config: To be changed.
        trained: The body's name of each tensor -> the name that it was trained with.
        adapter: Folder of the adapter, for messages.
    """
    modules = {_module_of(name): _module_of(original) for name, original in trained.items() if ".lora_" in name}
    try:
        config.rank_pattern = _by_module(config.rank_pattern, modules)
        config.alpha_pattern = _by_module(config.alpha_pattern, modules)
    except (TypeError, re.error) as error:
        raise ValueError(f"{adapter / _CONFIG}: rank_pattern or alpha_pattern cannot be read: {error}") from error
    config.target_modules = sorted(modules)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    ends = tuple({name.rsplit(".", 2)[-2] for name in trained if ".lora_" not in name and "." in name})
    config.modules_to_save = [name for name in config.modules_to_save or [] if name.rpartition(".")[2] in ends] or None
    config.trainable_token_indices = None  # they are in the embeddings
    config.task_type = config.auto_mapping = None  # a class for a task expects a head
    config.inference_mode = True


def _by_module(patterns: dict[str, int] | None, modules: dict[str, str]) -> dict[str, int]:
    """What peft's patterns (regular expressions for the trained names) say of each module, by the body's names."""
    from peft.utils.other import get_pattern_key

    patterns = patterns or {}
    keys = {name: get_pattern_key(list(patterns), original) for name, original in modules.items()}
    return {f"^{re.escape(name)}": patterns[key] for name, key in keys.items() if key in patterns}


def _stored_dtype(folder: Path) -> torch.dtype:
    import torch

    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found = {types[stored.dtype] for stored in stored_tensors(folder).values() if stored.dtype in types}
    return found.pop() if len(found) == 1 else torch.float32
