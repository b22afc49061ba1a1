"""Saves a merged retriever as a folder for sentence-transformers and other readers of its format."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.encoding.contract import RetrieverContract
from pyterrier_merge.encoding.loading import load_retriever
from pyterrier_merge.encoding.saving.model_card import Parent, model_card, read_parents, versions
from pyterrier_merge.encoding.saving.modules import save_modules
from pyterrier_merge.encoding.saving.tokenizer import save_tokenizer
from pyterrier_merge.mergekit_yaml import recipe_yaml
from pyterrier_merge.merging.identity import merge_fingerprint
from pyterrier_merge.merging.writing import MergedWeights, WrittenTensor, by_layer, by_segment
from pyterrier_merge.models import (
    PACKAGE_SCHEME,
    count_layers,
    locate_model,
    places,
    training_reports,
    transformer_folder,
)
from pyterrier_merge.models.files import MERGE, PROVENANCE
from pyterrier_merge.precision import DTYPES
from pyterrier_merge.recipe import MergeRecipe
from pyterrier_merge.storage import finished_folder, is_foreign, refuse_existing, require_room, user_path, write_file

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

WEIGHT_PATTERNS = (
    "*.safetensors",
    "*.bin",
    "*.index.json",
    "*.pt",
    "*.pth",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.gguf",
)
_SPARE_BYTES = 16 * 10**6  # for the model card, the records and the tokenizer
_LENGTH_FILE = "sentence_bert_config.json"


def save_merge(
    recipe: MergeRecipe,
    folder: str | Path,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    overwrite: bool = False,
    title: str | None = None,
    verbose: bool | None = None,
    **contract: Any,
) -> Path:
    """Write a new copy of the source's folder, with merged weights.

    Weights have the source's own names and are in safetensors, in shards of 1 GB. Configuration and tokenizer are the
    source's; modules too, unless the encoder pools or normalises differently or the source is a plain checkpoint.
    Prompts and length are the encoder's. The tokenizer adds the tokens that the encoder adds around a text.
    The folder also has ``merge.json`` (the recipe, its models by content, distances), ``mergekit_config.yml`` and a
    model card. If writing fails, no folder is left.

    Memory holds a shard at a time, and no live model.

    Args:
        recipe: The merge.
        folder: The new folder.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: the source's stored type. Computed in float32 and
            rounded once.
        device: The device for computing. Methods that drop weights at random draw other numbers on a GPU than on a
            CPU.
        overwrite: Replace an existing model folder.
        title: The model's name in the model card; the folder's name when None.
        verbose: Show a progress bar; in terminals and notebooks when None.
        contract: ``task``, ``query_prompt``, ``document_prompt``, ``max_length``, ``pooling``, ``normalize`` of an
            encoder.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder exists and ``overwrite`` is false, or it holds no model.
        ValueError: An unknown dtype, the current folder, a folder that contains a parent, models or a recipe that
            cannot be merged, weights that the dtype cannot hold.
        OSError: The disk has no room, or a file could not be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    folder = user_path(folder)
    source = locate_model(recipe.source)
    _require_place(folder, recipe, overwrite=overwrite)
    model, agreed = load_retriever(source, recipe.source, device="meta", **contract)
    weights = MergedWeights(recipe, dtype=dtype, device=device)
    files = list(_other_files(source, [source / part for part in weights.folders]))
    needed = weights.num_bytes + sum(file.stat().st_size for file in files) + _SPARE_BYTES
    require_room(folder, needed, "the merged model", mend="choose another folder, or save in bfloat16")
    parents = read_parents(recipe)
    training = [_short(report) for model in recipe.models for report in training_reports(model)]
    with finished_folder(folder, overwrite=overwrite) as beside:
        body = beside / transformer_folder(source).relative_to(source)
        for file in files:
            place = beside / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        _write_dtype(body / "config.json", weights.dtype)
        if agreed.added:
            save_tokenizer(_beginning_with(model.tokenizer, agreed.prepended), body, appended=agreed.appended)
        if not (source / "modules.json").is_file() or {contract.get("pooling"), contract.get("normalize")} != {None}:
            save_modules(model, beside)
        _write_contract(beside, body, agreed)
        written = weights.write(beside, verbose=verbose)
        record = {"training": training, **_record(recipe, parents, agreed, weights.dtype, written)}
        write_file(beside / MERGE, json.dumps(record, indent=2, ensure_ascii=False))
        _require_same(model, agreed, beside, str(folder))
        write_file(beside / "mergekit_config.yml", _yaml(recipe, count_layers(body)))
        write_file(beside / "README.md", model_card(title or folder.resolve().name, recipe, parents, record))
    return folder


def _require_place(folder: Path, recipe: MergeRecipe, *, overwrite: bool) -> None:
    if str(folder).startswith(PACKAGE_SCHEME):
        raise ValueError(f"{str(folder)!r} names a model that a package ships: give a folder to write to")
    place = folder.resolve()
    for name in recipe.models:
        for parent in (path.resolve() for path in (locate_model(name), *places(name))):
            if parent == place or parent in place.parents or place in parent.parents:
                raise ValueError(
                    f"{folder} is, lies in, or holds the folder of the parent {name!r} ({parent}): choose another"
                )
    refuse_existing(folder, overwrite=overwrite)
    if is_foreign(folder, "modules.json"):
        raise FileExistsError(f"{folder} is not a retrieval model's folder (no modules.json) and is not overwritten")


def _other_files(source: Path, rewritten: Sequence[Path]) -> Iterator[Path]:
    """Every file of the model except its card, its records, and weights in folders whose weights are written again.

    Folders without a module (``onnx``, checkpoints of a training) hold the source's weights in other formats.
    """
    listed = source / "modules.json"
    modules = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []
    for folder in sorted({source, *(source / module["path"] for module in modules)}):
        for file in sorted(folder.iterdir() if folder == source else folder.rglob("*")):
            weights = folder in (source, *rewritten) and any(file.match(pattern) for pattern in WEIGHT_PATTERNS)
            card = file == source / "README.md" or file.name.startswith(".")
            if file.is_file() and not weights and not card and file.name not in PROVENANCE:
                yield file


def _beginning_with(tokenizer: Any, ids: Sequence[int]) -> Any:
    """A copy of the tokenizer that prepends tokens to every text; the given one is not changed."""
    if not ids or not tokenizer.is_fast:
        return tokenizer
    from tokenizers import processors

    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    start = processors.TemplateProcessing(
        single=[*tokens, "$A"], pair=[*tokens, "$A", "$B:1"], special_tokens=list(zip(tokens, ids, strict=True))
    )
    changed = copy.deepcopy(tokenizer)
    own = changed.backend_tokenizer.post_processor
    changed.backend_tokenizer.post_processor = start if own is None else processors.Sequence([own, start])
    return changed


def _write_dtype(config: Path, dtype: str) -> None:
    content = json.loads(config.read_text(encoding="utf-8"))
    keys = [key for key in ("dtype", "torch_dtype") if key in content] or ["torch_dtype"]
    content.update(dict.fromkeys(keys, dtype))
    write_file(config, json.dumps(content, indent=2, ensure_ascii=False))


def _write_contract(folder: Path, body: Path, contract: RetrieverContract) -> None:
    file = folder / "config_sentence_transformers.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    prompts = {"query": contract.query_prompt, "document": contract.document_prompt}
    content["prompts"] = {**content.get("prompts", {}), **prompts}
    write_file(file, json.dumps(content, indent=2, ensure_ascii=False))
    file = next(iter(sorted(body.glob("sentence_*_config.json"))), body / _LENGTH_FILE)
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    content["max_seq_length"] = contract.max_length
    content.setdefault("do_lower_case", False)  # vLLM reads the length if both are set
    write_file(file, json.dumps(content, indent=2, ensure_ascii=False))


def _require_same(model: SentenceTransformer, agreed: RetrieverContract, folder: Path, name: str) -> None:
    """Raise ``RuntimeError`` if the saved model would read texts or compute vectors differently from the encoder."""
    query, document = agreed.query_prompt, agreed.document_prompt
    saved, kept = load_retriever(folder, name, device="meta")
    for text in ("text", "text " * agreed.max_length):
        for prompt in (query, document):
            cut = model.tokenizer(prompt + text, truncation=True, max_length=agreed.max_length - agreed.added)
            expected = [*agreed.prepended, *cut["input_ids"], *agreed.appended]
            found = saved.tokenizer(prompt + text, truncation=True, max_length=saved.max_seq_length)["input_ids"]
            if found != expected:
                start, end = saved.tokenizer.decode(found[:3]), saved.tokenizer.decode(found[-3:])
                raise RuntimeError(
                    "the saved tokenizer reads a text differently from the encoder; "
                    f"it begins with {start!r} and ends with {end!r}"
                )
    if (saved.prompts.get("query"), saved.prompts.get("document")) != (query, document):
        raise RuntimeError(f"the saved prompts read {saved.prompts}, expected {query!r} and {document!r}")
    if kept != replace(agreed, prepended=(), appended=()):
        raise RuntimeError(f"the saved model is {kept}, expected {agreed}")


def _record(
    recipe: MergeRecipe,
    parents: list[Parent],
    contract: RetrieverContract,
    dtype: str,
    written: tuple[WrittenTensor, ...],
) -> dict[str, Any]:
    return {
        "recipe": asdict(recipe, dict_factory=_with_parts_where_any),
        "fingerprint": merge_fingerprint(recipe),
        "parents": [asdict(parent) for parent in parents],
        "contract": asdict(contract),
        "dtype": dtype,
        "versions": versions(),
        "segments": [asdict(place) for place in by_segment(written)],
        "layers": [asdict(place) for place in by_layer(written)],
        "tensors": [asdict(tensor.merge, dict_factory=_with_parts_where_any) for tensor in written],
    }


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """The facts about a parent's training that a choice on known items needs."""
    settings = {name: value for name, value in report.get("settings", {}).items() if name == "query"}
    return {"settings": settings, **{name: report[name] for name in ("objective", "items") if name in report}}


def _with_parts_where_any(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """A record without the fields that only merges of parts of layers use."""
    return {name: value for name, value in fields if name not in ("part", "parts") or value}


def _yaml(recipe: MergeRecipe, num_layers: int) -> str:
    try:
        return recipe_yaml(recipe, num_layers)
    except ValueError as error:
        reason = " ".join(str(error).split())
        return f"# mergekit's YAML cannot express this merge: {reason}\n# {MERGE} has the recipe.\n"
