import subprocess
import sys

import ir_measures
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import AP, RR, P, R, Success, nDCG

from pyterrier_merge.evaluation import check_measure, in_one_order, judged, measure_runs


def results(**scores):
    return pd.DataFrame({"qid": "q", "docno": list(scores), "score": list(scores.values())})


def relevant(docno):
    return pd.DataFrame({"qid": ["q"], "docno": [docno], "label": [1]})


@pytest.mark.parametrize("rows", [{"a": 1.0, "b": 1.0, "c": 1.0}, {"c": 1.0, "a": 1.0, "b": 1.0}])
@pytest.mark.parametrize(("docno", "rank"), [("c", 1), ("b", 2), ("a", 3)])
def test_all_measures_see_equal_scores_in_one_order(rows, docno, rank):
    """By hand: c, b, a, whatever the order of the rows. Without it RR@10 sees a, b, c."""
    found = pt.Evaluate(in_one_order(results(**rows)), relevant(docno), [RR @ 10, RR, AP, P @ 1, Success @ 1])
    first = float(rank == 1)
    assert list(found.values()) == pytest.approx([1 / rank, 1 / rank, 1 / rank, first, first])


def test_the_order_is_that_of_trec_eval_itself():
    """It reads the real scores here: equal in float32, and docnos compared byte by byte."""
    run = results(**{"d1": 1 + 1e-12, "d2": 1.0, "é": 1.0, "z": 1.0, "日": 0.5, "D": 0.5, "last": 1e-30})
    for docno in run["docno"]:
        measures = [RR, AP, nDCG @ 3, R @ 2, P @ 5]
        ours = pt.Evaluate(in_one_order(run), relevant(docno), measures)
        assert ours == pytest.approx(pt.Evaluate(run, relevant(docno), measures))


def test_each_query_is_ordered_by_itself():
    run = pd.DataFrame(
        {"qid": ["2", "1", "1", "2"], "docno": list("abab"), "score": [0.1, 5.0, 7.0, 0.2], "rank": [9, 9, 9, 9]}
    )
    ordered = in_one_order(run)
    assert ordered[["qid", "docno", "rank", "score"]].to_numpy().tolist() == [
        ["1", "a", 0, 0.0],
        ["1", "b", 1, -1.0],
        ["2", "b", 0, 0.0],
        ["2", "a", 1, -1.0],
    ]


def test_topics_and_judgements_that_have_each_other():
    topics = pd.DataFrame({"qid": ["1", "2"], "query": ["x", "y"]})
    qrels = pd.DataFrame({"qid": ["2", "3"], "docno": ["d", "d"], "label": [1, 1]})
    both, labels = judged(topics, qrels)
    assert (both["qid"].tolist(), labels["qid"].tolist()) == (["2"], ["2"])
    with pytest.raises(ValueError, match=r"none of the 2 topics has judgements.*\['1', '2'\] and \['3'\]"):
        judged(topics, labels.assign(qid="3"))


@pytest.mark.parametrize(
    "measure",
    ["nDCG@10", "RR@10", "R@5", "AP", "ERR@10", "Judged@10", "SetF", "NumRet", "Compat", "infAP"],
)
def test_a_system_without_any_result_has_nought(measure):
    qrels = pd.DataFrame({"qid": ["9", "9", "10"], "docno": ["none", "d", "d"], "label": [1, 0, 2]})
    nothing = pd.DataFrame(columns=["qid", "docno", "score"])
    found = measure_runs({"x": nothing}, qrels, [ir_measures.parse_measure(measure)])
    assert dict(zip(found["qid"], found["value"], strict=True)) == {"9": 0, "10": 0}


def test_names_of_queries_do_not_matter():
    """gdeval, which computes ERR, reads a number at the end of a name as the name, and fails for others."""
    qrels = pd.DataFrame({"qid": ["1", "1", "2"], "docno": ["a", "b", "a"], "label": [1, 2, 1]})
    run = pd.DataFrame({"qid": ["1", "1", "2"], "docno": ["b", "c", "a"], "score": [2.0, 1.0, 1.0]})
    measures = [ir_measures.parse_measure(name) for name in ("ERR@10", "nDCG@10", "RR")]
    plain = measure_runs({"x": run}, qrels, measures)
    assert plain.loc[plain["measure"] == "ERR@10", "value"].gt(0).all()
    for names in ({"1": "HP:7-1", "2": "HP:7-2"}, {"1": "q", "2": "two words"}):
        renamed = (frame.assign(qid=frame["qid"].map(names)) for frame in (run, qrels))
        found = measure_runs({"x": next(renamed)}, next(renamed), measures)
        pd.testing.assert_frame_equal(found, plain.assign(qid=plain["qid"].map(names)))


@pytest.mark.parametrize(
    "measure",
    ["nDCG@10", "RR@10", "R@100", "AP", "P(rel=2)@5", "Rprec", "Bpref", "infAP", "Judged@10", "Success@1", "SetF",
     "IPrec@0.5", "Compat(p=0.9)", "NumRet", "ERR@10", "nDCG(dcg='exp-log2')@10", "RR", "AP(judged_only=True)"],
)  # fmt: skip
def test_measures_that_can_be_computed(measure):
    check_measure(ir_measures.parse_measure(measure), 100)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("R@101", "R@101 looks deeper than num_results, 100"),
        ("RR@0", "the cutoff of RR@0 must be a whole number, at least 1, not 0"),
        ("alpha_nDCG@10", r"cannot be computed: ValueError: Unsupported.*pyndeval"),
        ("AP_IA", "AP_IA cannot be computed"),
        ("P", "P cannot be computed: AssertionError: invalid param cutoff=nothing"),
        ("Accuracy", "Accuracy cannot be computed: it has no value for a query that finds nothing relevant"),
    ],
)
def test_measures_that_cannot_be_computed(measure, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        check_measure(ir_measures.parse_measure(measure), 100)


def test_a_cutoff_of_nought_does_not_end_the_process():
    code = (
        "from ir_measures import nDCG; from pyterrier_merge.evaluation import check_measure; check_measure(nDCG @ 0, 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "ValueError: the cutoff of nDCG@0" in ended.stderr
