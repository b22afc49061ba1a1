"""The recipe of a merge: which models, how many segments, how much of each. Pure data; nothing is loaded here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models import fingerprint_model, locate_model

METHODS = ("linear", "slerp", "nuslerp")


@dataclass(frozen=True)
class Segment:
    """A run of neighbouring layers that share one weight.

    Attributes:
        alpha: Weight of the source (retrieval) model, in [0, 1]; the domain model gets ``1 - alpha``.
        size: Share of the layers, relative to the other segments' sizes: ``(1, 1)`` are halves, ``(16, 16)`` as well.
    """

    alpha: float
    size: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", check_alpha("alpha", self.alpha))
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"a segment's size is a whole number of at least 1, found {self.size!r}")


@dataclass(frozen=True)
class MergeRecipe:
    """Two models and the weights to blend them with, segment by segment, lowest layers first.

    Token embeddings (and the tokenizer) come from the source alone; a final norm takes the last segment's weight;
    what lies outside the layers stays the source's. This is the scheme of arXiv 2509.21966.

    Attributes:
        source: The retrieval model: a folder, ``package:NAME/FOLDER`` or a hub id.
        domain: The plain language model of the domain, named likewise.
        segments: At least one; :meth:`halves` makes the paper's two.
        method: One of ``linear``, ``slerp``, ``nuslerp`` (mergekit's names).
        source_revision: Branch, tag or commit, where the source is a hub id.
        domain_revision: The same of the domain model.
    """

    source: str
    domain: str
    segments: tuple[Segment, ...]
    method: str = "linear"
    source_revision: str | None = None
    domain_revision: str | None = None

    def __post_init__(self) -> None:
        for field in ("source", "domain"):
            object.__setattr__(self, field, str(getattr(self, field)))
        object.__setattr__(self, "segments", tuple(self.segments))
        if not self.segments:
            raise ValueError("a recipe needs at least one segment")
        if self.method not in METHODS:
            raise ValueError(f"unknown merge method {self.method!r}: choose one of {', '.join(METHODS)}")

    @classmethod
    def halves(
        cls, source: str | Path, domain: str | Path, alpha_lower: float, alpha_upper: float, **settings: Any
    ) -> MergeRecipe:
        """The paper's recipe: ``alpha_lower`` for the lower half of the layers, ``alpha_upper`` for the upper half."""
        segments = (Segment(check_alpha("alpha_lower", alpha_lower)), Segment(check_alpha("alpha_upper", alpha_upper)))
        return cls(str(source), str(domain), segments, **settings)

    @property
    def keeps_source(self) -> bool:
        """Whether the result is the source itself, because no layer takes anything from the domain model."""
        return all(segment.alpha == 1 for segment in self.segments)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when the merged weights would: models count by content, not by name.

        Locates both models (and fetches them where they are on the hub).
        """
        source = fingerprint_model(locate_model(self.source, revision=self.source_revision))
        if self.keeps_source:
            return source
        domain = fingerprint_model(locate_model(self.domain, revision=self.domain_revision))
        segments = [[segment.alpha, segment.size] for segment in self.segments]
        return fingerprint({"source": source, "domain": domain, "segments": segments, "method": self.method})

    def layer_alphas(self, num_layers: int) -> tuple[float, ...]:
        """Return one alpha per layer, lowest first.

        A boundary that falls within a layer gives that layer to the upper segment, so 7 layers in halves are 3 and 4.

        Raises:
            ValueError: A segment would get no layer.
        """
        total = sum(segment.size for segment in self.segments)
        alphas: list[float] = []
        passed = 0
        for segment in self.segments:
            passed += segment.size
            layers = num_layers * passed // total - len(alphas)
            if layers < 1:
                raise ValueError(
                    f"{len(self.segments)} segments do not fit {num_layers} layers: {segment} would get none"
                )
            alphas.extend([segment.alpha] * layers)
        return tuple(alphas)

    def __str__(self) -> str:
        alphas = ", ".join(f"{segment.alpha:g}" for segment in self.segments)
        return f"{self.source} + {self.domain} ({self.method}; {alphas})"


def check_alpha(name: str, alpha: Any) -> float:
    """Return ``alpha`` as a float; ``ValueError`` where it is not a number within [0, 1]."""
    if isinstance(alpha, bool) or not hasattr(alpha, "__float__"):
        raise ValueError(f"{name} is the weight of the source model, a number within [0, 1]; found {alpha!r}")
    value = float(alpha)
    if math.isnan(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} is the weight of the source model, within [0, 1]; found {alpha!r}")
    return value
