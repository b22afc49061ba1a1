"""Measures runs in the same way everywhere: in one order, on judged topics, with checked measures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
from ir_measures.measures import Measure

from pyterrier_merge.spelling import nearest

ORDER = "trec_eval"  # part of the names of stored figures, which depend on the order
# Artificial results and judgements: a relevant document is found for the first query, none for the second.
_MADE_UP_RUN = pd.DataFrame(
    [(qid, docno, -rank) for qid in ("1", "2") for rank, docno in enumerate("abc")], columns=["qid", "docno", "score"]
)
_MADE_UP_QRELS = pd.DataFrame(
    [("1", "d", 1), ("1", "b", 2), ("1", "c", 0), ("2", "d", 1), ("2", "b", 0), ("2", "c", 0)],
    columns=["qid", "docno", "label"],
)


def judged(topics: pd.DataFrame, qrels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the topics that have judgements, and the judgements that have a topic, for computing means.

    Raises:
        ValueError: No topic has judgements.
    """
    if topics.empty:
        raise ValueError("there are no topics in this split")
    both = topics[topics["qid"].isin(qrels["qid"])].reset_index(drop=True)
    if both.empty:
        raise ValueError(
            f"none of the {len(topics)} topics has judgements: expected the same qids in topics and qrels, found "
            f"{topics['qid'].head(3).tolist()} and {qrels['qid'].head(3).tolist()}"
        )
    return both, qrels[qrels["qid"].isin(topics["qid"])].reset_index(drop=True)


def in_one_order(results: pd.DataFrame) -> pd.DataFrame:
    """Return the results in trec_eval's order, with scores that express only that order: 0, -1, -2 ...

    trec_eval compares scores as float32 and sorts documents of equal score by docno, the larger first. ``ir_measures``
    computes some measures with other programs, which put the smaller first; scores without ties give one order.

    Args:
        results: Columns ``qid``, ``docno`` and ``score``. The order of the rows does not matter.
    """
    compared = results.assign(score=results["score"].astype("float32"))
    ordered = compared.sort_values(["qid", "score", "docno"], ascending=[True, False, False], ignore_index=True)
    rank = ordered.groupby("qid").cumcount()
    return ordered.assign(rank=rank, score=-rank.astype(float))


def parsed_measure(text: str) -> Measure:
    """Return the measure of that name, such as ``nDCG@10``.

    Raises:
        ValueError: ``ir_measures`` has no such measure (the message has the nearest name), or no such parameter.
    """
    try:
        measure: Measure = ir_measures.parse_measure(text)
    except (NameError, SyntaxError, ValueError) as error:
        name, _, rest = text.partition("@")
        close = nearest(name, (str(measure.NAME) for measure in ir_measures.measures.registry.values()))
        meant = close + (f"@{rest}" if rest else "") if close else text
        hint = f"; did you mean {meant!r}?" if meant != text else ""
        raise ValueError(f"{text!r} is not a measure of ir_measures: {error}{hint}") from error
    supported = measure.SUPPORTED_PARAMS
    if unknown := [name for name in measure.params if name not in supported]:  # ir_measures cannot print it
        raise ValueError(f"{text!r} has no parameter {unknown[0]!r}; it has {', '.join(supported) or 'none'}")
    return measure


def check_measure(measure: Measure, num_results: int) -> None:
    """Compute a measure on artificial results, to find errors at once instead of after hours.

    Args:
        measure: The measure.
        num_results: Results for each query; the largest valid cutoff.

    Raises:
        ValueError: It is the name of a measure, the cutoff is not a number from 1 to ``num_results``, or
            ``ir_measures`` cannot compute the measure.
    """
    if not isinstance(measure, Measure):
        raise ValueError(f"expected a measure, such as ir_measures.nDCG @ 10, found {measure!r}")  # noqa: TRY004
    cutoff = measure.params.get("cutoff")
    if cutoff is not None and (type(cutoff) is not int or cutoff < 1):  # pytrec_eval ends the process at 0
        raise ValueError(f"the cutoff of {measure} must be a whole number, at least 1, not {cutoff!r}")
    if cutoff is not None and cutoff > num_results:
        raise ValueError(f"{measure} looks deeper than num_results, {num_results}")
    try:
        found = measure_runs({"": _MADE_UP_RUN}, _MADE_UP_QRELS, [measure], in_order=True)
    except Exception as error:  # errors of ir_measures' programs have no common class
        reason = re.sub(r"<object object at \w+>", "nothing", str(error))
        raise ValueError(f"{measure} cannot be computed: {type(error).__name__}: {reason}") from error
    if set(_MADE_UP_QRELS["qid"]) - set(found.dropna()["qid"]):
        raise ValueError(f"{measure} cannot be computed: it has no value for a query that finds nothing relevant")


def require_attainable(measure: Measure, qrels: pd.DataFrame) -> None:
    """Raise ``ValueError`` if no label is high enough for the measure, so that every query would score 0."""
    lowest = measure.params.get("rel", 1)
    if "rel" not in measure.SUPPORTED_PARAMS and not str(measure).startswith("nDCG"):
        return
    if (highest := qrels["label"].max()) < lowest:
        raise ValueError(
            f"{measure} would be 0 for every query: it needs judgements with a label of {lowest} at least, and the "
            f"highest label is {highest}"
        )


def measure_runs(
    runs: Mapping[str, pd.DataFrame], qrels: pd.DataFrame, measures: Sequence[Measure], *, in_order: bool = False
) -> pd.DataFrame:
    """Measure every query of every run by ``ir_measures``.

    A query of ``qrels`` without results in a run gets the measure's value for an empty result list; results of other
    queries are ignored.

    Args:
        runs: Name -> results (``qid``, ``docno``, ``score``); see :func:`in_one_order` for the order of ties.
        qrels: ``qid``, ``docno``, ``label``.
        measures: The measures.
        in_order: Whether the runs come from :func:`in_one_order`.

    Returns:
        Columns ``name``, ``qid``, ``measure`` (its name), ``value``: by run, then measure in the order of ``measures``.
    """
    numbers = {qid: str(number) for number, qid in enumerate(qrels["qid"].unique(), 1)}  # gdeval (ERR) misreads names
    qids = {number: qid for qid, number in numbers.items()}
    judgements = qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
    evaluator = ir_measures.evaluator(list(measures), judgements.assign(query_id=qrels["qid"].map(numbers)))
    frames = []
    for name, run in runs.items():
        results = run.loc[run["qid"].isin(list(numbers)), ["qid", "docno", "score"]]
        ordered = results if in_order else in_one_order(results)
        by_query = {numbers[qid]: found for qid, found in _by_query(ordered).items()}
        values = evaluator.iter_calc(by_query or {"0": {"none": 0.0}})  # a query without judgements: all others score 0
        rows = [(name, qids[number], str(measure), float(value)) for number, measure, value in values if number in qids]
        frames.append(pd.DataFrame(rows, columns=["name", "qid", "measure", "value"]))
    order = {str(measure): place for place, measure in enumerate(measures)}
    return pd.concat(
        [frame.sort_values("measure", key=lambda names: names.map(order), kind="stable") for frame in frames],
        ignore_index=True,
    )


def _by_query(results: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Map qid to docno to score, which every provider reads without conversion. Results are sorted by query."""
    docnos, scores = results["docno"].tolist(), results["score"].tolist()
    starts = np.flatnonzero(~results["qid"].duplicated().to_numpy())
    ends = [*starts[1:].tolist(), len(results)][: len(starts)]
    spans = zip(results["qid"].iloc[starts], starts.tolist(), ends, strict=True)
    return {qid: dict(zip(docnos[start:end], scores[start:end], strict=True)) for qid, start, end in spans}


def mean_values(per_query: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """Return one row per run: ``name``, and a column for each measure with its own mean (``NumRet`` is a sum)."""
    rows = []
    for name, own in per_query.groupby("name", sort=False):
        values = dict(list(own.groupby("measure", sort=False)["value"]))
        row: dict[str, Any] = {"name": name}
        for measure in measures:
            total = measure.aggregator()
            for value in values[str(measure)]:
                total.add(value)
            row[str(measure)] = float(total.result())
        rows.append(row)
    return pd.DataFrame(rows, columns=["name", *map(str, measures)])
