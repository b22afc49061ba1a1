"""The recipe of a merge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from pyterrier_merge.methods import MergeMethod, divides_by_sum, get_method
from pyterrier_merge.recipe.segment import KEPT, Segment, check_alpha, concise


@dataclass(frozen=True, repr=False)
class MergeRecipe:
    """Models and the weights to blend them with, segment by segment, lowest layers first.

    Weights are ``alpha * source + (1 - alpha) * domain`` (method ``linear``). Token embeddings (and the tokenizer) and
    a projection head are the source's own, and the final norm has the last segment's weights, unless set otherwise: the
    scheme of arXiv 2509.21966. Models are named by a folder, ``package:NAME/FOLDER``, a hub id, ``ID@REVISION`` or
    ``BASE+ADAPTER``.

    Attributes:
        source: The retrieval model.
        domains: One or more plain language models of the domain; a single name is accepted too.
        segments: At least one; :meth:`halves` makes the paper's two. The final norm belongs to no part of the last.
        method: mergekit's name, see :func:`pyterrier_merge.methods.list_methods`.
        parameters: The method's parameters besides weights, such as ``{"density": 0.5}``; kept as sorted pairs, as
            mergekit reads them. A sequence has one value for each model that is not a base, the source first.
        base: The model that differences are taken from, for ``task_arithmetic``, ``ties`` and similar methods; the
            source if None.
        embeddings: Alpha (or a segment) of the token embeddings and the other embeddings.
        final_norm: The same of the norm after the last layer; the last segment's if None.
        head: The same of a projection head (sentence-transformers' ``Dense``), which domain models must have too.
        seed: Random seed, for methods that drop weights at random.

    Raises:
        ValueError: A weight is not a number or out of range, the method is unknown, or does not support the number
            of models, the weights or the parameters.
    """

    source: str
    domains: tuple[str, ...]
    segments: tuple[Segment, ...]
    method: str = "linear"
    parameters: tuple[tuple[str, Any], ...] = ()
    base: str | None = None
    embeddings: Segment = KEPT
    final_norm: Segment | None = None
    head: Segment = KEPT
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"a recipe's seed is a whole number, found {self.seed!r}")  # noqa: TRY004 (as of all fields)
        for field, value in self._checked_fields().items():
            object.__setattr__(self, field, value)
        if self.method != "linear" or self.parameters or self.base:  # importing mergekit takes seconds
            read = self._method.check(
                num_domains=len(self.domains), has_base=self.base is not None, parameters=dict(self.parameters)
            )
            object.__setattr__(self, "parameters", tuple(read.items()))
        for segment in self._all_segments():
            for one in segment.each:
                self._check_weights(one)

    @classmethod
    def halves(
        cls,
        source: str | Path,
        domains: str | Path | Sequence[str | Path],
        alpha_lower: float | None,
        alpha_upper: float | None,
        **settings: Any,
    ) -> MergeRecipe:
        """The paper's recipe: ``alpha_lower`` for the lower half of the layers, ``alpha_upper`` for the upper half."""
        alphas = {"alpha_lower": alpha_lower, "alpha_upper": alpha_upper}
        segments = tuple(Segment(None if a is None else check_alpha(name, a)) for name, a in alphas.items())
        return cls(source, domains, segments, **settings)  # type: ignore[arg-type]  # names are made strings

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models: the source, each domain model, and the base if there is one."""
        return (self.source, *self.domains, *([] if self.base is None else [self.base]))

    @property
    def alphas(self) -> str:
        """The weights of each segment, the lowest first, for tables: ``0.5, 1``; ``-`` for a segment without one."""
        return ", ".join(map(str, self.segments))

    @property
    def keeps_source(self) -> bool:
        """Whether the result is the source itself, because no part takes anything from a domain model."""
        return all(segment.keeps_source for segment in self._all_segments())

    @property
    def unmerged(self) -> MergeRecipe:
        """The same models, with nothing taken from a domain model."""
        kept = tuple(Segment(1, segment.size) for segment in self.segments)
        return replace(self, segments=kept, embeddings=KEPT, final_norm=None, head=KEPT)

    def layer_ranges(self, num_layers: int) -> tuple[range, ...]:
        """Return the layers of each segment, lowest first.

        If a boundary falls within a layer, the upper segment gets that layer: 7 layers in halves are 3 and 4.

        Raises:
            ValueError: A segment would get no layer.
        """
        total = sum(segment.size for segment in self.segments)
        ends = [num_layers * passed // total for passed in accumulate(segment.size for segment in self.segments)]
        ranges = tuple(map(range, (0, *ends), ends))
        for segment, layers in zip(self.segments, ranges, strict=True):
            if not layers:
                raise ValueError(
                    f"{len(self.segments)} segments do not fit {num_layers} layers: segment {segment} would get none"
                )
        return ranges

    def layer_segments(self, num_layers: int) -> tuple[Segment, ...]:
        """Return the segment of each layer, lowest first; see :meth:`layer_ranges`."""
        pairs = zip(self.segments, self.layer_ranges(num_layers), strict=True)
        return tuple(segment for segment, layers in pairs for _ in layers)

    def with_alphas(self, *alphas: float) -> MergeRecipe:
        """Return the same recipe with other alphas, one for each segment; parts of layers keep theirs.

        Raises:
            ValueError: A wrong number of alphas, an alpha out of range, or segments that have ``domain_weights``.
        """
        if len(alphas) != len(self.segments):
            raise ValueError(f"the recipe has {len(self.segments)} segments, found {len(alphas)} alphas")
        if any(segment.domain_weights is not None for segment in self.segments):
            raise ValueError("the recipe's segments give each domain model a weight: replace its segments instead")
        pairs = zip(self.segments, alphas, strict=True)
        return replace(self, segments=tuple(replace(segment, alpha=check_alpha("alpha", a)) for segment, a in pairs))

    @property
    def _method(self) -> MergeMethod:
        return get_method(self.method)

    def _all_segments(self) -> tuple[Segment, ...]:
        norm = () if self.final_norm is None else (self.final_norm,)
        return (*self.segments, *norm, self.embeddings, self.head)

    def _checked_fields(self) -> dict[str, Any]:
        names = [self.domains] if isinstance(self.domains, (str, Path)) else list(self.domains)
        if not names:
            raise ValueError("a recipe needs at least one domain model")
        segments = tuple(self.segments) if isinstance(self.segments, Iterable) else (self.segments,)
        if not segments:
            raise ValueError("a recipe needs at least one segment")
        stranger = next((segment for segment in segments if not isinstance(segment, Segment)), None)
        if stranger is not None or isinstance(self.segments, Segment):
            raise ValueError(f"segments is a sequence such as (Segment(0.5), Segment(1)); found {self.segments!r}")
        return {
            "source": _model_name(self.source),
            "domains": tuple(_model_name(name) for name in names),
            "segments": segments,
            "parameters": _pairs(self.parameters),
            "base": None if self.base is None else _model_name(self.base),
            "embeddings": _place("embeddings", self.embeddings),
            "final_norm": None if self.final_norm is None else _place("final_norm", self.final_norm),
            "head": _place("head", self.head),
        }

    def _check_weights(self, segment: Segment) -> None:
        if segment.domain_weights is not None and len(segment.domain_weights) != len(self.domains):
            raise ValueError(
                f"a segment gives {len(segment.domain_weights)} domain weights, the recipe has {len(self.domains)} "
                "domain models"
            )
        if segment.keeps_source:
            return
        weighted = self.method == "linear" or self._method.weighted
        if weighted and segment.alpha is None:
            raise ValueError(f"{self.method} needs an alpha in every segment")
        if not weighted and segment.alpha is not None:
            raise ValueError(
                f"{self.method} takes no weights: give alpha None to merge a segment, 1 to keep the source's; "
                f"found {segment}"
            )
        weights = segment.weights(len(self.domains)) or ()
        if weights and divides_by_sum(self.method, dict(self.parameters)) and _cancel(weights):
            raise ValueError(f"the weights of segment {segment} add up to 0, and {self.method} divides by their sum")

    def __repr__(self) -> str:
        return concise(self)

    def __str__(self) -> str:
        weights = ", ".join(map(str, self.segments))
        return f"{' + '.join([self.source, *self.domains])} ({self.method}; {weights})"


def _cancel(weights: tuple[float, ...]) -> bool:
    """Whether weights add up to 0, or to so little that the sum is only float32 rounding error."""
    return abs(math.fsum(weights)) <= 1e-6 * math.fsum(map(abs, weights))


def _place(name: str, value: Any) -> Segment:
    if value is None:
        raise ValueError(f"{name} is an alpha, or a Segment: Segment(None) for a method without weights; found None")
    if isinstance(value, Segment) and value.parts:
        raise ValueError(f"parts are parts of layers: {name} has none; found {value!r}")
    return value if isinstance(value, Segment) else Segment(check_alpha(name, value))


def _pairs(parameters: Any) -> tuple[tuple[str, Any], ...]:
    try:
        return tuple(sorted(dict(parameters).items()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"parameters is a mapping such as {{'density': 0.5}}; found {parameters!r}") from error


def _model_name(name: str | Path) -> str:
    if not str(name):
        raise ValueError("a model's name is empty")
    return str(name).rstrip("/") or "/"
