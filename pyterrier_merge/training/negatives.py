"""Hard negatives from a run: in a range of ranks, a margin below the positives, never known to be relevant."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping

import pandas as pd

from pyterrier_merge.collections.base import TestCollection

logger = logging.getLogger(__name__)


def read_texts(texts: TestCollection | Mapping[str, str], docnos: Collection[str]) -> dict[str, str]:
    """Return the texts of documents, without those that are unknown or blank.

    Raises:
        TypeError: ``texts`` is neither a collection nor a mapping.
    """
    wanted = set(docnos)
    if isinstance(texts, TestCollection):
        found = {doc["docno"]: doc["text"] for doc in texts.documents_of(wanted)}
    elif isinstance(texts, Mapping):
        found = {docno: texts[docno] for docno in wanted if docno in texts}
    else:
        raise TypeError(f"expected the collection that was searched, or docno -> text; found {texts!r:.80}")
    return {docno: text for docno, text in found.items() if text.strip()}


def mine(
    name: str,
    qids: pd.Series[str],
    relevant: pd.DataFrame,
    run: pd.DataFrame,
    texts: TestCollection | Mapping[str, str],
    *,
    ranks: tuple[int, int],
    margin: float | None,
    per_query: int,
    seed: str,
    known: Mapping[str, str],
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return negatives (``qid``, ``docno``, in rank order) and their texts.

    See :meth:`~pyterrier_merge.training.pairs.TrainingPairs.with_negatives`.

    Args:
        name: Name of the pairs, for messages.
        qids: Qids of the queries.
        relevant: ``qid`` and ``docno`` of relevant documents.
        run: Results of the queries.
        texts: Collection or mapping with the negatives' texts.
        ranks: First and last rank, counted from 1.
        margin: Maximum score of a negative, as a share of the best positive's score.
        per_query: Negatives per query.
        seed: Random seed of the draw.
        known: Texts of the positives.
    """
    _check(ranks, margin, per_query)
    ranked = _ranked(name, qids, run, isinstance(texts, TestCollection) and texts.ignore_identical_ids)
    is_relevant = pd.MultiIndex.from_frame(ranked[["qid", "docno"]]).isin(
        pd.MultiIndex.from_frame(relevant[["qid", "docno"]])
    )
    first, last = ranks
    candidates = ranked[~is_relevant & ranked["rank"].between(first, last)]
    if margin is not None:
        candidates = _below(name, candidates, ranked[is_relevant], margin)
    drawn = _drawn(candidates, per_query, seed)
    found = read_texts(texts, drawn["docno"])
    if len(drawn) and not found:
        raise ValueError(
            f"{name}: none of the {drawn['docno'].nunique()} negatives has a text, such as {drawn['docno'].iloc[0]!r}: "
            "give the texts of the collection that was searched"
        )
    drawn = drawn[drawn["docno"].isin(found.keys()) & ~_copies(drawn, relevant, {**known, **found})]
    drawn = drawn[["qid", "docno"]].reset_index(drop=True)
    _report(name, qids, drawn, per_query)
    return drawn, {docno: found[docno] for docno in dict.fromkeys(drawn["docno"])}


def _check(ranks: tuple[int, int], margin: float | None, per_query: int) -> None:
    if not isinstance(ranks, tuple | list) or len(ranks) != 2 or not 1 <= ranks[0] <= ranks[1]:
        raise ValueError(f"ranks are the first and the last one, counted from 1, such as (1, 100); found {ranks!r}")
    if margin is not None and not 0 < margin <= 1:
        raise ValueError(f"margin is a share of the positive's score, above 0 and at most 1; found {margin!r}")
    if per_query < 1:
        raise ValueError(f"per_query is at least 1, found {per_query!r}")


def _ranked(name: str, qids: pd.Series[str], run: pd.DataFrame, ignore_identical_ids: bool) -> pd.DataFrame:
    """Return the results of these queries, ranked from 1 by score, or in the order of their ranks."""
    if not isinstance(run, pd.DataFrame):
        raise TypeError(f"{name}: expected a frame of results, found {run!r:.80}")
    by = next((column for column in ("score", "rank") if column in run), None)
    if by is None or not {"qid", "docno"} <= set(run.columns):
        raise ValueError(f"{name}: a run has qid, docno, and score or rank; found {', '.join(map(str, run.columns))}")
    own = run.astype({"qid": str, "docno": str})
    own = own[own["qid"].isin(qids)].copy()
    if own.empty:
        raise ValueError(
            f"{name}: the run has none of the {len(qids)} queries: expected qids such as {qids.iloc[0]!r}, found "
            f"{run['qid'].head(3).tolist()}"
        )
    if own.duplicated(["qid", "docno"]).any():
        twice = own[own.duplicated(["qid", "docno"])].iloc[0]
        raise ValueError(f"{name}: the run has docno {twice['docno']!r} twice for qid {twice['qid']!r}")
    if ignore_identical_ids:
        own = own[own["qid"] != own["docno"]]
    own[by] = pd.to_numeric(own[by], errors="coerce")
    if own[by].isna().any():
        raise ValueError(f"{name}: the {by} of qid {own.loc[own[by].isna(), 'qid'].iloc[0]!r} is not a number")
    if by == "score":  # in trec_eval's order, as in the whole package
        keys = own.assign(compared=own["score"].astype("float32"))
        ordered = keys.sort_values(["qid", "compared", "docno"], ascending=[True, False, False])
    else:
        ordered = own.sort_values(["qid", "rank"], kind="stable")
    return ordered.assign(rank=ordered.groupby("qid").cumcount() + 1)


def _below(name: str, candidates: pd.DataFrame, positives: pd.DataFrame, margin: float) -> pd.DataFrame:
    if "score" not in candidates:
        raise ValueError(f"{name}: a margin needs the scores of the run")
    best = positives.groupby("qid")["score"].max()
    if (best <= 0).any():
        raise ValueError(
            f"{name}: {(best <= 0).sum()} positives have a score of 0 or below (such as {best.min():g}): a margin "
            "needs scores above 0, such as those of BM25 or cosine similarity"
        )
    return candidates[candidates["score"] <= margin * candidates["qid"].map(best)]  # none without a retrieved positive


def _drawn(candidates: pd.DataFrame, per_query: int, seed: str) -> pd.DataFrame:
    """Draw by a keyed hash of each row, so that the draw of a query does not depend on other queries."""
    key = hashlib.sha256(seed.encode()).hexdigest()[:16]
    names = candidates[["qid", "docno"]].astype(object)
    order = pd.util.hash_pandas_object(names, index=False, hash_key=key)
    drawn = candidates.assign(order=order).sort_values(["qid", "order"]).groupby("qid").head(per_query)
    return drawn.sort_values(["qid", "rank"])


def _copies(drawn: pd.DataFrame, relevant: pd.DataFrame, texts: Mapping[str, str]) -> pd.Series[bool]:
    """Return which negatives have the same text as a document that is relevant to their query."""
    same = pd.DataFrame({"qid": relevant["qid"], "text": relevant["docno"].map(texts)}).dropna()
    pairs = pd.DataFrame({"qid": drawn["qid"], "text": drawn["docno"].map(texts)})
    found = pd.MultiIndex.from_frame(pairs).isin(pd.MultiIndex.from_frame(same))
    return pd.Series(found, index=drawn.index)


def _report(name: str, qids: pd.Series[str], drawn: pd.DataFrame, per_query: int) -> None:
    counts = drawn.groupby("qid").size().reindex(qids, fill_value=0)
    if short := int((counts < per_query).sum()):
        logger.warning(
            "%s: %d of the %d queries have fewer than %d negatives, and %d of them none",
            name, short, len(qids), per_query, int((counts == 0).sum()),
        )  # fmt: skip
