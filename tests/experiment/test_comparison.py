"""``compare``: figures, tests, verdict and what it refuses."""

import dataclasses
import math
import re

import ir_measures
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import AP, RR, Judged, P, R, nDCG

from pyterrier_merge import bm25, compare, evaluation
from pyterrier_merge.collections import from_frames
from pyterrier_merge.evaluation import in_one_order
from pyterrier_merge.experiment import assembling
from pyterrier_merge.experiment.report import markdown
from pyterrier_merge.systems import Prepared, System, read_system


@pytest.fixture(scope="module")
def collection():
    """Six queries; documents d0 to d19, of which each query has one relevant, d0 to d5."""
    docs = [{"docno": f"d{number}", "text": f"word{number} heart"} for number in range(20)]
    topics = pd.DataFrame({"qid": [f"q{n}" for n in range(6)], "query": [f"word{n}" for n in range(6)]})
    qrels = pd.DataFrame({"qid": topics["qid"], "docno": [f"d{n}" for n in range(6)], "label": 1})
    return from_frames("six", docs, topics, qrels)


def ranked(*ranks):
    """Results in which the relevant document of query n has rank ``ranks[n]`` (from 1; 0: not found)."""
    rows = []
    for number, rank in enumerate(ranks):
        others = [f"d{other}" for other in range(19, 5, -1)]
        order = others if not rank else [*others[: rank - 1], f"d{number}", *others[rank - 1 :]]
        rows += [(f"q{number}", docno, -float(place)) for place, docno in enumerate(order)]
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])


GOOD, FAIR, POOR = ranked(1, 1, 1, 1, 1, 2), ranked(2, 2, 1, 3, 2, 2), ranked(4, 5, 3, 0, 9, 4)


def test_the_figures_are_those_of_ir_measures(collection):
    found = compare({"good": GOOD, "poor": POOR}, collection, measures=[nDCG @ 10, RR @ 10, AP], num_results=20)
    for name, run in (("good", GOOD), ("poor", POOR)):
        by_hand = ir_measures.calc_aggregate(
            [nDCG @ 10, RR @ 10, AP],
            collection.qrels("test").rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"}),
            run.rename(columns={"qid": "query_id", "docno": "doc_id"}),
        )
        row = found.table.set_index("name").loc[name]
        assert {str(measure): row[str(measure)] for measure in by_hand} == pytest.approx(
            {str(measure): value for measure, value in by_hand.items()}
        )
    assert found.table.set_index("name")["RR@10"]["good"] == pytest.approx((5 + 1 / 2) / 6)


def test_the_p_values_are_those_of_pt_experiment(collection):
    found = compare({"poor": POOR, "good": GOOD, "fair": FAIR}, collection, measures=[RR], family="measure")
    theirs = pt.Experiment(
        [POOR, GOOD, FAIR], collection.topics("test"), collection.qrels("test"), [RR], names=["poor", "good", "fair"],
        baseline=0, correction="holm",
    )  # fmt: skip
    ours = found.tests.set_index("system")
    for name in ("good", "fair"):
        row = theirs.set_index("name").loc[name]
        assert ours["p_value"][name] == pytest.approx(row["RR p-value"])
        assert ours["corrected_p"][name] == pytest.approx(row["RR p-value corrected"])


def test_signs_bold_and_letters(collection):
    found = compare({"poor": POOR, "good": GOOD}, collection, measures=[RR, P @ 1])
    assert found.marked()["system"].tolist() == ["poor (a)", "good"]
    assert found.marked()["RR"].tolist() == [f"{RR_POOR:.4f}", f"{11 / 12:.4f} a+"]
    assert f"**{11 / 12:.4f}** a+" in found.to_markdown()
    assert f"\\textbf{{{11 / 12:.4f}}}$^{{a+}}$" in found.to_latex()
    html = found._repr_html_()
    assert f"<b>{11 / 12:.4f}</b> a+" in html
    assert found.verdict() in html
    assert html.count('<td style="text-align: left">') == html.count("<td")


RR_POOR = (1 / 4 + 1 / 5 + 1 / 3 + 1 / 9 + 1 / 4) / 6


def test_latex_compiles_of_names_with_special_characters(collection):
    text = compare({"a_b & 50% #1": POOR, "x^2 ~ {y}\\z $": GOOD}, collection, measures=[RR]).to_latex()
    assert r"a\_b \& 50\% \#1 (a)" in text
    assert r"x\textasciicircum{}2 \textasciitilde{} \{y\}\textbackslash{}z \$" in text
    assert text.count(r"\\") == 3
    text = compare({"[a]": POOR, "*b": GOOD}, collection, measures=[RR]).to_latex()
    assert "\n{}[a] (a) &" in text  # not an argument of the command before it
    assert "\n{}*b &" in text


def test_each_run_is_ordered_once(collection, monkeypatch):
    """To be measured, and to see which systems are the same."""
    calls = []
    monkeypatch.setattr(assembling, "in_one_order", lambda run: calls.append(len(run)) or in_one_order(run))
    monkeypatch.setattr(evaluation, "in_one_order", lambda run: calls.append(len(run)) or in_one_order(run))
    found = compare({"good": GOOD, "poor": POOR, "again": GOOD}, collection, measures=[RR])
    assert calls == [len(GOOD), len(POOR), len(GOOD)]
    assert found.same == {"again": "good"}


def test_short_lists_are_named(collection):
    short = GOOD[GOOD.groupby("qid").cumcount() < 5]
    said = compare({"short": short, "good": GOOD}, collection, measures=[P @ 10, nDCG @ 10, RR]).notes
    assert "short has at most 5 results for a query; P@10, nDCG@10 look deeper." in said
    said = compare({"short": short, "good": GOOD}, collection, measures=[P @ 10, RR]).notes
    assert "short has at most 5 results for a query; P@10 looks deeper." in said


def test_a_bar_shows_how_far_a_comparison_is(collection, capsys):
    compare({"good": GOOD, "poor": POOR}, collection, measures=[RR], verbose=True)
    assert "comparing: 100%" in capsys.readouterr().err
    compare({"good": GOOD, "poor": POOR}, collection, measures=[RR])
    assert capsys.readouterr().err == ""


def test_html_escapes_names(collection):
    html = compare({"<script>": POOR, "b": GOOD}, collection, measures=[RR])._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_verdict_in_words(collection):
    found = compare({"poor": POOR, "fair": FAIR, "good": GOOD}, collection, measures=[RR], baselines=["poor", "fair"])
    said = found.verdict()
    assert said.startswith(f"good has the highest RR, {11 / 12:.4f}, over 6 queries. good is significantly better than")
    assert f"poor ({11 / 12 - RR_POOR:+.4f}, corrected p = " in said


def test_the_verdict_says_whether_a_p_value_is_corrected(collection):
    def said(**options):
        return compare({"poor": POOR, "fair": FAIR, "good": GOOD}, collection, measures=[RR], **options).verdict()

    assert ", corrected p = " in said(baselines=["poor", "fair"])
    assert ", p = " in said(baselines=["poor", "fair"], correction="none")
    by_baseline = said(baselines=["poor", "fair"], family="measure")  # two against poor, and one against fair
    assert re.search(r" poor \([^)]*, corrected p = .* fair \([^)]*, p = ", by_baseline)


def test_a_p_value_is_never_shown_as_0(collection):
    """A paired t-test over thousands of queries gives less than a float holds."""
    found = compare({"poor": POOR, "good": GOOD}, collection, measures=[RR], baselines=["poor"])
    tests = found.tests.assign(p_value=0.0, corrected_p=0.0, significant=True)
    smallest = dataclasses.replace(found, tests=tests)
    assert ", p <1e-300)" in smallest.verdict()
    assert markdown.tests_table(smallest)["corrected_p"].tolist() == ["<1e-300"]


def test_many_baselines_have_letters(collection):
    systems = {f"s{number}": FAIR.assign(docno=FAIR["docno"], score=FAIR["score"]) for number in range(3)}
    systems |= {f"t{number}": ranked(*np.random.default_rng(number).integers(1, 9, 6)) for number in range(28)}
    found = compare(systems, collection, measures=[RR], baselines=list(systems))
    names = found.marked()["system"].tolist()
    assert names[0] == "s0 (a)"
    assert names[1] == "s1 (a) = s0"
    assert names[28].startswith("t25 (aa)")  # three systems share the first letter


def test_the_same_results_count_once(collection):
    found = compare({"a": POOR, "b": GOOD, "again": GOOD.sample(frac=1, random_state=0)}, collection, measures=[RR])
    assert found.same == {"again": "b"}
    assert found.tests["system"].tolist() == ["b"]
    marked = found.marked().set_index("system")["RR"]
    assert marked["again = b"] == marked["b"]  # the sign is that of its twin
    assert found.tests["corrected_p"].item() == found.tests["p_value"].item()


def test_a_baseline_that_equals_another_is_tested_once(collection):
    found = compare({"a": POOR, "twin": POOR, "b": GOOD}, collection, measures=[RR], baselines=["a", "twin"])
    assert found.same == {"twin": "a"}
    assert found.tests[["system", "baseline"]].to_numpy().tolist() == [["b", "a"]]


def test_a_system_that_fails_is_named_and_the_others_go_on(collection):
    class Broken(pt.Transformer):
        def transform(self, inp):
            raise RuntimeError("out of order")

    found = compare({"good": GOOD, "broken": Broken(), "poor": POOR}, collection, measures=[RR])
    reason = found.failed["broken"]
    assert reason.startswith("searching failed: RuntimeError: out of order (test_comparison.py, line ")
    assert found.table["name"].tolist() == ["good", "poor"]
    assert found.marked().iloc[-1].tolist()[:2] == ["broken", "failed"]
    assert "Not measured, because they failed: broken." in found.verdict()
    assert reason in found.to_markdown()


def test_a_baseline_that_fails_leaves_the_others(collection):
    found = compare(
        {"bad": GOOD.drop(columns="score"), "good": GOOD, "poor": POOR}, collection, baselines=["bad", "poor"]
    )
    assert "score is missing" in found.failed["bad"]
    assert found.baselines == ("poor",)
    assert set(found.tests["baseline"]) == {"poor"}


def test_all_systems_can_fail(collection):
    found = compare({"bad": GOOD.drop(columns="score")}, collection)
    assert found.verdict() == "No system could be measured."
    assert "bad" in found.to_markdown()


def test_results_of_another_collection_are_refused(collection, caplog):
    strange = GOOD.assign(qid="x" + GOOD["qid"])
    other_docs = GOOD.assign(docno="x" + GOOD["docno"])
    mixed = pd.concat([GOOD, strange[:3]])
    found = compare({"qids": strange, "docs": other_docs, "mixed": mixed, "poor": POOR}, collection)
    assert "none of its 6 qids is among the test topics of six (such as 'xq0')" in found.failed["qids"]
    assert "none of its 20 docnos is among the documents of six" in found.failed["docs"]
    assert any("1 of 7 qids in the frame of results are not test topics of six." in note for note in found.notes)
    assert "1 of 7 qids" in caplog.text


def test_queries_without_results_score_0_and_are_counted(collection):
    found = compare({"part": GOOD[GOOD["qid"] != "q0"], "poor": POOR}, collection, measures=[RR])
    assert found.table.set_index("name")["RR"]["part"] == pytest.approx((4 + 1 / 2) / 6)
    assert found.unanswered == {"part": 1}
    assert found.table.set_index("name")["Judged@10"]["part"] == pytest.approx(0.1)  # of its own results
    assert "Queries without any result count as 0: part (1 of 6)." in found.verdict()


def test_a_run_file_and_a_frame_are_the_same(collection, tmp_path):
    file = tmp_path / "theirs.res"
    lines = GOOD.assign(iter="Q0", rank=GOOD.groupby("qid").cumcount() + 1, name="x")
    lines[["qid", "iter", "docno", "rank", "score", "name"]].to_csv(file, sep=" ", header=False, index=False)
    assert compare({"frame": GOOD, "file": file, "text": str(file)}, collection).same == {
        "file": "frame",
        "text": "frame",
    }


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.concat([GOOD, GOOD[:1]]), r"returned document 'd0' twice for qid 'q0'"),
        (GOOD.assign(score=math.nan), "returned a score that is not finite for qid 'q0'"),
        (GOOD.drop(columns="docno"), "docno is missing"),
    ],
)
def test_results_that_are_not_a_ranking_fail(frame, message, collection):
    assert re.search(message, compare({"odd": frame, "good": GOOD}, collection).failed["odd"])


def test_queries_that_differ_most_come_with_their_texts(collection):
    found = compare({"poor": POOR, "good": GOOD, "mixed": ranked(9, 1, 1, 1, 1, 1)}, collection, measures=[RR])
    table = found.differences("mixed", "good", num=1)
    assert table[["qid", "query"]].to_numpy().tolist() == [["q5", "word5"], ["q0", "word0"]]
    assert table["difference"].tolist() == pytest.approx([1 - 1 / 2, 1 / 9 - 1])
    with pytest.raises(ValueError, match="no system is named 'bst'; there are poor, good, mixed"):
        found.differences("bst", "good")
    with pytest.raises(ValueError, match="expected two names, found 'good' twice"):
        found.differences("good", "good")


def test_the_share_of_judged_results(collection):
    found = compare({"good": GOOD, "poor": POOR}, collection, measures=[RR])
    assert found.table.set_index("name")["Judged@10"]["good"] == pytest.approx(0.1)
    assert found.table.set_index("name")["Judged@10"]["poor"] == pytest.approx(5 / 60)
    assert "are judged" not in found.verdict()  # a difference of .02 decides nothing
    qrels = pd.concat([collection.qrels("test").assign(docno=f"d{n}", label=0) for n in range(11, 20)])
    topics = collection.topics("test")
    well = from_frames("well", collection.corpus_iter(), topics, pd.concat([collection.qrels("test"), qrels]))
    other = GOOD[~GOOD["docno"].isin([f"d{n}" for n in range(15, 20)])]  # five judged documents are not found
    said = compare({"good": GOOD, "other": other}, well, measures=[RR]).verdict()
    assert "Between 50% (other) and 100% (good) of the first ten results are judged" in said
    short = other.groupby("qid").head(9)  # its share is of fewer documents
    assert "are judged" not in compare({"short": short, "good": GOOD}, well, measures=[RR]).verdict()
    half = GOOD[GOOD["qid"].isin(["q0", "q1"])]
    for measures in ([RR], [RR, Judged @ 10]):  # queries without results are no unjudged results
        assert "are judged" not in compare({"half": half, "good": GOOD}, well, measures=measures).verdict()
    assert list(compare({"good": GOOD}, collection, measures=[Judged @ 10]).table) == ["name", "Judged@10", "labels"]


def test_what_is_saved(collection, tmp_path):
    found = compare({"poor one": POOR, "good": GOOD}, collection, measures=[RR, nDCG @ 10])
    folder = found.save(tmp_path / "out")
    assert {file.name for file in folder.iterdir()} == {
        "report.html", "report.md", "table.tex", "means.png", "differences-a.png", "results.csv", "per_query.csv",
        "tests.csv", "environment.json", "runs",
    }  # fmt: skip
    assert (folder / "table.tex").read_text() == found.to_latex()
    report = (folder / "report.md").read_text()
    assert found.verdict() in report
    assert "95% confidence intervals of the mean difference" in report
    kept = pt.io.read_results(str(folder / "runs" / "poor_one.res.gz"))
    assert kept["docno"].tolist() == POOR["docno"].tolist()
    figure = found.plot()
    assert [axes.get_title() for axes in figure.axes] == ["RR", "nDCG@10"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["poor one", "good"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"systems": {}}, ValueError, "no systems to compare"),
        ({"systems": {"x": 7}}, TypeError, "system 'x' is 7: expected a PyTerrier transformer"),
        ({"systems": {"x": "nowhere.res"}}, ValueError, r"systems\.x: file: no run file nowhere\.res"),
        ({"baselines": ["gud"]}, ValueError, "unknown baseline 'gud': the systems are good"),
        ({"split": "tst"}, ValueError, "has no split 'tst'"),
        ({"measures": "nDCG@10"}, ValueError, "objects of ir_measures in a list"),
        ({"measures": []}, ValueError, "objects of ir_measures in a list"),
        ({"measures": ["nDCG@10"]}, ValueError, "expected a measure, such as ir_measures"),
        ({"measures": [R @ 1000]}, ValueError, "R@1000 looks deeper than num_results, 100"),
        ({"measures": [P(rel=2) @ 5]}, ValueError, "would be 0 for every query: it needs judgements with a label of 2"),
        ({"test": "sign"}, ValueError, "unknown test 'sign': choose one of t, randomization, wilcoxon"),
        ({"collection": "hpo"}, TypeError, "expected a test collection"),
        ({"measures": [RR, RR]}, ValueError, "measures: expected each once; found RR, RR"),
    ],
)
def test_wrong_calls_are_named_at_once(change, error, message, collection):
    arguments = {"systems": {"good": GOOD}, "collection": collection, **change}
    with pytest.raises(error, match=message):
        compare(**arguments)


def test_a_single_system_is_a_table_without_tests(collection):
    found = compare({"good": GOOD}, collection, measures=[RR])
    assert found.tests.empty
    assert "x+" not in found.to_markdown()


def test_systems_of_a_file_take_part(collection):
    fused = read_system({"kind": "fusion", "of": ["BM25", "poor"]})
    found = compare({"BM25": bm25(collection), "poor": POOR, "hybrid": fused}, collection, measures=[RR])
    assert found.table["name"].tolist() == ["BM25", "poor", "hybrid"]
    assert any(note.startswith("hybrid: Reciprocal rank fusion (k = 60) of BM25, poor.") for note in found.notes)


def test_tied_scores_are_not_the_results_of_distinct_ones(collection):
    """trec_eval puts the larger docno first among equal scores: such a run ranks otherwise than one in docno order."""
    order = sorted(f"d{number}" for number in range(20))
    distinct = pd.DataFrame([(f"q{n}", docno, -float(place)) for n in range(6) for place, docno in enumerate(order)])
    distinct.columns = ["qid", "docno", "score"]
    found = compare({"tied": distinct.assign(score=1.0), "distinct": distinct}, collection, measures=[RR])
    assert found.same == {}
    figures = found.table.set_index("name")["RR"]
    assert figures["tied"] != figures["distinct"]


def test_a_sign_says_what_the_test_found(collection):
    """Two large gains and many small losses: the mean rises, and the ranks say that it is worse."""
    docs = list(collection.corpus_iter())
    topics = pd.DataFrame({"qid": [f"q{n}" for n in range(20)], "query": [f"word{n}" for n in range(20)]})
    many = from_frames("many", docs, topics, topics.assign(docno=[f"d{n}" for n in range(20)], label=1))

    def run(ranks):
        rows = []
        for number, rank in enumerate(ranks):
            others = [f"d{other}" for other in range(20) if other != number]
            order = [*others[: rank - 1], f"d{number}", *others[rank - 1 :]]
            rows += [(f"q{number}", docno, -float(place)) for place, docno in enumerate(order)]
        return pd.DataFrame(rows, columns=["qid", "docno", "score"])

    base, system = run([9] * 20), run([1] * 2 + [10] * 18)
    ranks = compare({"base": base, "new": system}, many, measures=[RR], test="wilcoxon")
    [row] = ranks.tests.to_dict("records")
    assert (row["difference"] > 0, row["direction"], row["significant"]) == (True, -1, True)
    assert ranks.marked()["RR"][1].endswith(" a-")
    assert "By the ranks of the differences new is significantly worse than base" in ranks.verdict()


def test_names_that_would_share_a_file_are_refused(collection):
    with pytest.raises(ValueError, match="'a b' and 'a/b' would be kept in the same file"):
        compare({"a b": GOOD, "a/b": POOR}, collection)


def test_a_label_never_hides_another_system(collection):
    linear = read_system({"kind": "fusion", "of": ["good", "poor"], "method": "linear", "weights": [0.5, 0.5]})
    found = compare({"good": GOOD, "poor": POOR, "lin": linear, "lin (0.5, 0.5)": FAIR}, collection, measures=[RR])
    assert found.table["name"].tolist() == ["good", "poor", "lin", "lin (0.5, 0.5)"]


def test_any_error_of_a_system_is_its_reason(collection):
    class Odd(System):
        kind: str = "odd"

        def prepare(self, bench):
            raise KeyError("what")

    found = compare({"good": GOOD, "odd": Odd(), "poor": POOR}, collection, measures=[RR])
    assert found.failed == {"odd": "KeyError: 'what'"}


def test_labels_of_the_wrong_type_are_a_reason_before_any_search(collection):
    class Counting(System):
        kind: str = "counting"

        def prepare(self, bench):
            return [Prepared(transformer=pt.Transformer.from_df(GOOD), identity="counting", labels=7)]

    found = compare({"good": GOOD, "counting": Counting(), "poor": POOR}, collection, measures=[RR])
    assert found.table["name"].tolist() == ["good", "poor"]
    assert re.search("labels of a prepared system is a frozenset .*; found 7$", found.failed["counting"])


def test_a_search_that_fails_is_tried_once(collection):
    calls = []

    class Broken(pt.Transformer):
        def transform(self, inp):
            calls.append(1)
            raise RuntimeError("boom")

    fused = read_system({"kind": "fusion", "of": ["good", "broken"]})
    found = compare({"good": GOOD, "broken": Broken(), "one": fused, "two": fused}, collection, measures=[RR])
    assert len(calls) == 1
    assert found.failed["two"].startswith("it builds on 'broken', which failed: searching failed: RuntimeError: boom")


def test_a_stage_reads_no_split_that_was_not_asked_for(collection, monkeypatch):
    splits = {"train": pd.DataFrame({"qid": ["t"], "query": ["x"]}), "test": collection.topics("test")}
    qrels = {"train": pd.DataFrame({"qid": ["t"], "docno": ["d1"], "label": [1]}), "test": collection.qrels("test")}
    other = from_frames("two", collection.corpus_iter(), splits, qrels)
    real = type(other)._topics
    monkeypatch.setattr(type(other), "_topics", lambda self, split: real(self, {"test": "test"}[split]))
    fused = read_system({"kind": "fusion", "of": ["good", "poor"]})
    assert compare({"good": GOOD, "poor": POOR, "fused": fused}, other, measures=[RR]).failed == {}


def test_systems_that_tie_are_both_named(collection):
    found = compare({"a": GOOD, "b": GOOD.assign(score=GOOD["score"] * 2), "c": POOR}, collection, measures=[RR])
    assert found.same == {"b": "a"}
    other = ranked(2, 1, 1, 1, 1, 1)  # the same mean, by another query
    assert (
        compare({"a": GOOD, "b": other, "c": POOR}, collection, measures=[RR]).verdict().startswith("a and b have the")
    )


def test_twin_baselines_share_a_letter_and_no_baseline_counts_twice(collection):
    found = compare({"a": POOR, "twin": POOR, "b": GOOD}, collection, measures=[RR], baselines=["a", "twin", "a"])
    assert found.marked()["system"].tolist() == ["a (a)", "twin (a) = a", "b"]
    assert found.baselines == ("a", "twin")


def test_what_cannot_stand_in_a_run_file_leaves_no_half_of_it(collection, tmp_path):
    strange = pd.concat([GOOD, pd.DataFrame([("q0", "d 99", 0.5)], columns=["qid", "docno", "score"])])
    found = compare({"good": GOOD, "strange": strange}, collection, measures=[RR])
    with pytest.raises(ValueError, match="docno 'd 99' cannot be in a TREC run"):
        found.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
