"""Single queries of a comparison as data: the first results of each system, and their judgements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_merge.evaluation import in_one_order

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison

MOST_QUERIES = 100
DEPTH = 10  # documents of a system for a query
MOST_ROWS = 6_000  # for all systems and queries together; about 2 MB with their texts
SNIPPET, QUERY = 240, 1_000  # bytes of a document's text and of a query


def drill_down(comparison: Comparison) -> dict[str, Any]:
    """Return the queries in which systems differ most in the first measure, with the first results of each system.

    Systems with the same results as another one are left out; for several trials, the first trial's results are used.
    Documents are looked up, in one pass over all if the collection supports nothing else.

    Returns:
        Data for JSON: ``measure``, ``systems`` (names), ``start`` (positions of the two that are shown first: the last
        baseline and the best other system), ``docs`` (``[docno, text]``), and ``queries``, each with ``qid``,
        ``query``, ``relevant`` (number of relevant documents), ``values`` (one per system) and ``top``: for each system
        rows of ``[position in docs, score, label or None]`` in the measured order.
    """
    systems = [name for name in comparison.table["name"] if name not in comparison.same]
    values = _values(comparison, systems)
    qrels = comparison.qrels[comparison.qrels["qid"].isin(values.index)]
    labels = dict(zip(zip(qrels["qid"], qrels["docno"], strict=True), qrels["label"].tolist(), strict=True))
    relevant = qrels[qrels["label"] > 0].groupby("qid").size()
    tops = [_top(comparison.runs[name][0], values.index) for name in systems]
    docnos = dict.fromkeys(docno for top in tops for rows in top.values() for docno, _ in rows)
    place = {docno: number for number, docno in enumerate(docnos)}
    texts = {doc["docno"]: doc.get("text", "") for doc in comparison.collection.documents_of(set(docnos))}
    queries = comparison.topics.set_index("qid")["query"]
    return {
        "measure": comparison.measures[0],
        "systems": systems,
        "start": _start(comparison, systems),
        "docs": [[docno, shortened(texts.get(docno, ""), SNIPPET)] for docno in docnos],
        "queries": [
            {
                "qid": qid,
                "query": shortened(queries[qid], QUERY),
                "relevant": int(relevant.get(qid, 0)),
                "values": [round(float(value), 6) for value in own],
                "top": [[[place[d], score, labels.get((qid, d))] for d, score in top.get(qid, ())] for top in tops],
            }
            for qid, own in zip(values.index, values.to_numpy(), strict=True)
        ],
    }


def shortened(text: str, size: int) -> str:
    """Return the text if it has at most ``size`` bytes in UTF-8, else its beginning and an ellipsis."""
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= size else data[:size].decode("utf-8", "ignore").rstrip() + " …"


def _values(comparison: Comparison, systems: list[str]) -> pd.DataFrame:
    """The first measure: one row per shown query, largest differences first, and one column per system."""
    wide = comparison.by_query()[systems]
    most = min(MOST_QUERIES, max(1, MOST_ROWS // (DEPTH * max(1, len(systems)))))
    spread = wide.max(axis=1) - wide.min(axis=1)
    return wide.loc[spread.sort_values(ascending=False, kind="stable").index[:most]]


def _start(comparison: Comparison, systems: list[str]) -> list[int]:
    first = next((name for name in reversed(comparison.baselines) if name in systems), systems[0])
    means = comparison.table.set_index("name")[comparison.measures[0]]
    others = means[[name for name in systems if name != first] or [first]]
    return [systems.index(first), systems.index(str(others.idxmax()))]


def _top(run: pd.DataFrame, qids: Iterable[str]) -> Mapping[str, list[tuple[str, float]]]:
    """Docnos and scores of the first results of each query."""
    own = run.loc[run["qid"].isin(set(qids)), ["qid", "docno", "score"]]
    first = in_one_order(own.assign(shown=own["score"])).groupby("qid").head(DEPTH).copy()
    first["shown"] = first["shown"].map(lambda score: float(f"{score:.6g}"))
    return {str(qid): list(zip(own["docno"], own["shown"], strict=True)) for qid, own in first.groupby("qid")}
