"""A retriever with a LoRA adapter merged into its weights in memory; the disk holds only the source and the adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyterrier_merge.encoding.families import TASK, known_family
from pyterrier_merge.encoding.loading import load_retriever
from pyterrier_merge.encoding.self_test import TEXTS
from pyterrier_merge.encoding.tokens import tokenise
from pyterrier_merge.models.adapter_weights import merge_adapter
from pyterrier_merge.models.adapters import adapted_files
from pyterrier_merge.models.files import TRAINING, read_json, transformer_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sentence_transformers import SentenceTransformer

    from pyterrier_merge.encoding.contract import RetrieverContract


def load_adapted(
    source: Path, adapter: Path, name: str, *, device: str, **settings: Any
) -> tuple[SentenceTransformer, RetrieverContract]:
    """Load a retrieval model and merge an adapter into its weights.

    Args:
        source: Folder of the model.
        adapter: Folder of the adapter. If sentence-transformers saved it with ``modules.json``, pooling, prompts,
            length and other modules are the adapter's, else the source's.
        name: The user's name for the two, for messages and to recognise the family.
        device: A torch device.
        **settings: Arguments of :func:`~.loading.load_retriever`.

    Returns:
        The model, in the type that it was loaded in, and its contract.

    Raises:
        ValueError: As :func:`~pyterrier_merge.models.adapter_weights.merge_adapter` and ``load_retriever``; or the
            vectors are still the source's.
    """
    import torch

    from pyterrier_merge.encoding.forward_pass import ForwardPass

    settings |= _without_prompts(adapter, name, settings)
    with adapted_files(source, adapter) as folder:
        model, contract = load_retriever(folder, name, device=device, **settings)
        run = ForwardPass(model, device)
        body: Any = model.transformers_model
        for module in list(model)[1:]:
            module.float()
        ids, _ = tokenise(model.tokenizer, list(TEXTS[:2]), contract.document_prompt, contract)
        known = max(map(max, ids)) < len(body.get_input_embeddings().weight)  # the adapter may add tokens
        with torch.no_grad():
            before = [run([row]) for row in ids] if known else []  # one by one: the adapter may add the padding token
            moved = merge_adapter(body, source, adapter, tokenizer=transformer_folder(folder))
            after = [run([row]) for row in ids] if known else []
    if moved and known and all(map(torch.equal, before, after)):
        raise ValueError(
            f"{name}: the adapter changed weights and not the vectors of {TEXTS[:2]}: vectors use none "
            "of its modules, or its change is too small for the type of the source's weights (try dtype='float32')"
        )
    return model, contract


def _without_prompts(adapter: Path, name: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """The prompts that an adapter of this package was trained without, and that would else be those of the family."""
    file = adapter / "config_sentence_transformers.json"
    if not (adapter / TRAINING).is_file() or not file.is_file():
        return {}
    stated = read_json(file).get("prompts") or {}
    family = known_family(name)
    by_task = family is None or TASK in family.query_prompt
    given = {"query": ("query_prompt", "task") if by_task else ("query_prompt",), "document": ("document_prompt",)}
    empty = [kind for kind, names in given.items() if not stated.get(kind) and not any(map(settings.get, names))]
    return {f"{kind}_prompt": "" for kind in empty}
