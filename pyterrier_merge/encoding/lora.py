"""A retrieval model with a LoRA adapter, as a PyTerrier transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.models import ModelParts, locate_parts, short_name
from pyterrier_merge.signatures import takes_options_of


class LoRAE5Encoder(E5Encoder):
    """A retrieval model with a LoRA adapter (arXiv 2106.09685) merged into its weights, in memory.

    The source is loaded once and the adapter's low-rank products are added to its weights: a vector costs as much as a
    vector of the source, and no copy of the source is written. Reads adapters that peft, sentence-transformers,
    Tevatron or mergekit saved. An adapter that sentence-transformers saved with ``modules.json`` has its own pooling,
    prompts and length; with any other they are the source's. Vectors and fingerprint are those of
    ``E5Encoder("SOURCE+ADAPTER")``.

    Rejects an incomplete adapter, one that changes nothing, and one that this package trained on another source.
    """

    @takes_options_of(E5Encoder)
    def __init__(self, source: str | Path, adapter: str | Path, **settings: Any) -> None:
        """Describe the encoder; nothing is loaded yet.

        Args:
            source: The retrieval model that the adapter was trained on: a folder (also of a saved merge),
                ``package:NAME/FOLDER``, a hub id, ``ID@REVISION``, or ``BASE+ADAPTER`` for one adapter on another.
            adapter: A folder with ``adapter_config.json`` and the adapter's weights, or a hub id.
            **settings: Those of :class:`E5Encoder`, from ``task`` on. Settings left out are the source's own, or the
                adapter's. The adapter is merged in the type in which the source is stored; ``dtype="float32"`` merges
                in float32, where a small change to bfloat16 weights is not rounded away.

        Raises:
            ValueError: At the first text: a folder that does not hold an adapter, or an adapter that is incomplete,
                does not fit the source, was trained on another one, or does not change vectors.
        """
        super().__init__(source, **settings)
        self.adapter = adapter

    source = E5Encoder.model

    @property
    def adapter(self) -> str:
        """The name of the adapter, as it was given."""
        return self._adapter

    @adapter.setter
    def adapter(self, adapter: str | Path) -> None:
        self._adapter = str(adapter).rstrip("/") or "/"

    def _name(self) -> str:
        return f"{self.model}+{self.adapter}"

    def __str__(self) -> str:
        return f"LoRA({short_name(self.model)}+{short_name(self.adapter)})"

    def _parts(self) -> ModelParts:
        return locate_parts(self.model, self.adapter)

    def _identity(self) -> dict[str, Any]:
        return {"model": self.model, "adapter": self.adapter, **super()._identity()}
