"""``compare``: any systems over one collection, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections.base import require_collection
from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.experiment.assembling import compared
from pyterrier_merge.experiment.bench import ExperimentBench, InMemory
from pyterrier_merge.experiment.comparison import Comparison
from pyterrier_merge.experiment.significance import Correction, Family, Test, TestPlan
from pyterrier_merge.experiment.system_names import require_own_files
from pyterrier_merge.progress import verbosity
from pyterrier_merge.systems.base import System
from pyterrier_merge.systems.given import ResultsSystem, TransformerSystem
from pyterrier_merge.systems.trec_run import TrecRunSystem
from pyterrier_merge.tuning.result import Sweep

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection


@verbosity
def compare(
    systems: Mapping[str, Any],
    collection: TestCollection,
    *,
    split: str = "test",
    measures: Sequence[Measure] | None = None,
    baselines: Sequence[str] | None = None,
    test: Test = "t",
    correction: Correction = "holm",
    family: Family = "all",
    level: float = 0.05,
    simultaneous: bool = False,
    num_results: int = 100,
    verbose: bool | None = None,
) -> Comparison:
    """Compare systems on one split of a collection: figures, paired tests, and a verdict.

    Every system answers all topics of the split; those with judgements are measured, by ``ir_measures``, in trec_eval's
    order of equal scores. A system that fails is reported with its reason, and the others are compared.

    Args:
        systems: By name, in the order of the table: a PyTerrier transformer from topics to results, a frame of results
            (``qid``, ``docno``, ``score``), the path of a TREC run file, or a
            :class:`~pyterrier_merge.systems.base.System`.
        collection: The collection with topics and judgements.
        split: The split to measure on.
        measures: ``ir_measures`` measures, the most important first; the collection's when None.
        baselines: Names of systems that the others are tested against; the first system when None, ``()`` for none.
        test: ``t``, ``randomization`` or ``wilcoxon``: a two-sided paired test over the queries.
        correction: ``holm``, ``bonferroni``, ``fdr_bh`` or ``none``.
        family: Which p-values are corrected together: ``all``, or those of each ``measure`` against each baseline, as
            in ``pt.Experiment``.
        level: Corrected p-values below it are significant; ``1 - level`` is the level of the intervals.
        simultaneous: Widen the intervals so that all intervals of a family hold together (Bonferroni).
        num_results: Results for each query of every system; further results are cut.
        verbose: Show progress bars; in terminals and notebooks when None.

    Raises:
        TypeError: A system or the collection has the wrong type.
        ValueError: An unknown split, baseline, test, correction or family; a measure that cannot be computed or looks
            deeper than ``num_results``; no topic with judgements; or a run file that is missing.
    """
    require_collection(collection)
    if not isinstance(systems, Mapping):
        raise TypeError(
            f"systems is a mapping from names to systems, such as {{'BM25': bm25(collection)}}; found {systems!r}"
        )
    if isinstance(baselines, str):
        raise ValueError(f"baselines is a list of names; found {baselines!r}: give [{baselines!r}]")  # noqa: TRY004
    if isinstance(num_results, bool) or not isinstance(num_results, int) or num_results < 1:
        raise ValueError(f"num_results is a whole number of at least 1, found {num_results!r}")
    if isinstance(measures, (str, bytes)) or (measures is not None and not measures):
        raise ValueError(f"measures are objects of ir_measures in a list, such as [nDCG @ 10]; found {measures!r}")
    plan = TestPlan(test=test, correction=correction, family=family, level=level, simultaneous=simultaneous)
    if not systems:
        raise ValueError("there are no systems to compare")
    require_own_files(map(str, systems))
    if measures is not None and len(set(measures)) < len(measures):
        raise ValueError(f"measures: expected each once; found {', '.join(map(str, measures))}")
    bench = ExperimentBench(
        systems={str(name): as_system(str(name), system) for name, system in systems.items()},
        collection=collection,
        split=split,
        measures=list(measures or collection.measures),
        num_results=num_results,
        store=InMemory(),
        verbose=verbose,
    )
    bench.check()
    return compared(bench, list(bench.systems)[:1] if baselines is None else list(baselines), plan)


def as_system(name: str, given: Any) -> System:
    """Convert an argument of ``compare`` to a system.

    Raises:
        TypeError: It cannot be compared.
    """
    if isinstance(given, System):
        return given
    if isinstance(given, pd.DataFrame):
        return ResultsSystem(results=given)
    if isinstance(given, (str, os.PathLike)):
        return TrecRunSystem(file=Path(given))
    if isinstance(given, E5Encoder):
        raise TypeError(f"system {name!r} is an encoder; to search with it, use dense_retriever(encoder, collection)")
    if isinstance(given, Sweep):
        raise TypeError(
            f"system {name!r} is a sweep; to search with its best merge, use dense_retriever(sweep.best, collection)"
        )
    if isinstance(given, pt.Transformer):
        return TransformerSystem(transformer=given)
    raise TypeError(
        f"system {name!r} is {given!r}: expected a PyTerrier transformer, a frame of results, the path of a run file "
        "or a System"
    )
