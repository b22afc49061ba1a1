"""How runs are measured, wherever that is done: in one order, and on the topics that somebody judged."""

from __future__ import annotations

import pandas as pd

ORDER = "trec_eval"  # part of the name of what is kept: figures of another order are not these


def judged(topics: pd.DataFrame, qrels: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the topics that have judgements, and the judgements that have a topic: what means are taken over.

    Raises:
        ValueError: No topic has judgements.
    """
    both = topics[topics["qid"].isin(qrels["qid"])].reset_index(drop=True)
    if both.empty:
        raise ValueError(
            f"none of the {len(topics)} topics has judgements: expected the same qids in topics and qrels, found "
            f"{topics['qid'].head(3).tolist()} and {qrels['qid'].head(3).tolist()}"
        )
    return both, qrels[qrels["qid"].isin(topics["qid"])].reset_index(drop=True)


def in_one_order(results: pd.DataFrame) -> pd.DataFrame:
    """Return the results in trec_eval's order, with scores that say no more than that order: 0, -1, -2 ...

    trec_eval compares scores as float32 and puts documents of one score by docno, the larger first. ``ir_measures``
    computes some measures by other programs, which put the smaller first: scores without ties leave them no choice.

    Args:
        results: Columns ``qid``, ``docno`` and ``score``. Whatever order the rows are in, it does not count.
    """
    compared = results.assign(score=results["score"].astype("float32"))
    ordered = compared.sort_values(["qid", "score", "docno"], ascending=[True, False, False], ignore_index=True)
    rank = ordered.groupby("qid").cumcount()
    return ordered.assign(rank=rank, score=-rank.astype(float))
