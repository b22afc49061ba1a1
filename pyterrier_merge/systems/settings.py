"""The settings of encoders, as fields of a system's section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pyterrier_merge.encoding.contract import require_pooling
from pyterrier_merge.systems.base import Bench, System

Positive = Annotated[int, Field(ge=1)]


def _known_pooling(name: str) -> str:
    require_pooling(name)
    return name


class EncoderSettings(System):
    """Settings that every system with an encoder takes; see :class:`pyterrier_merge.E5Encoder`.

    Attributes:
        task: The instruction of models that follow one; the collection's when left out.
        query_prompt: Put before each query, instead of the model's own.
        document_prompt: Put before each document, instead of the model's own.
        max_length: Maximum number of tokens of a text; the model's own when left out.
        pooling: How token vectors become one (``mean``, ``cls``, ``lasttoken`` …); the model's own when left out.
        normalize: Whether vectors get length 1; the model's own setting when left out.
        dtype: The type that the transformer computes in.
        device: A torch device, or several that share the texts.
        batch_size: Texts of the maximum length in a batch.
    """

    task: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_length: Positive | None = None
    pooling: Annotated[str, AfterValidator(_known_pooling)] | None = None
    normalize: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | tuple[str, ...] | None = None
    batch_size: Positive | None = None

    def encoder_settings(self, bench: Bench) -> dict[str, Any]:
        """Return the keyword arguments of an encoder over the bench's collection."""
        own: dict[str, Any] = {name: getattr(self, name) for name in EncoderSettings.model_fields}
        return own | {"task": bench.collection.task if self.task is None else self.task}
