"""A merge of a retrieval model with domain models: given alphas or a given mergekit file, or a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pandas as pd
from pydantic import BeforeValidator, Field, model_validator

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models.facts import model_facts
from pyterrier_merge.systems.base import (
    Bench,
    Figure,
    PlanningBench,
    Prepared,
    Step,
    all_labels,
    index_step,
    most_trials,
)
from pyterrier_merge.systems.choosing import used_labels
from pyterrier_merge.systems.dense import dense, described
from pyterrier_merge.systems.domain import TrainedDomain
from pyterrier_merge.systems.settings import EncoderSettings
from pyterrier_merge.systems.sweep import SweepSection
from pyterrier_merge.systems.unlabelled import UnlabelledSection
from pyterrier_merge.tuning.points import in_words, points_of

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.recipe import MergeRecipe
    from pyterrier_merge.tuning.folds import FoldedSweep
    from pyterrier_merge.tuning.unlabelled import LabelFree

Alpha = Annotated[float, Field(ge=0, le=1)]


def _domain(given: Any) -> Any:
    """Read a section here, so that its errors are not reported as errors of the other two forms."""
    if isinstance(given, Mapping):
        return TrainedDomain.model_validate(dict(given))
    if given is not None and not isinstance(given, (str, list, tuple, TrainedDomain)):
        raise ValueError(f"expected a name, a list of names, or {{train: {{}}}}; found {given!r}")
    return given


def _sweep(given: Any) -> Any:
    """Read a section here; ``on`` says which kind it is."""
    if isinstance(given, Mapping):
        return (UnlabelledSection if "on" in given else SweepSection).model_validate(dict(given))
    if given is not None and not isinstance(given, (SweepSection, UnlabelledSection)):
        raise ValueError(f"expected fields ({', '.join(SweepSection.model_fields)}), found {given!r}")
    return given


class MergedSystem(EncoderSettings):
    """A merge; see :class:`pyterrier_merge.MergedE5Encoder`.

    It needs ``source`` and ``domain`` with either ``alpha_lower`` and ``alpha_upper`` or ``sweep``; or ``mergekit``
    alone.

    Attributes:
        source: The retrieval model.
        domain: A name, a list of names, or ``{train: {}}`` to train a domain model on the collection's documents.
        alpha_lower: Weight of the source in the lower half of the layers.
        alpha_upper: Weight of the source in the upper half.
        method: mergekit's name of the method.
        parameters: The method's parameters besides weights.
        sweep: Choose the alphas: on a development split, by folds, or without labels (``on: known-items``).
        mergekit: A file with a merge in mergekit's YAML, which names the source and the domain models.
    """

    kind: Literal["merged"] = "merged"
    source: str | None = None
    domain: Annotated[str | tuple[str, ...] | TrainedDomain | None, BeforeValidator(_domain)] = None
    alpha_lower: Alpha | None = None
    alpha_upper: Alpha | None = None
    method: str = "linear"
    parameters: dict[str, Any] = Field(default_factory=dict)
    sweep: Annotated[SweepSection | UnlabelledSection | None, BeforeValidator(_sweep)] = None
    mergekit: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> MergedSystem:
        given = self.alpha_lower is not None, self.alpha_upper is not None
        ways = [name for name, there in (("mergekit", self.mergekit), ("sweep", self.sweep)) if there is not None]
        ways += [name for name, there in zip(("alpha_lower", "alpha_upper"), given, strict=True) if there]
        if len(ways) > 1 and ways != ["alpha_lower", "alpha_upper"]:
            raise ValueError(f"say how to merge in one way; found {' and '.join(ways)}")
        if self.mergekit is not None:
            fields = ("source", "domain", "method", "parameters")
            if named := [name for name in fields if getattr(self, name) not in (None, "linear", {})]:
                raise ValueError(f"the mergekit file names the models and the method: leave {', '.join(named)} out")
            return self
        if self.source is None or self.domain is None:
            raise ValueError("a merge needs 'source' and 'domain', or 'mergekit'")
        if self.sweep is None and self._weighted() and not all(given):
            raise ValueError(f"{self.method} needs 'alpha_lower' and 'alpha_upper', or 'sweep'")
        self.num_trials(lambda _: 1)
        if self.sweep is not None and not self._weighted():
            raise ValueError(f"{self.method} takes no weights, so there are no alphas to choose: leave 'sweep' out")
        names = ("domain",) if isinstance(self.domain, TrainedDomain) else self._domain_names()
        recipe = self._recipe(names)
        if self.sweep is not None:
            self.sweep.varied(len(names)).require_recipes(recipe)
        return self

    def models(self) -> tuple[str, ...]:
        """Return the source and domain models that already exist."""
        if self.mergekit is not None:
            return self._read_recipe().models
        return (str(self.source), *self._domain_names())

    def uses(self) -> tuple[str, ...]:
        """Return the systems whose results form the pool."""
        return self.sweep.pool.of if self.sweep and self.sweep.pool else ()

    def num_trials(self, of: Callable[[str], int]) -> int:  # noqa: ARG002 (of every kind)
        """Return the number of seeds of the training, or of samples of the sweep."""
        seeds = len(self.domain.settings()) if isinstance(self.domain, TrainedDomain) else 1
        return most_trials([("seeds", seeds), ("samples to choose on", (self.sweep and self.sweep.trials) or 1)])

    def by_folds(self, of: Callable[[str], bool]) -> bool:  # noqa: ARG002 (of every kind)
        """Return whether the alphas are chosen by folds."""
        return isinstance(self.sweep, SweepSection) and self.sweep.folds is not None

    def check(self, bench: Bench) -> None:
        """Check the named collections, and the queries for choosing alphas: never the queries of the table."""
        if isinstance(self.domain, TrainedDomain):
            self.domain.check(bench)
        if self.sweep is not None:
            self.sweep.check(bench)
            if model_facts(str(self.source)).loadable:  # otherwise after its download
                self._require_fitting_space()

    def plan(self, bench: PlanningBench) -> list[Step]:
        """Return the training of each seed, the merges that each trial tries, and the index of the chosen one."""
        if self.mergekit is not None:
            return [index_step(bench, self._encoder(bench, self._read_recipe()))]
        if not isinstance(self.domain, TrainedDomain):
            return self._plan_merge(bench, self._domain_names(), True)
        domain, source, settings = self.domain, str(self.source), self.encoder_settings(bench)
        trained = bench.on(domain.collection).if_cheap(lambda: domain.kept(bench, source, settings), source) or {}
        steps = []
        for seed in domain.settings():
            folder, there = trained.get(seed, (f"to be trained, {seed}", None))
            steps.append(Step(what="training of the domain model", kept=there))
            steps += self._plan_merge(bench, (str(folder),), there)
        return steps

    def _plan_merge(self, bench: PlanningBench, domains: Sequence[str], there: bool | None) -> list[Step]:
        recipe = self._recipe(domains)
        if self.sweep is None:
            return [index_step(bench, self._encoder(bench, recipe))]
        settings = self.encoder_settings(bench.on(self.sweep.collection))
        return self.sweep.steps(bench, recipe, self._encoder, settings, there)

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Train, choose and merge: one ready system for each seed of the training, or sample of the sweep."""
        if self.mergekit is not None:
            return [self._prepared(bench, self._read_recipe(), f"as {self.mergekit.name} says", ())]
        self._require_fitting_space()
        made = list(self._domains(bench))
        asked = self.sweep.asked(bench.on(self.sweep.collection)) if self.sweep else []
        trials = max(len(made), len(asked))
        return [
            self._merge(bench, domains, f"domain model {made_from}", queries)
            for (domains, made_from), queries in islice(zip(cycle(made), cycle(asked or [None])), trials)
        ]

    def _require_fitting_space(self) -> None:
        """Raise ``ValueError`` if the space of the sweep does not fit the layers of the source model."""
        if self.sweep is not None:
            from pyterrier_merge.tuning.sweep import fitted

            recipe = self._recipe(self._domain_names() or ("domain",))
            fitted(self.sweep.varied(len(recipe.domains)), recipe)

    def _domains(self, bench: Bench) -> Iterator[tuple[tuple[str, ...], str]]:
        """The domain models of each trial, and a description of them."""
        if isinstance(self.domain, TrainedDomain):
            for folder, made_from in self.domain.models(bench, str(self.source), self.encoder_settings(bench)):
                yield (folder,), made_from
        else:
            yield self._domain_names(), ", ".join(map(described, self._domain_names()))

    def _merge(self, bench: Bench, domains: Sequence[str], made_from: str, asked: TestCollection | None) -> Prepared:
        from pyterrier_merge.encoding.merged import MergedE5Encoder
        from pyterrier_merge.tuning.folds import FoldedSweep

        recipe = self._recipe(domains)
        if self.sweep is None or asked is None:
            return self._prepared(bench, recipe, f"{made_from}; {self.method}, alphas as given", ())
        there = bench.on(self.sweep.collection)
        encoder = MergedE5Encoder.from_recipe(recipe, **self.encoder_settings(there))
        if isinstance(self.sweep, UnlabelledSection):
            return self._unlabelled(bench, self.sweep.choose(bench, encoder, asked), made_from)
        found = self.sweep.choose(bench, encoder, asked)
        pool = [there.prepared(name) for name in (self.sweep.pool.of if self.sweep.pool else ())]
        labels = all_labels(pool)
        if labels is not None:
            labels |= used_labels(asked, self.sweep.split)
        if isinstance(found, FoldedSweep):
            return replace(self._by_fold(bench, found, made_from), labels=labels)
        label = in_words(found.point)
        how = f"{made_from}; {found.best.method}"
        prepared = self._prepared(bench, found.best.recipe, how, (found.describe(),), label)
        tables = {**prepared.tables, "sweep": found.table, "sweep_per_query": _flat(found.per_query)}
        if found.screening is not None:
            tables["sweep_pool"] = found.screening.table
        if self.sweep.sampled:
            tables["sample"] = asked.topics(self.sweep.split)[["qid"]]
        figures: dict[str, Figure] = {"sweep": found.plot}
        line = f"merged, alphas chosen on {self.sweep.split}" if self.sweep.sampled else ""
        return replace(prepared, labels=labels, line=line, tables=tables, figures=figures)

    def _unlabelled(self, bench: Bench, found: LabelFree, made_from: str) -> Prepared:
        prepared = self._prepared(bench, found.best.recipe, f"{made_from}; {self.method}", (found.describe(),))
        choice = found.choice
        tables = {"sweep": choice.merges.reset_index(), "sweep_kinds": choice.kinds.reset_index(), **prepared.tables}
        figures: dict[str, Figure] = {f"sweep-{kind}": sweep.plot for kind, sweep in found.sweeps.items()}
        line = "merged, alphas chosen without labels"
        return replace(prepared, line=line, tables=tables, figures=figures)

    def _by_fold(self, bench: Bench, found: FoldedSweep, made_from: str) -> Prepared:
        """A system that answers each query of the table with the merge that the other folds chose."""
        encoders = {merge: self._encoder(bench, merge.recipe) for merge in found.encoders}
        folds = found.per_query["fold"]
        methods = ", ".join(dict.fromkeys(merge.method for merge in found.encoders))
        identity = [[encoders[merge].fingerprint for merge in found.encoders], folds.index.tolist(), folds.tolist()]
        return Prepared(
            transformer=found.by_fold(lambda merge: dense(encoders[merge], bench).transformer),
            identity=fingerprint(identity),
            label=f"({len(found.encoders)} folds)",
            notes=(f"source {described(str(self.source))}; {made_from}; {methods}.", _sentence(found.describe())),
            tables={
                "sweep": found.choices,
                "sweep_by_fold": found.per_query.reset_index(),
                "sweep_per_query": _flat(found.points),
            },
        )

    def _prepared(
        self, bench: Bench, recipe: MergeRecipe, how: str, notes: tuple[str, ...], label: str = ""
    ) -> Prepared:
        from pyterrier_merge.encoding.merged import MergedE5Encoder

        said = (f"source {described(recipe.source)}; {how}.", *map(_sentence, notes))
        encoder, tables = self._encoder(bench, recipe), {}
        if isinstance(encoder, MergedE5Encoder):
            tables["tensors"] = pd.DataFrame(map(asdict, encoder.tensor_merges))
        return dense(encoder, bench, label=label or f"({recipe.alphas})", notes=said, tables=tables)

    def _encoder(self, bench: Bench, recipe: MergeRecipe) -> E5Encoder:
        from pyterrier_merge.encoding.encoders import E5Encoder
        from pyterrier_merge.encoding.merged import MergedE5Encoder

        if recipe.keeps_source:  # the merge is the source: both share an index and stored runs
            return E5Encoder(recipe.source, **self.encoder_settings(bench))
        return MergedE5Encoder.from_recipe(recipe, **self.encoder_settings(bench))

    def _recipe(self, domains: Sequence[str]) -> MergeRecipe:
        from pyterrier_merge.recipe import MergeRecipe

        alphas = (0.5, 0.5) if self.sweep else (self.alpha_lower, self.alpha_upper)
        names = str(self.source), tuple(domains)
        return MergeRecipe.halves(*names, *alphas, method=self.method, parameters=self.parameters)

    def _read_recipe(self) -> MergeRecipe:
        from pyterrier_merge.mergekit_yaml import read_recipe

        assert self.mergekit is not None  # noqa: S101 (for the type checker)
        return read_recipe(self.mergekit)

    def _domain_names(self) -> tuple[str, ...]:
        if isinstance(self.domain, str):
            return (self.domain,)
        return self.domain if isinstance(self.domain, tuple) else ()

    def _weighted(self) -> bool:
        from pyterrier_merge.methods import get_method

        return self.method == "linear" or get_method(self.method).weighted  # importing mergekit takes seconds


def _flat(per_query: pd.DataFrame) -> pd.DataFrame:
    points = points_of(per_query.columns.to_frame(index=False))
    return per_query.set_axis(pd.Index(map(in_words, points)), axis=1).reset_index()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
