"""From a model's folder to a live sentence-transformers model and its contract."""

from __future__ import annotations

import logging
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.encoding.contract import RetrieverContract, normalizes, require_pooling
from pyterrier_merge.encoding.families import known_family
from pyterrier_merge.models import quiet_loading, transformer_folder
from pyterrier_merge.models.files import read_json
from pyterrier_merge.models.weights import stored_tensors

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_OF_TEXTS = ("query_length", "document_length", "query_expansion", "processing_kwargs")
_BLIND = {"CNN", "LSTM"}  # sentence-transformers modules that make a vector depend on its batch


def load_retriever(
    folder: Path,
    name: str,
    *,
    device: str,
    dtype: torch.dtype | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    **contract: Any,
) -> tuple[SentenceTransformer, RetrieverContract]:
    """Load a retrieval model.

    Its modules are those of its sentence-transformers files. A plain transformers checkpoint, such as a causal language
    model, has no such files: its body is used without its head, and pooling and normalisation are the caller's, or
    those that the model's family was trained with.

    Args:
        folder: The folder of the files.
        name: The user's name for the model, for messages and to recognise its family.
        device: A torch device; ``meta`` for a model without weights.
        dtype: The type that the transformer will compute in. If it is float32, the model is loaded in it, so that
            numbers computed from its configuration are float32 too; otherwise it is loaded in its stored type.
        pooling: One of ``POOLING_MODES``, instead of the model's own.
        normalize: Whether vectors are normalised to length 1, instead of the model's own setting.
        **contract: Arguments of :meth:`RetrieverContract.read`.

    Returns:
        The model, in evaluation mode, and its contract.

    Raises:
        ValueError: An unknown pooling; a plain checkpoint without a known pooling, or with incomplete weights; modules
            that do not begin with a transformer, or whose pooling cannot be replaced.
    """
    require_pooling(pooling)
    _require_readable(transformer_folder(folder))
    with quiet_loading():
        if (folder / "modules.json").is_file():
            model = _with_modules(folder, name, device, _placed(device, dtype), pooling, normalize)
        else:
            model = _from_plain_checkpoint(folder, name, device, _placed(device, dtype), pooling, normalize)
    return model.eval(), RetrieverContract.read(model, name, folder=folder, **contract)


def _placed(device: str, dtype: torch.dtype | None) -> dict[str, Any]:
    """Settings for loading with transformers."""
    placed: dict[str, Any] = {"device_map": "meta"} if device == "meta" else {}
    if str(dtype) == "torch.float32":  # another type would also round dense modules
        placed["dtype"] = dtype
    return placed


def _with_modules(
    folder: Path, name: str, device: str, placed: dict[str, Any], pooling: str | None, normalize: bool | None
) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    if pooling is None:
        _require_one_vector(folder)
    model = SentenceTransformer(str(folder), model_kwargs=placed, device=None if device == "meta" else device)
    if getattr(model, "transformers_model", None) is None:
        raise ValueError(
            f"{folder} does not begin with a transformer (found {type(model[0]).__name__}): nothing to merge or to run"
        )
    if found := _BLIND & {type(module).__name__ for module in model}:
        raise ValueError(f"{folder} has a module that does not heed padding ({', '.join(found)}): not supported")
    _require_plain_texts(model, folder)
    _require_token_vectors(model[0], folder)
    _require_whole(transformer_folder(folder), model.transformers_model)
    if pooling is not None:
        _pool_otherwise(model, name, pooling)
    if normalize is None:
        if not normalizes(model) and _compared_by_cosine(folder, name):
            logger.warning(
                "%s is made for cosine similarity and does not normalise its vectors: inner products rank differently; "
                "pass normalize=True, or False to keep them as they are",
                name,
            )
    elif normalize != normalizes(model):
        logger.info("%s: normalize=%s, other than its files say", name, normalize)
        _normalize(model, normalize)
    return model


def _from_plain_checkpoint(
    folder: Path, name: str, device: str, placed: dict[str, Any], pooling: str | None, normalize: bool | None
) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    family = known_family(name, folder)
    if pooling is None and family is not None:
        _require_no_classifier(folder)
        pooling = family.pooling
    if pooling is None:
        raise ValueError(
            f"{name!r} is not a retrieval model: {folder} has no modules.json, so its pooling is unknown; give a model "
            "that sentence-transformers saved, or say how its token vectors become one, such as pooling='mean' (a "
            "plain language model goes in as the domain model)"
        )
    transformer = Transformer(str(folder), model_kwargs=placed)
    _require_token_vectors(transformer, folder)
    _require_whole(folder, transformer.model)
    if family is not None and family.max_length is not None:
        transformer.max_seq_length = min(family.max_length, transformer.max_seq_length or family.max_length)
    dim = transformer.get_embedding_dimension()
    model = SentenceTransformer(modules=[transformer, Pooling(dim, pooling_mode=pooling)], device=device)
    own = family.normalize if family else True
    _normalize(model, own if normalize is None else normalize)
    logger.info("%s has no modules.json: %s pooling", name, pooling)
    return model


def _require_one_vector(folder: Path) -> None:
    """Reject other kinds of sentence-transformers models, whose modules a mean over the tokens would replace."""
    file = folder / "config_sentence_transformers.json"
    kind = read_json(file).get("model_type", "SentenceTransformer") if file.is_file() else "SentenceTransformer"
    if kind != "SentenceTransformer":
        raise ValueError(
            f"{folder} is a {kind}, and no model that gives a text one vector; say pooling='mean' or another to pool "
            "its transformer all the same"
        )


def _require_no_classifier(folder: Path) -> None:
    """Reject a re-ranker or classifier that was made from a retriever and recognised by the retriever's name."""
    for architecture in read_json(folder / "config.json").get("architectures") or []:
        if architecture.endswith(("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")):
            raise ValueError(
                f"{folder} is a {architecture}, and no retrieval model; say pooling='mean' or another to pool it all "
                "the same"
            )


def _pool_otherwise(model: SentenceTransformer, name: str, pooling: str) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    place = next((place for place, module in enumerate(model) if hasattr(module, "pooling_mode")), None)
    if place is None:
        raise ValueError(f"{name} has no pooling module, so that pooling={pooling!r} has nothing to replace")
    own: Any = model[place]
    if own.pooling_mode == pooling:
        return
    body: Any = model[0]
    made = Pooling(body.get_embedding_dimension(), pooling_mode=pooling)
    if made.get_embedding_dimension() != own.get_embedding_dimension():
        raise ValueError(
            f"{name} pools into {own.get_embedding_dimension()} values ({own.pooling_mode}), and pooling={pooling!r} "
            f"gives {made.get_embedding_dimension()}: its further modules do not fit"
        )
    logger.info("%s: %s pooling instead of its own, %s", name, pooling, own.pooling_mode)
    model[place] = made


def _normalize(model: SentenceTransformer, normalize: bool) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize

    if normalize:
        model.append(Normalize())
    elif normalizes(model):
        del model[-1]


def _compared_by_cosine(folder: Path, name: str) -> bool:
    file = folder / "config_sentence_transformers.json"
    stated = read_json(file).get("similarity_fn_name") if file.is_file() else None
    family = known_family(name, folder)
    return stated == "cosine" or (family is not None and family.normalize)


def _require_plain_texts(model: SentenceTransformer, folder: Path) -> None:
    """Reject a model whose files let sentence-transformers do more to a text than add a prompt."""
    first: Any = model[0]
    found = [setting for setting in _OF_TEXTS if getattr(first, setting, None)]
    if "message" in _stated(transformer_folder(folder)).get("modality_config", {}):
        found.append("a chat template (modality_config)")
    if found:
        raise ValueError(
            f"{folder}: sentence-transformers reads its texts with {', '.join(found)}, which is not supported: vectors "
            "would not be those that the model was trained for"
        )


def _require_token_vectors(first: Any, folder: Path) -> None:
    """Reject a transformer with another output (a pooler's), or with more input than ids and a mask."""
    if first.module_output_name != "token_embeddings":
        raise ValueError(
            f"the transformer of {folder} gives a {first.module_output_name}, and no vectors of tokens: not supported"
        )
    types = first.tokenizer("text").get("token_type_ids", [])
    if any(types) and "token_type_ids" in signature(first.model.forward).parameters:
        raise ValueError(f"the tokenizer of {folder} gives tokens of a text several types ({types}): not supported")


def _stated(transformer: Path) -> dict[str, Any]:
    """The settings that sentence-transformers wrote for a transformer."""
    return next(map(read_json, sorted(transformer.glob("sentence_*_config.json"))), {})


def _require_readable(folder: Path) -> None:
    """Reject damaged weight files, with their names."""
    stored_tensors(folder)
    for index in sorted(folder.glob("*.index.json")):
        if "metadata" not in read_json(index):
            raise ValueError(f"{index} has no 'metadata', which transformers asks for: fetch the checkpoint again")


def _require_whole(folder: Path, body: Any) -> None:
    """Reject a live transformer with missing weights: they would be random."""
    # its configuration may differ from the file's: T5Gemma's encoder alone
    _, info = type(body).from_pretrained(folder, config=body.config, device_map="meta", output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))  # not used for vectors
    if missing:
        raise ValueError(
            f"{folder} has no weights for {len(missing)} parameters of the model, such as {missing[0]!r}: they would "
            "be random; give a checkpoint that was saved from the retriever itself"
        )
