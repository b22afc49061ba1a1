"""The space of merges of a sweep: named parameters, and the recipe of each point."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pyterrier_merge.methods import get_method
from pyterrier_merge.recipe import MergeRecipe, Segment, check_alpha
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.tuning.parameters import alphas_of, by_name, distinct, numbered, require_whole
from pyterrier_merge.tuning.points import Point, Value
from pyterrier_merge.tuning.rule import Rule

PAPER_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_POINTS = 1_000  # of a grid, because every point encodes the collection

Grid = Sequence[float] | Sequence[Sequence[float]] | Sequence[Point]
Named = tuple[tuple[str, tuple[Value, ...]], ...]


@dataclass(frozen=True)
class Space:
    """Parameters of a merge by name, the values to try for each, and the recipe of each point.

    A point maps each parameter to a value. Make a space with :meth:`halves`, :meth:`segments`, :meth:`layers`,
    :meth:`parts` or :meth:`profile`; :meth:`with_methods` and :meth:`with_shares` add parameters.

    Attributes:
        shape: The meaning of the alphas: ``segments``, ``parts`` or ``profile`` (knots over the depth).
        alphas: Names and values of the alphas.
        methods: mergekit's names of the methods to try; empty for the method of the recipe.
        settings: Names and values of the methods' own parameters. A method ignores those that it does not have.
        shares: Names and values of the share of each domain model except the last, which gets the rest.
        given: The points, if they are not all combinations of the values.
        depth: Number of the model's layers, which a profile needs; a sweep reads it from the source model.
    """

    shape: Literal["segments", "parts", "profile"]
    alphas: Named
    methods: tuple[str, ...] = ()
    settings: Named = ()
    shares: Named = ()
    given: tuple[tuple[tuple[str, Value], ...], ...] | None = None
    depth: int | None = None

    @classmethod
    def halves(cls, grid: Grid = PAPER_GRID) -> Space:
        """The paper's space: ``alpha_lower`` for the lower half of the layers, ``alpha_upper`` for the upper half.

        Args:
            grid: Values of each alpha, whose combinations are the points, or the points themselves: sequences of one
                number for each alpha, or mappings by name. The other constructors take the same.

        Raises:
            ValueError: The grid is empty, mixes both forms, holds a number outside [0, 1] or an unknown name.
        """
        return cls._of("segments", ("alpha_lower", "alpha_upper"), grid)

    @classmethod
    def segments(cls, number: int, grid: Grid = PAPER_GRID) -> Space:
        """``alpha_1`` … for ``number`` segments, lowest first: the recipe's if it has as many, else equal ones.

        Two segments are :meth:`halves`.
        """
        require_whole("segments", number, 1)
        return cls.halves(grid) if number == 2 else cls._of("segments", numbered("alpha", number), grid)

    @classmethod
    def layers(cls, number: int, grid: Grid = PAPER_GRID) -> Space:
        """``layer_1`` …: an alpha for each of a model's layers. Use a search; a grid would have too many points."""
        require_whole("layers", number, 1)
        return cls._of("segments", numbered("layer", number), grid)

    @classmethod
    def parts(cls, grid: Grid = PAPER_GRID) -> Space:
        """``attention`` and ``feed_forward``, in all layers; the norms around them get the mean of both."""
        return cls._of("parts", ("attention", "feed_forward"), grid)

    @classmethod
    def profile(cls, knots: int = 2, grid: Grid = PAPER_GRID, *, layers: int | None = None) -> Space:
        """``knot_1`` …: alphas at equal distances from the lowest to the highest layer, with linear interpolation.

        Args:
            knots: Number of parameters, at least 2.
            grid: As in :meth:`halves`.
            layers: The model's number of layers; a sweep reads it from the source model when None.
        """
        require_whole("knots", knots, 2)
        return replace(cls._of("profile", numbered("knot", knots), grid), depth=layers)

    @classmethod
    def _of(cls, shape: Literal["segments", "parts", "profile"], names: tuple[str, ...], grid: Grid) -> Space:
        if isinstance(grid, (str, Mapping)) or not isinstance(grid, Iterable):
            raise ValueError(f"a grid is a list of numbers, or of points; found {grid!r}")  # noqa: TRY004 (of a user)
        entries: list[Any] = list(grid)
        if not entries:
            raise ValueError("the grid of alphas is empty")
        as_points = [isinstance(entry, (tuple, list, Mapping)) for entry in entries]
        if not any(as_points):
            return cls(shape, tuple((name, alphas_of(name, entries)) for name in names))
        if not all(as_points):
            raise ValueError(f"a grid holds numbers, or points ({', '.join(names)}), not both; found {entries!r}")
        whole = cls(shape, tuple((name, (0.0, 1.0)) for name in names))
        points = [whole.point(entry if isinstance(entry, Mapping) else by_name(names, entry)) for entry in entries]
        tried = {name: tuple(sorted({point[name] for point in points})) for name in names}
        return cls(shape, tuple(tried.items()), given=tuple(dict.fromkeys(tuple(point.items()) for point in points)))

    def with_methods(self, *methods: str, **settings: Sequence[Value]) -> Space:
        """Return the space with a parameter ``method``, and one for each setting of these methods.

        Args:
            *methods: mergekit's names.
            **settings: Values of the methods' own parameters, such as ``density=[0.2, 0.5]``.

        Raises:
            ValueError: A method is unknown or takes no weights, or none of them has such a setting.
        """
        self._require_combinations("methods")
        for method in methods:
            if not get_method(method).weighted:
                raise ValueError(f"{method} takes no weights, so there are no alphas to choose")
        known = {name for method in methods for name in get_method(method).parameters}
        for name, values in settings.items():
            if methods and name not in known:
                raise ValueError(f"no method has the parameter {name!r}: {did_you_mean(name, sorted(known))}")
            if not values:
                raise ValueError(f"no values of {name!r} are given")
            if not all(isinstance(value, (float, int, str)) for value in values):
                raise ValueError(f"values of {name!r} are numbers, booleans or text; found {list(values)!r}")
        takes = [get_method(method).parameters for method in methods]
        named = tuple(
            (name, distinct(values, [own[name] for own in takes if name in own])) for name, values in settings.items()
        )
        return replace(self, methods=tuple(dict.fromkeys(methods)), settings=named)

    def with_shares(self, domains: int, values: Sequence[float] = PAPER_GRID) -> Space:
        """Return the space with ``share_1`` …: the share of ``1 - alpha`` for each domain model except the last.

        Args:
            domains: Number of domain models, at least 2.
            values: Values of each share; points whose shares add up to more than 1 are left out.

        Raises:
            ValueError: Fewer than two domain models, or a share outside [0, 1].
        """
        self._require_combinations("shares")
        require_whole("domain models that share", domains, 2)
        return replace(self, shares=tuple((name, alphas_of(name, values)) for name in numbered("share", domains - 1)))

    @property
    def values(self) -> dict[str, tuple[Value, ...]]:
        """The values to try for each parameter, by name."""
        method: Named = (("method", self.methods),) if self.methods else ()
        return dict((*self.alphas, *self.shares, *method, *self.settings))

    @property
    def is_plain(self) -> bool:
        """Whether only the alphas of two segments vary: the table of a sweep is then the grid."""
        return list(self.values) == ["alpha_lower", "alpha_upper"]

    def shows_ends(self, rule: Rule) -> bool:
        """Whether a sweep has the ends among its points: a plain grid with the rule ``best`` is shown as it is."""
        return not self.is_plain or rule != "best"

    @property
    def ends(self) -> tuple[dict[str, Value], dict[str, Value]]:
        """The source (all alphas 1) and the domain model (all 0; several have equal shares)."""
        rest = {name: values[0] for name, values in self.values.items()}
        rest |= {name: 1 / (len(self.shares) + 1) for name, _ in self.shares}
        source, domain = ({name: alpha for name, _ in self.alphas} for alpha in (1.0, 0.0))
        return self.point(rest | source), self.point(rest | domain)

    def points(self) -> list[dict[str, Value]]:
        """Return the points in the order of the values, without repeats.

        Raises:
            ValueError: They are more than 1,000.
        """
        if self.given is not None:
            return [dict(point) for point in self.given]
        values = self.values
        count = 1
        for tried in values.values():
            count *= len(tried)
        if count > MOST_POINTS:
            raise ValueError(
                f"the grid has {count:,} points of {len(values)} parameters, more than {MOST_POINTS:,}: give fewer "
                "values, the points themselves, or search the space"
            )
        combined = (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
        possible = (point for point in combined if self._share_left(point) >= 0)
        return list({tuple(own.items()): own for own in map(self.point, possible)}.values())

    def point(self, given: Point) -> dict[str, Value]:
        """Return a point in the space's form: checked, in order, without settings that its method does not have.

        Raises:
            ValueError: A name is unknown or missing, an alpha or a share is outside [0, 1], or shares are too large.
        """
        known = list(self.values)
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"the space has no parameter {unknown[0]!r}; {did_you_mean(unknown[0], known, 'it has')}")
        active = self.active(given.get("method"))
        if missing := [name for name in active if name not in given]:
            raise ValueError(f"the point {dict(given)!r} lacks {', '.join(missing)}")
        within = {name for name, _ in (*self.alphas, *self.shares)}
        point = {name: check_alpha(name, given[name]) if name in within else given[name] for name in active}
        if self._share_left(point) < 0:
            raise ValueError(f"the shares of the domain models add up to more than 1: {point!r}")
        return point

    def active(self, method: Value | None) -> list[str]:
        """Return the names of the parameters, without settings that a method does not have."""
        if not self.settings or method is None:
            return list(self.values)
        idle = {name for name, _ in self.settings} - get_method(str(method)).parameters.keys()
        return [name for name in self.values if name not in idle]

    def recipe(self, models: MergeRecipe, point: Point) -> MergeRecipe:
        """Return the recipe of a point.

        Args:
            models: Gives models, method, parameters and everything else that the space does not vary.
            point: A value for each parameter.

        Raises:
            ValueError: It is not a point of this space, or does not fit these models.
        """
        point = self.point(point)
        if self.shares and len(models.domains) != len(self.shares) + 1:
            raise ValueError(
                f"the space shares among {len(self.shares) + 1} domain models, the recipe has {len(models.domains)}"
            )
        if not self.shares and any(segment.domain_weights is not None for segment in models.segments):
            raise ValueError("the recipe's segments give each domain model a weight: vary them with Space.with_shares")
        method = str(point.get("method", models.method))
        settings = {name: point[name] for name, _ in self.settings if name in point}
        parameters = dict(models.parameters) | settings
        if self.methods:
            parameters = {name: value for name, value in parameters.items() if name in get_method(method).parameters}
        found = replace(
            models,
            segments=tuple(self._segments(models, point)),
            method=method,
            parameters=parameters,  # type: ignore[arg-type]  # the recipe makes pairs of them
        )
        # all ones are the source itself, also if the recipe merges embeddings
        return found.unmerged if all(point[name] == 1 for name, _ in self.alphas) else found

    def recipes(self, models: MergeRecipe, points: Iterable[Point]) -> dict[MergeRecipe, dict[str, Value]]:
        """Return the distinct recipes of points, each with its first point; all that keep the source count as one."""
        found: dict[MergeRecipe, dict[str, Value]] = {}
        for point in points:
            recipe = self.recipe(models, point)
            same = next((one for one in found if one.keeps_source), recipe) if recipe.keeps_source else recipe
            found.setdefault(same, self.point(point))
        return found

    def domain(self, models: MergeRecipe) -> MergeRecipe:
        """Return the recipe of the domain model itself; several have equal shares.

        It is linear: a method such as ties would change the domain model.
        """
        return replace(self.recipe(models, self.ends[1]), method="linear", parameters=(), base=None)

    def require_recipes(self, models: MergeRecipe) -> None:
        """Raise ``ValueError`` if a method or setting of the space does not go with these models; no file is read."""
        halves = tuple((name, (0.5,)) for name, _ in self.alphas)
        equal = tuple((name, (1 / (len(self.shares) + 1),)) for name, _ in self.shares)
        each = replace(self, alphas=halves, shares=equal, given=None, depth=self.depth or len(halves))
        for point in each.points():
            each.recipe(models, point)

    def around(self, point: Point, tried: Sequence[Point]) -> Space:
        """Return the finer grid around a point: each number, and the midpoints to its neighbours.

        Args:
            point: The middle of the grid.
            tried: Points whose values are the neighbours.
        """

        def finer(named: Named) -> Named:
            return tuple((name, self._finer(name, point[name], tried)) for name, _ in named if name in point)

        methods = (str(point["method"]),) if self.methods else ()
        varied = {"alphas": finer(self.alphas), "settings": finer(self.settings), "shares": finer(self.shares)}
        return replace(self, **varied, methods=methods, given=None)  # type: ignore[arg-type]

    def _finer(self, name: str, at: Value, tried: Sequence[Point]) -> tuple[Value, ...]:
        if not isinstance(at, float):
            return (at,)
        values = [value for one in tried if isinstance(value := one.get(name, at), float)]
        neighbours = max((v for v in values if v < at), default=at), min((v for v in values if v > at), default=at)
        return tuple(sorted({at, *((at + neighbour) / 2 for neighbour in neighbours)}))

    def _segments(self, models: MergeRecipe, point: Point) -> Iterable[Segment]:
        alphas = [float(point[name]) for name, _ in self.alphas]
        if self.shape == "parts":
            names = [name for name, _ in self.alphas]
            parts = zip(names, (self._segment(alpha, point) for alpha in alphas), strict=True)
            mean = self._segment(sum(alphas) / len(alphas), point)
            return [replace(mean, parts=tuple(parts))]
        if self.shape == "profile":
            if self.depth is None:
                raise ValueError("a profile needs the number of the model's layers: give 'layers'")
            return [self._segment(alpha, point) for alpha in interpolated(alphas, self.depth)]
        made = [self._segment(alpha, point) for alpha in alphas]
        if len(models.segments) != len(made):
            return made
        pairs = zip(made, models.segments, strict=True)
        return [replace(one, size=given.size, parts=given.parts) for one, given in pairs]

    def _segment(self, alpha: float, point: Point) -> Segment:
        if not self.shares:
            return Segment(alpha)
        shares = [float(point[name]) for name, _ in self.shares]
        return Segment(alpha, domain_weights=tuple((1 - alpha) * share for share in (*shares, self._share_left(point))))

    def _share_left(self, point: Point) -> float:
        left = 1 - sum(float(point[name]) for name, _ in self.shares)
        return 0.0 if abs(left) < 1e-9 else left

    def _require_combinations(self, what: str) -> None:
        if self.given is not None:
            raise ValueError(f"{what} need values for each alpha, not single points")


def interpolated(knots: Sequence[float], depth: int) -> list[float]:
    """Return one number per layer: linear interpolation of equally spaced knots from the first to the last layer."""
    if depth < len(knots):
        raise ValueError(f"{len(knots)} knots do not fit {depth} layers")
    found: list[float] = np.interp(np.arange(depth), np.linspace(0, depth - 1, len(knots)), knots).round(6).tolist()
    return found
