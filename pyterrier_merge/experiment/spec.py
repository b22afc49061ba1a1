"""What an experiment compares, read from a YAML file and checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from ir_measures import parse_measure
from ir_measures.measures import Measure
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from pyterrier_merge.alpha_search import PAPER_GRID, alpha_pairs
from pyterrier_merge.collections import check_options
from pyterrier_merge.encoding.contract import require_pooling
from pyterrier_merge.experiment.spec_errors import described, unknown_name
from pyterrier_merge.measuring import check_measure
from pyterrier_merge.methods import get_method
from pyterrier_merge.recipe import MergeRecipe
from pyterrier_merge.storage import user_path
from pyterrier_merge.training.settings import DomainTraining


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CollectionSection(_Section):
    """The collection: its name alone, or ``{name: NAME, ...}`` with what it can be told.

    Attributes:
        name: A name that :func:`pyterrier_merge.get_collection` knows; "local" and "irds:..." are among them.
        options: The options of that function, such as ``pool: judged``, ``topic: description`` or ``path: FOLDER``.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _options_beside_the_name(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given}
        if not isinstance(given, dict):
            raise ValueError(f"expected the name of a collection, or {{name: NAME, ...}}; found {given!r}")  # noqa: TRY004
        if "options" not in given:
            named = {"name": given["name"]} if "name" in given else {}
            return {**named, "options": {key: given[key] for key in given if key != "name"}}
        return given

    @model_validator(mode="after")
    def _known(self) -> CollectionSection:
        check_options(self.name, self.options)
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name


def _known_pooling(name: str) -> str:
    require_pooling(name)
    return name


def _readable_measure(text: str) -> str:
    try:
        measure: Measure = parse_measure(text)
    except (NameError, SyntaxError, ValueError) as error:
        raise ValueError(f"{text!r} is no measure of ir_measures (such as nDCG@10, RR@10 or AP): {error}") from error
    supported = measure.SUPPORTED_PARAMS
    if unknown := [name for name in measure.params if name not in supported]:  # ir_measures cannot even print it
        raise ValueError(f"{text!r} has no parameter {unknown[0]!r}; it has {', '.join(supported) or 'none'}")
    return str(measure)


def _weighted_method(name: str) -> str:
    if name != "linear" and not get_method(name).weighted:  # looking at mergekit takes seconds
        raise ValueError(f"{name} takes no weights, so there are no alphas to choose")
    return name


def _within_bounds(grid: Any) -> Any:
    if not isinstance(grid, list | tuple):
        raise ValueError(f"expected a list of alphas, or of pairs of them; found {grid!r}")  # noqa: TRY004
    alpha_pairs(grid)
    return grid


Positive = Annotated[int, Field(ge=1)]
MeasureName = Annotated[str, AfterValidator(_readable_measure)]


class BM25Section(_Section):
    """The lexical baseline: arguments of :func:`pyterrier_merge.bm25`."""

    engine: Literal["pisa", "terrier"] = "pisa"
    k1: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.2
    b: Annotated[float, Field(ge=0, le=1)] = 0.75


class SourceSection(_Section):
    """The retrieval model: arguments of :class:`pyterrier_merge.E5Encoder`."""

    model: str
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_length: Positive | None = None
    pooling: Annotated[str, AfterValidator(_known_pooling)] | None = None
    normalize: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: Positive | None = None

    def settings(self) -> dict[str, Any]:
        """All but the model: what a merge of it takes too."""
        return self.model_dump(exclude={"model"})


class DomainSection(_Section):
    """The domain model: one that exists (``model``), or one to train on the collection's own documents (``train``).

    ``train`` takes the fields of :class:`pyterrier_merge.DomainTraining`; ``{}`` takes its defaults.
    """

    model: str | None = None
    train: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> DomainSection:
        if (self.model is None) == (self.train is None):
            raise ValueError("say either 'model' (a folder or hub id) or 'train' (settings; {} for the defaults)")
        if self.train is not None:
            self.training()
        return self

    def training(self) -> DomainTraining:
        """The settings of ``train``, checked."""
        settings, known = self.train or {}, list(vars(DomainTraining()))
        if unknown := [name for name in settings if name not in known]:
            raise ValueError(f"train has no setting {unknown[0]!r}; {unknown_name(str(unknown[0]), known)}")
        return DomainTraining(**settings)


class MergedSection(_Section):
    """How source and domain are merged, and how the alphas are chosen.

    Attributes:
        method: mergekit's name, of a method that takes weights.
        parameters: The method's own besides weights.
        grid: Values of both alphas, or pairs ``[alpha_lower, alpha_upper]``. A single pair is taken as it is.
        split: The split to choose on; never the test split.
        pool_depth: Choose on the judged documents and the first so many results of BM25 and source for each query of
            that split, instead of the whole collection. None for the whole.
    """

    method: Annotated[str, AfterValidator(_weighted_method)] = "linear"
    parameters: dict[str, Any] = Field(default_factory=dict)
    grid: Annotated[tuple[float, ...] | tuple[tuple[float, float], ...], BeforeValidator(_within_bounds)] = PAPER_GRID
    split: str = "dev"
    pool_depth: Positive | None = None

    @model_validator(mode="after")
    def _parameters_are_the_methods(self) -> MergedSection:
        MergeRecipe.halves("source", "domain", 0.5, 0.5, method=self.method, parameters=self.parameters)
        return self


class SignificanceSection(_Section):
    """The paired tests against BM25 and source."""

    correction: Literal["holm", "bonferroni", "fdr_bh", "none"] = "holm"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05


class ExperimentSpec(_Section):
    """One comparison on one collection: BM25, the source model, and the merge.

    Attributes:
        name: Of the run folder.
        collection: What is searched: a name, or a name with options.
        split: The split that the tables are computed on.
        measures: ``ir_measures`` names, the first of which the alphas are chosen by.
        num_results: Results for each query, of every system.
    """

    name: Annotated[str, Field(pattern=r"^[\w.-]*[\w-][\w.-]*$")]  # ".." is no name of a folder
    collection: CollectionSection
    split: str = "test"
    measures: tuple[MeasureName, ...] = ("nDCG@10", "RR@10", "R@100")
    num_results: Positive = 100
    bm25: BM25Section = BM25Section()
    source: SourceSection
    domain: DomainSection
    merged: MergedSection = MergedSection()
    significance: SignificanceSection = SignificanceSection()

    @model_validator(mode="after")
    def _nothing_chosen_on_test(self) -> ExperimentSpec:
        if self.merged.split in (self.split, "test"):
            raise ValueError(
                f"merged.split: alphas cannot be chosen on {self.merged.split!r}, which the tables are computed on"
            )
        if not self.measures or len(set(map(parse_measure, self.measures))) < len(self.measures):
            raise ValueError(f"measures: expected at least one, each once; found {list(self.measures)}")
        for measure in self.parsed_measures:
            check_measure(measure, self.num_results)
        return self

    @property
    def parsed_measures(self) -> list[Measure]:
        """The measures as ``ir_measures`` objects."""
        return [parse_measure(measure) for measure in self.measures]


class _EachFieldOnce(yaml.SafeLoader):
    """YAML in which a field that is given twice is an error; PyYAML takes the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        fields = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, field in enumerate(fields):
            if field in fields[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{field!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_spec(path: str | Path) -> ExperimentSpec:
    """Read and check a YAML file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no YAML, or not a valid experiment; the message names each field and what is wrong with it.
    """
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no experiment file {path}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _EachFieldOnce)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no experiment: expected fields such as 'collection' and 'source'")  # noqa: TRY004
    try:
        return ExperimentSpec.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {described(error, ExperimentSpec)}") from error
