"""A retrieval model over the collection's dense index: the source, a saved merge, any model of the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pyterrier_merge.systems.base import Bench, PlanningBench, Prepared, Step, index_step
from pyterrier_merge.systems.dense import dense, described
from pyterrier_merge.systems.settings import EncoderSettings

if TYPE_CHECKING:
    from pyterrier_merge.encoding.encoders import E5Encoder


class EncoderSystem(EncoderSettings):
    """An unchanged retrieval model; see :class:`pyterrier_merge.E5Encoder`.

    Attributes:
        model: A folder, ``package:NAME/FOLDER``, a hub id, ``ID@REVISION`` or ``BASE+ADAPTER``.
    """

    kind: Literal["encoder"] = "encoder"
    model: str

    def models(self) -> tuple[str, ...]:
        """Return the model."""
        return (self.model,)

    def plan(self, bench: PlanningBench) -> list[Step]:
        """Return the step that builds its index."""
        return [index_step(bench, self._encoder(bench))]

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Return the dense retriever; its index is built at the first query."""
        encoder = self._encoder(bench)
        note = f"{described(self.model)}, {encoder.contract.max_length} tokens, computed in {encoder.computed_in}."
        return [dense(encoder, bench, notes=(note,))]

    def _encoder(self, bench: Bench) -> E5Encoder:
        from pyterrier_merge.encoding.encoders import E5Encoder

        return E5Encoder(self.model, **self.encoder_settings(bench))
