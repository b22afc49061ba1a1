"""The verdict on a pair of checkpoints, from the problems found and the distances measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyterrier_merge.merging.distances import Distance
from pyterrier_merge.merging.places import EMBEDDINGS

CAN, DOUBTFUL, CANNOT = "can be merged", "can be merged, with doubts", "cannot be merged"
# Measured on models of MiniLM's size: unrelated layers (of two random models, of a random and a trained model, layer i
# and layer j of a trained model) have cosines within 0.012 of 0; fine-tuned models of one origin are above 0.999.
# At 0.1, what was learnt since a common origin would outweigh that origin ten to one.
UNRELATED = 0.1


@dataclass(frozen=True)
class Verdict:
    """Whether a pair can be merged.

    Attributes:
        summary: ``can be merged``; the same ``, with doubts``; or ``cannot be merged``.
        reasons: What prevents a merge, or why it is doubtful, each with what to do.
    """

    summary: str
    reasons: tuple[str, ...]

    @property
    def mergeable(self) -> bool:
        """Whether the pair can be merged, with or without doubts."""
        return self.summary != CANNOT


def judge(problems: Sequence[str], distances: Sequence[Distance]) -> Verdict:
    """Judge a pair.

    Args:
        problems: What prevents a merge.
        distances: How far apart its weights are; empty if they were not compared.
    """
    if problems:
        return Verdict(CANNOT, tuple(problems))
    doubts = _doubts(distances) if distances else ()
    return Verdict(DOUBTFUL if doubts else CAN, doubts)


def _doubts(distances: Sequence[Distance]) -> tuple[str, ...]:
    body = [distance for distance in distances if distance.place != EMBEDDINGS]
    if all(distance.relative == 0 for distance in body):
        return ("a copy: the domain model's layers equal the source's, and merging does nothing; is the path right?",)
    if all(distance.copied for distance in body):
        return ("a copy: but for the rounding of the coarser dtype the domain model's layers equal the source's",)
    layers = [(d.layer, d.cosine) for d in body if d.layer is not None and d.cosine is not None]
    unrelated = [layer for layer, cosine in layers if cosine < UNRELATED]
    if not unrelated:
        return ()
    return (
        f"unrelated weights in {len(unrelated)} of {len(layers)} layers (cosine below {UNRELATED:g}, the lowest "
        f"{min(cosine for _, cosine in layers):.4f}): the models have no common origin there, and a mean of "
        "unrelated weights is noise; choose a domain model that was trained on from the source's own base model",
    )
