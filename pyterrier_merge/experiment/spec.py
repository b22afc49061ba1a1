"""The specification of an experiment, read from a YAML file and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from ir_measures import parse_measure
from ir_measures.measures import Measure
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    model_serializer,
    model_validator,
)

from pyterrier_merge.collections import check_options
from pyterrier_merge.evaluation import check_measure, parsed_measure
from pyterrier_merge.experiment.cluster import ClusterSection
from pyterrier_merge.experiment.significance import Correction, Family, Test, TestPlan
from pyterrier_merge.experiment.system_names import file_name, require_known_uses, require_own_files
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.storage import user_path
from pyterrier_merge.systems import System, system_of
from pyterrier_merge.systems.base import Section
from pyterrier_merge.systems.settings import Positive
from pyterrier_merge.systems.wrong_fields import described


class CollectionSection(Section):
    """The collection: only its name, or ``{name: NAME, ...}`` with its options.

    Attributes:
        name: A name of :func:`pyterrier_merge.get_collection`, including "local" and "irds:...".
        label: Its name in the experiment's folder and in a merge's section; ``name`` when left out.
        options: The options of that function, next to the name: ``{name: miracl-ja, pool: judged}``,
            ``{name: local, path: FOLDER}``.
    """

    name: str
    label: Annotated[str, Field(min_length=1)] = ""
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _options_beside_the_name(cls, given: Any) -> Any:
        given = {"name": given} if isinstance(given, str) else given
        if not isinstance(given, dict):
            raise ValueError(f"expected the name of a collection, or {{name: NAME, ...}}; found {given!r}")  # noqa: TRY004
        given = {"label": str(given.get("name")), **given}
        if "options" in given:
            return given
        section = {key: given.pop(key) for key in ("name", "label") if key in given}
        return {**section, "options": given}

    @model_validator(mode="after")
    def _known(self) -> CollectionSection:
        check_options(self.name, self.options)
        if "measures" in self.options:
            raise ValueError("an experiment has its measures in a field of its own: measures: [nDCG@10]")
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        label = {} if self.label == self.name else {"label": self.label}
        return {"name": self.name, **label, **self.options} if label or self.options else self.name


class SignificanceSection(Section):
    """The paired tests against the baselines.

    Attributes:
        test: ``t``, ``randomization`` or ``wilcoxon``.
        correction: ``holm``, ``bonferroni``, ``fdr_bh`` or ``none``.
        family: Which p-values are corrected together: ``all``, or those of each ``measure`` against each baseline.
        level: Corrected p-values below it are significant.
        simultaneous: Whether the intervals of a family hold together (Bonferroni).
        seed: Random seed of the randomization test.
    """

    test: Test = "t"
    correction: Correction = "holm"
    family: Family = "all"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    simultaneous: bool = False
    seed: int = 0

    def plan(self) -> TestPlan:
        """Return the plan of the tests."""
        return TestPlan(**self.model_dump())


MeasureName = Annotated[str, AfterValidator(lambda text: str(parsed_measure(text)))]
AnySystem = Annotated[SerializeAsAny[System], BeforeValidator(system_of)]


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]*[\w-][\w.-]*", name):  # ".." is not the name of a folder
        raise ValueError(f"expected letters, digits, '_', '-' and '.', not dots alone; found {name!r}")
    return name


def _in_a_list(given: Any) -> Any:
    return given if isinstance(given, (list, tuple)) else [given]


class ExperimentSpec(Section):
    """A comparison of systems over one or more collections.

    Attributes:
        name: Name of the run folder: letters, digits, ``_``, ``-`` and ``.``.
        collection: The collection to search: a name, a name with options, or a list of them. Each collection has its
            own table and its own family of tests.
        split: The split that the tables are computed on.
        measures: ``ir_measures`` names; systems choose by the first one.
        num_results: Results for each query, of every system.
        systems: The systems to compare, by name, in the order of the table.
        baselines: Names of systems that the others are tested against; the first one when left out.
        significance: The settings of the tests.
        cluster: A Ray cluster to run on; this process when left out.
    """

    name: Annotated[str, AfterValidator(_folder_name)]
    collection: Annotated[
        tuple[CollectionSection, ...],
        BeforeValidator(_in_a_list),
        Field(min_length=1, description="name, fields (see below) or list of these"),
    ]
    split: str = "test"
    measures: Annotated[tuple[MeasureName, ...], Field(min_length=1)] = ("nDCG@10", "RR@10", "R@100")
    num_results: Positive = 100
    systems: Annotated[dict[str, AnySystem], Field(min_length=1)]
    baselines: tuple[str, ...] | None = None
    significance: SignificanceSection = SignificanceSection()
    cluster: ClusterSection | None = None

    @model_validator(mode="after")
    def _systems_fit_together(self) -> ExperimentSpec:
        require_known_uses(self.systems)
        require_own_files(self.systems)
        for name in self.baselines or ():
            if name not in self.systems:
                raise ValueError(f"baselines: no system is named {name!r}; {did_you_mean(name, self.systems)}")
        labels = [section.label for section in self.collection]
        if len({file_name(label).lower() for label in labels}) < len(labels):
            raise ValueError(
                f"collection: expected each once, by its label; found {', '.join(labels)}: give one of them "
                "another 'label'"
            )
        return self

    @model_validator(mode="after")
    def _measures_fit(self) -> ExperimentSpec:
        if len(set(map(parse_measure, self.measures))) < len(self.measures):
            raise ValueError(f"measures: expected each once; found {list(self.measures)}")
        for measure in self.parsed_measures:
            check_measure(measure, self.num_results)
        return self

    @property
    def parsed_measures(self) -> list[Measure]:
        """The measures as ``ir_measures`` objects."""
        return [parse_measure(measure) for measure in self.measures]

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the results, in JSON form."""
        return self.model_dump(mode="json", exclude={"cluster"})

    def tested_against(self) -> tuple[str, ...]:
        """Return the baselines; the first system if none is named."""
        return tuple(self.systems)[:1] if self.baselines is None else self.baselines


class _EachFieldOnce(yaml.SafeLoader):
    """A YAML loader that rejects duplicate fields; PyYAML silently takes the last one.

    Names of fields are text: ``on`` is not a boolean, unlike in YAML 1.1.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
        fields = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, field in enumerate(fields):
            if field in fields[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{field!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_spec(path: str | Path) -> ExperimentSpec:
    """Read and check a YAML file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, or not a valid experiment; the message names each invalid field and its problem.
    """
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no experiment file {path}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _EachFieldOnce)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no experiment: expected fields such as 'collection' and 'systems'")  # noqa: TRY004
    try:
        return ExperimentSpec.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {described(error, ExperimentSpec, content)}") from error
