"""The kinds of systems that an experiment compares, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.systems.base import Bench, Prepared, System

__all__ = ["KINDS", "Bench", "Prepared", "System", "read_system", "system_class", "system_of"]

# Kind -> its file and class. To add a kind, write the file and add a line here.
KINDS = {
    "bm25": ("bm25", "BM25System"),
    "encoder": ("encoder", "EncoderSystem"),
    "merged": ("merged", "MergedSystem"),
    "lora": ("lora", "LoRASystem"),
    "fusion": ("fusion", "FusionSystem"),
    "rerank": ("rerank", "RerankSystem"),
    "trec_run": ("trec_run", "TrecRunSystem"),
    "pipeline": ("pipeline", "PipelineSystem"),
}


def system_class(kind: str) -> type[System]:
    """Return the class of a kind.

    Raises:
        ValueError: There is no such kind; the message has the nearest name and all of them.
    """
    if not isinstance(kind, str) or kind not in KINDS:  # a file may have anything there
        raise ValueError(f"unknown kind {kind!r}: {did_you_mean(kind, KINDS, 'kinds are')}")
    file, name = KINDS[kind]
    found: type[System] = getattr(import_module(f"{__name__}.{file}"), name)
    return found


def read_system(section: Mapping[str, Any]) -> System:
    """Return the system that a section of an experiment's file describes: ``{"kind": KIND, ...}``.

    Raises:
        ValueError: It is not such a section, its kind is unknown, or a field is wrong; the message names the field.
    """
    try:
        return system_of(section)
    except ValidationError as error:
        from pyterrier_merge.systems.wrong_fields import described

        raise ValueError(described(error, system_class(section["kind"]), section)) from error


def system_of(section: Any) -> System:
    """Return the system of a section, for pydantic's validators.

    Raises:
        ValueError: It is not such a section, its kind is unknown, or (pydantic's ``ValidationError``) a field is wrong.
    """
    if isinstance(section, System):
        return section
    if not isinstance(section, Mapping) or "kind" not in section:
        raise ValueError(f"expected a section with 'kind' (one of {', '.join(KINDS)}), found {section!r}")
    return system_class(section["kind"]).model_validate(dict(section))
