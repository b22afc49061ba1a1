"""Can two checkpoints be merged? What agrees, what does not, and what keeps a merge from happening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyterrier_merge.merging.checkpoint import Checkpoint, is_final_norm, layer_of

_SAME_SETTINGS = (
    "model_type",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "hidden_act",
)
_NOTED_SETTINGS = (
    "vocab_size",
    "rope_theta",
    "rms_norm_eps",
    "layer_norm_eps",
    "sliding_window",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class Compatibility:
    """The verdict on a pair of checkpoints.

    Attributes:
        merged: Canonical names of the tensors that a merge blends: those of the layers and the final norm.
        kept: Names that stay the source's: embeddings, heads of the retriever, whatever lies outside the layers.
        problems: Why the pair cannot be merged; empty where it can.
        notes: Differences that a merge survives, in words.
    """

    merged: tuple[str, ...]
    kept: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def require(self) -> None:
        """Raise ``ValueError`` with every problem where there is one."""
        if self.problems:
            raise ValueError(
                "these models cannot be merged:\n" + "\n".join(f"- {problem}" for problem in self.problems)
            )


def check_compatible(source: Checkpoint, domain: Checkpoint) -> Compatibility:
    """Compare two checkpoints by their configurations and headers; no weights are read.

    The domain model must have every tensor of the source's layers and final norm, in the same shape. Vocabularies may
    differ: token embeddings are the source's in any case.
    """
    merged = tuple(name for name in source.body if layer_of(name) is not None or is_final_norm(name))
    kept = tuple(name for name in source.body if name not in set(merged))
    problems = [
        f"{setting}: {source.config.get(setting)!r} in {source.folder}, "
        f"{domain.config.get(setting)!r} in {domain.folder}"
        for setting in _SAME_SETTINGS
        if setting in source.config and setting in domain.config and source.config[setting] != domain.config[setting]
    ]
    if source.num_layers != domain.num_layers:
        problems.append(f"layers: {source.num_layers} in {source.folder}, {domain.num_layers} in {domain.folder}")
    else:
        problems.extend(_tensor_problems(merged, source, domain))
    used, other = _noted(source), _noted(domain)
    notes = [
        f"{setting} differs: {used[setting]!r} (source, used), {other[setting]!r} (domain)"
        for setting in used.keys() & other.keys()
        if used[setting] != other[setting]
    ]
    if domain.heads:
        notes.append(f"left out: {len(domain.heads)} tensors of the domain model's head, such as {domain.heads[0]}")
    return Compatibility(merged, kept, tuple(problems), tuple(notes))


def _noted(checkpoint: Checkpoint) -> dict[str, Any]:
    config = {
        **checkpoint.config,
        **(checkpoint.config.get("rope_parameters") or {}),
    }  # so written since transformers 5
    return {setting: config[setting] for setting in _NOTED_SETTINGS if setting in config}


def _tensor_problems(names: tuple[str, ...], source: Checkpoint, domain: Checkpoint) -> list[str]:
    missing = [name for name in names if name not in domain.body]
    unequal = [name for name in names if name in domain.body and domain.body[name].shape != source.body[name].shape]
    problems = []
    if missing:
        problems.append(f"{domain.folder} lacks {len(missing)} tensors of the source's layers, such as {missing[0]!r}")
    if unequal:
        name = unequal[0]
        problems.append(
            f"{len(unequal)} tensors have another shape, such as {name!r}: {source.body[name].shape} in "
            f"{source.folder}, {domain.body[name].shape} in {domain.folder}"
        )
    return problems
