"""The space section of an experiment's file: the merges to choose from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from pyterrier_merge.systems.base import Section
from pyterrier_merge.systems.settings import Positive
from pyterrier_merge.tuning.space import Grid, Space


class SpaceSection(Section):
    """The parameters of the merge that vary; by default two alphas, of the lower and the upper half of the layers.

    Give at most one of ``segments``, ``layers``, ``knots`` and ``parts``; see :class:`pyterrier_merge.Space`.

    Attributes:
        segments: An alpha for each of this number of segments of equal size.
        layers: An alpha for each of this number of layers; use it with ``search``.
        knots: Alphas at this number of places from the lowest to the highest layer, with linear interpolation.
        parts: An alpha for attention and one for the feed-forward network, in all layers.
        methods: Methods to try, by mergekit's names; that of the merge when left out.
        settings: Values to try for the methods' own parameters, such as ``{density: [0.2, 0.5]}``.
        shares: Values to try for the share of each domain model, if there are several.
    """

    segments: Positive | None = None
    layers: Positive | None = None
    knots: Annotated[int, Field(ge=2)] | None = None
    parts: bool = False
    methods: tuple[str, ...] = ()
    settings: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    shares: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _one_shape(self) -> SpaceSection:
        shapes = [name for name in ("segments", "layers", "knots", "parts") if getattr(self, name)]
        if len(shapes) > 1:
            raise ValueError(f"a space has one shape; found {' and '.join(shapes)}")
        return self

    def space(self, grid: Grid, domains: int) -> Space:
        """Return the space.

        Raises:
            ValueError: The grid or a parameter does not fit the space.
        """
        if self.layers:
            made = Space.layers(self.layers, grid)
        elif self.knots:
            made = Space.profile(self.knots, grid)
        else:
            made = Space.parts(grid) if self.parts else Space.segments(self.segments or 2, grid)
        if self.shares:
            made = made.with_shares(domains, self.shares)
        if self.methods or self.settings:
            made = made.with_methods(*self.methods, **self.settings)
        return made
