"""Problems that prevent a merge of two checkpoints, from their headers and configurations alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.places import layer_of
from pyterrier_merge.merging.settings import Setting


def find_problems(
    source: Checkpoint, domain: Checkpoint, merged: Sequence[str], settings: Iterable[Setting]
) -> tuple[str, ...]:
    """Return a description of every problem: what was found in which model, and what to do.

    Args:
        source: The retrieval model.
        domain: The domain model.
        merged: Canonical names of the tensors that a merge blends.
        settings: Both configurations, compared.
    """
    return (
        *(
            f"{setting.name}: {setting.source!r} in {source.folder}, {setting.domain!r} in {domain.folder}; "
            f"{setting.mend}"
            for setting in settings
            if setting.mend
        ),
        *_tensor_problems(merged, source, domain),
    )


def _tensor_problems(names: Sequence[str], source: Checkpoint, domain: Checkpoint) -> list[str]:
    if source.num_layers != domain.num_layers:
        return [
            f"layers: {source.num_layers} in {source.folder}, {domain.num_layers} in {domain.folder}; choose a domain "
            "model of the source's depth"
        ]
    problems = []
    missing = [name for name in names if name not in domain.body]
    if missing:
        problems.append(
            f"{domain.folder} lacks {len(missing)} tensors of the source's layers, such as {missing[0]!r}; choose a "
            "domain model of the source's architecture"
        )
    unequal = [name for name in names if name in domain.body and domain.body[name].shape != source.body[name].shape]
    if unequal:
        name = unequal[0]
        problems.append(
            f"{len(unequal)} tensors have another shape, such as {name!r}: {source.body[name].shape} in "
            f"{source.folder}, {domain.body[name].shape} in {domain.folder}; choose a domain model of the source's size"
        )
    extra = [name for name in domain.body if name not in source.body and layer_of(name) is not None]
    if extra:
        problems.append(
            f"{domain.folder} has {len(extra)} tensors in its layers that the source has no place for, such as "
            f"{extra[0]!r}: without them its layers compute something else; choose a domain model without them (an "
            "adapter that was saved inside its model: merge it into the weights first)"
        )
    return problems
