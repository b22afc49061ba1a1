"""LoRA adapters of live models: configuration, adapted modules and files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyterrier_merge.encoding.saving.tokenizer import save_tokenizer
from pyterrier_merge.merging.places import layer_of
from pyterrier_merge.models import quiet_loading
from pyterrier_merge.storage import write_file

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from pyterrier_merge.encoding.contract import RetrieverContract


def lora_config(
    body: Any, name: str, *, rank: int, alpha: int, dropout: float, targets: Sequence[str] | None = None
) -> Any:
    """Return peft's configuration of an adapter.

    Args:
        body: The live transformer.
        name: Name of the model, for messages.
        rank: Rank of the adapter's matrices.
        alpha: The adapter's output is scaled by ``alpha / rank``.
        dropout: Dropout of the adapter's input.
        targets: Names of the modules to adapt; all linear modules of the layers when None.

    Raises:
        ValueError: The model does not have these modules.
    """
    from peft import LoraConfig

    linear = [module for module, kind in body.named_modules() if isinstance(kind, torch.nn.Linear)]
    names = list(targets) if targets is not None else linear_modules(linear)
    if unknown := [one for one in names if not any(f".{module}".endswith(f".{one}") for module in linear)]:
        known = sorted({module.rpartition(".")[2] for module in linear})
        raise ValueError(f"target_modules: {name} has no linear module {unknown[0]!r}; it has {', '.join(known)}")
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)


def linear_modules(linear: Sequence[str]) -> list[str]:
    """Return the shortest name suffixes that match only linear modules in the layers, and together all of them.

    ``q_proj`` is enough for Mistral. BERT needs ``output.dense``, because its pooler is also named ``dense``.

    Args:
        linear: Names of all linear modules of a transformer.

    Raises:
        ValueError: No linear module is in a numbered layer.
    """
    inner = {name for name in linear if layer_of(f"{name}.weight") is not None}
    if not inner:
        raise ValueError("the model has no linear modules in numbered layers: set target_modules")
    found = set()
    for name in inner:
        parts = name.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        found.add(next(end for end in ends if {one for one in linear if f".{one}".endswith(f".{end}")} <= inner))
    return sorted(found)


def add_adapter(model: SentenceTransformer, config: Any) -> None:
    """Add a new adapter to a live retrieval model. Only the adapter's weights require gradients; they are float32."""
    from peft.tuners.tuners_utils import cast_adapter_dtype

    body: Any = model.transformers_model
    model.requires_grad_(False)
    model.add_adapter(config)
    cast_adapter_dtype(body, "default", True)


def save_adapter(model: SentenceTransformer, folder: Path, name: str, contract: RetrieverContract) -> None:
    """Write the adapter and the files that sentence-transformers needs to load it, without weights of the base.

    Args:
        model: Live model with the adapter.
        folder: Output folder.
        name: Name of the base in the adapter's configuration.
        contract: Prompts, maximum length and appended tokens of the training texts.
    """
    body: Any = model.transformers_model
    body.peft_config["default"].base_model_name_or_path = name
    with quiet_loading(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # peft tries to find the base by its name
        model.prompts = {"query": contract.query_prompt, "document": contract.document_prompt}
        model.max_seq_length = contract.max_length
        model.save_pretrained(str(folder), create_model_card=False)
    if contract.appended and not contract.prepended and model.tokenizer.is_fast:
        save_tokenizer(model.tokenizer, folder, appended=contract.appended)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["target_modules"].sort()  # a set differs in order between processes; equal adapters must give equal files
    write_file(file, json.dumps(config, indent=2))
