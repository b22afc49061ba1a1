"""Hard negatives, drawn out of runs that are small enough to say by hand what is left."""

import pandas as pd
import pytest

from pyterrier_merge.collections import from_frames
from pyterrier_merge.training.pairs import pairs_from_frame

TEXTS = {f"d{n}": f"text {n}" for n in range(20)} | {"copy": "text 0", "blank": " "}


@pytest.fixture
def pairs():
    """Query a with d0 and d1, query b with d2."""
    rows = [("a", "A", "d0"), ("a", "A", "d1"), ("b", "B", "d2")]
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno"])
    return pairs_from_frame(frame.assign(text=frame["docno"].map(TEXTS)), "two")


def run_of(**scores):
    rows = [(qid, docno, score) for qid, found in scores.items() for docno, score in found.items()]
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])


RUN = run_of(
    a={"d5": 10, "d0": 9, "d6": 8.7, "d7": 8, "d1": 5, "d8": 4},
    b={"d2": 10, "d0": 9.6, "d5": 9.5, "d9": 1},
    c={"d3": 1},
)


def negatives_of(pairs, qid):
    return pairs.negatives.loc[pairs.negatives["qid"] == qid, "docno"].tolist()


@pytest.mark.parametrize(
    ("options", "a", "b"),
    [
        ({}, ["d5", "d6", "d7", "d8"], ["d0", "d5", "d9"]),
        ({"ranks": (2, 4)}, ["d6", "d7"], ["d0", "d5", "d9"]),
        ({"ranks": (6, 9)}, ["d8"], []),
        ({"margin": 0.95}, ["d7", "d8"], ["d5", "d9"]),  # at most 8.55 and 9.5
        ({"margin": 1}, ["d6", "d7", "d8"], ["d0", "d5", "d9"]),
        ({"margin": 0.95, "ranks": (1, 3)}, [], ["d5"]),
    ],
)
def test_the_window_and_the_margin(pairs, options, a, b):
    mined = pairs.with_negatives(RUN, TEXTS, **options)
    assert negatives_of(mined, "a") == a
    assert negatives_of(mined, "b") == b
    assert set(mined.texts) == {"d0", "d1", "d2", *a, *b}
    assert mined.positives.equals(pairs.positives)
    assert mined.labels == pairs.labels


def test_a_run_with_ranks_alone_counts_from_1_whatever_it_counts_from(pairs):
    ranked = RUN.assign(rank=RUN.groupby("qid").cumcount() + 7).drop(columns="score").sample(frac=1, random_state=0)
    mined = pairs.with_negatives(ranked, TEXTS, ranks=(2, 4))
    assert negatives_of(mined, "a") == ["d6", "d7"]
    with pytest.raises(ValueError, match="a margin needs the scores"):
        pairs.with_negatives(ranked, TEXTS, margin=0.9)


def test_where_no_positive_is_found_a_margin_leaves_nothing(pairs, caplog):
    mined = pairs.with_negatives(RUN[RUN["docno"] != "d2"], TEXTS, margin=0.95, per_query=2)
    assert negatives_of(mined, "b") == []
    assert negatives_of(mined, "a") == ["d7", "d8"]
    assert "two: 1 of the 2 queries have fewer than 2 negatives, and 1 of them none" in caplog.text


def test_draws_depend_on_seed_and_trial_and_on_no_other_query(pairs):
    run = run_of(a={f"d{n}": 20 - n for n in range(20)}, b={f"d{n}": 20 - n for n in range(20)})
    drawn = pairs.with_negatives(run, TEXTS, per_query=4)
    assert len(negatives_of(drawn, "a")) == len(negatives_of(drawn, "b")) == 4
    assert negatives_of(drawn, "a") == sorted(negatives_of(drawn, "a"), key=lambda docno: int(docno[1:]))
    alone = pairs.only(["b"]).with_negatives(run.sample(frac=1, random_state=1), TEXTS, per_query=4)
    assert negatives_of(alone, "b") == negatives_of(drawn, "b")
    as_strings = run.astype({"qid": "string", "docno": "string"})
    assert pairs.with_negatives(as_strings, TEXTS, per_query=4).fingerprint == drawn.fingerprint
    others = {
        pairs.with_negatives(run, TEXTS, per_query=4, seed=s, trial=t).fingerprint for s in (0, 1) for t in (0, 1)
    }
    assert len(others) == 4


def test_copies_of_relevant_texts_and_blank_texts_are_no_negatives(pairs, caplog):
    run = run_of(a={"copy": 3, "blank": 2, "d9": 1}, b={"copy": 1})
    mined = pairs.with_negatives(run, TEXTS, per_query=1)
    assert negatives_of(pairs.with_negatives(run, TEXTS), "a") == ["d9"]
    assert negatives_of(mined, "b") == ["copy"]


def test_a_query_is_not_its_own_negative_where_the_collection_says_so(pairs):
    docs = [{"docno": docno, "text": text} for docno, text in {**TEXTS, "a": "A"}.items() if text.strip()]
    topics = pd.DataFrame([("a", "A")], columns=["qid", "query"])
    qrels = pd.DataFrame([("a", "d0", 1)], columns=["qid", "docno", "label"])
    run = run_of(a={"a": 2, "d9": 1})
    for ignored, expected in ((True, ["d9"]), (False, ["a", "d9"])):
        collection = from_frames("own", docs, topics, qrels, ignore_identical_ids=ignored)
        assert negatives_of(pairs.with_negatives(run, collection), "a") == expected


def test_new_negatives_take_the_place_of_old_ones(pairs):
    first = pairs.with_negatives(RUN, TEXTS)
    again = first.with_negatives(run_of(a={"d15": 1}), TEXTS)
    assert again.negatives["docno"].tolist() == ["d15"]
    assert set(again.texts) == {"d0", "d1", "d2", "d15"}


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        (RUN[["qid", "docno"]], {}, "a run has qid, docno, and score or rank; found qid, docno"),
        (RUN.rename(columns={"docno": "docid"}), {}, "found qid, docid, score"),
        (RUN[RUN["qid"] == "c"], {}, r"the run has none of the 2 queries: expected qids such as 'a', found \['c'\]"),
        (RUN.iloc[:0], {}, "the run has none of the 2 queries"),
        (pd.concat([RUN, RUN.iloc[:1]]), {}, "the run has docno 'd5' twice for qid 'a'"),
        (RUN.assign(score=RUN["score"] - 10), {"margin": 0.9}, "2 positives have a score of 0 or below"),
        (RUN, {"ranks": (0, 10)}, r"counted from 1, such as \(1, 100\); found \(0, 10\)"),
        (RUN, {"ranks": (5, 4)}, "found"),
        (RUN, {"ranks": 5}, "found 5"),
        (RUN.assign(score="x"), {}, "the score of qid 'a' is not a number"),
        (RUN.assign(score=float("nan")), {}, "the score of qid 'a' is not a number"),
        (RUN, {"margin": 1.1}, "above 0 and at most 1; found 1.1"),
        (RUN, {"per_query": 0}, "at least 1, found 0"),
    ],
)
def test_bad_runs_and_settings_are_refused(pairs, run, options, message):
    with pytest.raises(ValueError, match=message):
        pairs.with_negatives(run, TEXTS, **options)


def test_other_things_than_frames_and_texts_are_refused(pairs):
    with pytest.raises(TypeError, match=r"expected a frame of results, found 'run.res'"):
        pairs.with_negatives("run.res", TEXTS)
    with pytest.raises(TypeError, match="expected the collection that was searched, or docno -> text; found 'hpo'"):
        pairs.with_negatives(RUN, "hpo")


def test_a_run_over_another_collection_is_refused(pairs):
    with pytest.raises(ValueError, match="none of the 1 negatives has a text, such as 'x9'"):
        pairs.with_negatives(run_of(a={"x9": 1}), TEXTS)


def test_no_judged_document_of_real_queries_is_mined():
    from pyterrier_merge import bm25, get_collection
    from pyterrier_merge.training.pairs import pairs_from_collection

    hpo = get_collection("hpo")
    pairs = pairs_from_collection(hpo).sample(number=50)
    mined = pairs.with_negatives(bm25(hpo, num_results=50)(pairs.queries), hpo, ranks=(1, 50), per_query=10)
    relevant = set(map(tuple, hpo.qrels("train").query("label > 0")[["qid", "docno"]].to_numpy()))
    assert not relevant & set(map(tuple, mined.negatives.to_numpy()))
    assert mined.negatives.groupby("qid").size().max() == 10
    assert len(mined.negatives) > 400
