import gzip
import hashlib
import json
import logging
import random
from dataclasses import replace

import pandas as pd
import pytest

from pyterrier_merge.collections import from_frames
from pyterrier_merge.training.pairs import (
    TrainingPairs,
    pairs_from_collection,
    pairs_from_frame,
    pairs_from_tevatron,
    read_qids,
)


def collection(docs=None, topics=None, qrels=None, **options):
    """Three documents; queries q1 to q3 of the split "train"; d1 has label 2, d2 label 1."""
    docs = docs or {"d1": "renal failure", "d2": "fever", "d3": "heart rate"}
    topics = topics or {"q1": "kidney", "q2": "hot", "q3": "pulse"}
    qrels = qrels or [("q1", "d1", 2), ("q1", "d2", 1), ("q2", "d2", 1), ("q3", "d3", 1), ("q3", "d1", 0)]
    frames = (
        pd.DataFrame(topics.items(), columns=["qid", "query"]),
        pd.DataFrame(qrels, columns=["qid", "docno", "label"]),
    )
    rows = [{"docno": docno, "text": text} for docno, text in docs.items()]
    return from_frames("tiny", rows, *({"train": frame, "test": frame} for frame in frames), **options)


def many(count=50, **options):
    """Queries q0, q1 ..., each with a document of its own."""
    rows = [(f"q{n}", f"query {n}", f"d{n}", f"text {n}") for n in range(count)]
    return pairs_from_frame(pd.DataFrame(rows, columns=["qid", "query", "docno", "text"]), **options)


def rows(frame):
    return list(map(tuple, frame.to_numpy()))


def test_pairs_of_a_collection():
    pairs = pairs_from_collection(collection())
    assert pairs.name == "train of tiny"
    assert rows(pairs.queries) == [("q1", "kidney"), ("q2", "hot"), ("q3", "pulse")]
    assert rows(pairs.positives) == [("q1", "d1"), ("q1", "d2"), ("q2", "d2"), ("q3", "d3")]
    assert pairs.negatives.columns.tolist() == ["qid", "docno"]
    assert pairs.negatives.empty
    assert dict(pairs.texts) == {"d1": "renal failure", "d2": "fever", "d3": "heart rate"}
    assert pairs.labels == {"q1", "q2", "q3"}
    assert pairs.documents == {"d1", "d2", "d3"}
    assert pairs.origin == ("tiny", collection().fingerprint)
    assert len(pairs) == 3
    assert "3 queries (3 of them labelled), 4 positives, 0 negatives" in repr(pairs)


def test_judgements_that_cost_nothing_are_no_labels():
    free = collection()
    object.__setattr__(free, "labelled", False)
    pairs = pairs_from_collection(free)
    assert pairs.labels == frozenset()
    assert pairs.documents == {"d1", "d2", "d3"}
    assert "no labels" in repr(pairs)


def test_a_label_below_the_lowest_is_neither_positive_nor_mined():
    tiny = collection(qrels=[("q1", "d1", 2), ("q1", "d2", 1), ("q2", "d2", 2)])
    pairs = pairs_from_collection(tiny, min_label=2)
    assert rows(pairs.positives) == [("q1", "d1"), ("q2", "d2")]
    run = pd.DataFrame([("q1", "d2", 3), ("q1", "d3", 2), ("q1", "d1", 1)], columns=["qid", "docno", "score"])
    assert rows(pairs.with_negatives(run, tiny).negatives) == [("q1", "d3")]


def test_what_a_corpus_lacks_is_counted(caplog):
    tiny = collection({"d1": "renal failure", "d2": " ", "d4": "x"}, qrels=[
        ("q1", "d1", 1), ("q1", "gone", 1), ("q2", "d2", 1), ("q3", "d4", 1)])  # fmt: skip
    caplog.clear()
    pairs = pairs_from_collection(tiny)
    assert rows(pairs.positives) == [("q1", "d1"), ("q3", "d4")]
    assert "2 of the 4 positives have no text" in caplog.text
    assert "1 of the 3 queries have no positive" in caplog.text
    assert set(rows(pairs.relevant)) == {("q1", "d1"), ("q1", "gone"), ("q3", "d4")}  # never mined from another corpus


def test_blank_queries_are_counted(caplog):
    pairs = pairs_from_collection(collection(topics={"q1": "kidney", "q2": " ", "q3": "pulse"}))
    assert pairs.queries["qid"].tolist() == ["q1", "q3"]
    assert "1 of the 3 queries are blank" in caplog.text


def test_a_query_is_not_its_own_positive_where_the_collection_says_so():
    topics = {"d1": "renal", "d2": "hot", "q3": "pulse"}
    qrels = [("d1", "d1", 1), ("d1", "d2", 1), ("d2", "d1", 1), ("q3", "d3", 1)]
    pairs = pairs_from_collection(collection(topics=topics, qrels=qrels, ignore_identical_ids=True))
    assert rows(pairs.positives) == [("d1", "d2"), ("d2", "d1"), ("q3", "d3")]


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, {"split": "test"}, "must not be trained on test queries"),
        ({}, {"split": "trian"}, "did you mean 'train'"),
        ({}, {"min_label": 0}, "at least 1, because label 0 is not relevant; found 0"),
        ({}, {"min_label": 3}, "none of the 5 judgements of 3 queries has a label of at least 3"),
        ({"qrels": [("q1", "d1", 0)]}, {}, "none of the 1 judgements"),
        ({"docs": {"d9": "other"}}, {}, "none of the 4 positives has a text"),
        ({"qrels": [("q1", "d1", 1)]}, {}, "at least 2 queries, found 1"),
    ],
)
def test_a_collection_without_pairs_is_refused(options, arguments, message):
    with pytest.raises(ValueError, match=message):
        pairs_from_collection(collection(**options), **arguments)


def test_a_sample_is_drawn_by_hash_and_keeps_the_order():
    pairs = many()
    qids = pairs.queries["qid"].tolist()
    by_hand = sorted(qids, key=lambda qid: hashlib.sha256(f"7:3:{qid}".encode()).digest())[:5]
    sample = pairs.sample(fraction=0.1, trial=3, seed=7)
    assert sample.queries["qid"].tolist() == [qid for qid in qids if qid in by_hand]
    assert sample.labels == set(by_hand)
    assert set(sample.texts) == sample.documents == {f"d{qid[1:]}" for qid in by_hand}
    assert sample.name == "a frame, 5 of 50 queries, trial 3"
    assert sample.fingerprint == pairs.sample(number=5, trial=3, seed=7).fingerprint


def test_samples_differ_by_trial_and_seed_and_grow():
    pairs = many()
    drawn = {
        tuple(pairs.sample(number=5, trial=trial, seed=seed).queries["qid"]) for trial in range(4) for seed in range(2)
    }
    assert len(drawn) == 8
    small, large = (set(pairs.sample(number=number).queries["qid"]) for number in (5, 20))
    assert small < large


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.01}, "fraction 0.01 gives 0 of 50 queries, .* the smallest fraction is 0.04"),
        ({"number": 1}, "a sample has 2 to 50 queries, found 1"),
        ({"number": 51}, "a sample has 2 to 50 queries, found 51"),
        ({"fraction": 0}, r"above 0 and at most 1, found 0"),
        ({"fraction": 1.5}, "found 1.5"),
        ({"fraction": "1%"}, "found '1%'"),
        ({"number": 2.5}, "a sample has 2 to 50 queries, found 2.5"),
        ({}, "either fraction or number"),
        ({"fraction": 0.5, "number": 3}, "either fraction or number"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        many().sample(**arguments)


def test_the_smallest_fraction_that_an_error_names_works():
    for count in (3, 7, 50, 647, 2594):
        pairs = many(count)
        with pytest.raises(ValueError, match="the smallest fraction is") as caught:
            pairs.sample(fraction=1e-6)
        assert len(pairs.sample(fraction=float(str(caught.value).rsplit(" ", 1)[1]))) >= 2


def test_qids_are_saved_and_read_back(tmp_path):
    sample = many().sample(number=5)
    sample.save_qids(tmp_path / "trial-0.txt")
    assert (tmp_path / "trial-0.txt").read_text() == "".join(f"{qid}\n" for qid in sample.queries["qid"])
    again = many().only(read_qids(tmp_path / "trial-0.txt"))
    assert again.fingerprint == sample.fingerprint
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="expected one qid per line"):
        read_qids(tmp_path / "empty.txt")


def test_only_some_queries_with_all_that_belongs_to_them():
    pairs = pairs_from_collection(collection())
    some = pairs.only(["q3", "q1"])
    assert some.queries["qid"].tolist() == ["q1", "q3"]
    assert set(some.texts) == {"d1", "d2", "d3"}
    assert some.only(["q3"]).documents == {"d3"}
    for qids, message in (
        (["q1", "no"], "1 of 2 qids are unknown: 'no'"),
        (["q1", "q1"], "given twice"),
        ("q1", "a list"),
    ):
        with pytest.raises(ValueError, match=message):
            pairs.only(qids)
    with pytest.raises(ValueError, match="there are no queries"):
        pairs.only([])


def test_the_fingerprint_is_of_the_content():
    pairs = many()
    assert many(name="another").fingerprint == pairs.fingerprint
    run = pd.DataFrame([("q0", "d1", 1)], columns=["qid", "docno", "score"])
    none = pairs.negatives
    different = [
        many(49),
        pairs.with_negatives(run, pairs.texts),
        TrainingPairs("x", pairs.queries, pairs.positives, none, {**pairs.texts, "d0": "other"}),
        TrainingPairs("x", pairs.queries.iloc[::-1], pairs.positives, none, pairs.texts),
        replace(pairs, relevant=pd.concat([pairs.positives, pd.DataFrame({"qid": ["q0"], "docno": ["d1"]})])),
    ]
    assert len({pairs.fingerprint, *(other.fingerprint for other in different)}) == 6


def test_rows_rotate_as_tevatron_does():
    queries = pd.DataFrame([("q0", "a"), ("q1", "b")], columns=["qid", "query"])
    positives = pd.DataFrame([("q0", "p0"), ("q1", "p1"), ("q1", "p2"), ("q1", "p3")], columns=["qid", "docno"])
    negatives = pd.DataFrame([(qid, f"n{n}") for qid in ("q0", "q1") for n in range(5)], columns=["qid", "docno"])
    texts = {docno: docno for docno in (*positives["docno"], *negatives["docno"])}
    pairs = TrainingPairs("two", queries, positives, negatives, texts)
    for epoch in range(4):
        found = pairs.rows(epoch, negatives=2, seed=11)
        assert found.columns.tolist() == ["qid", "positive", "negative_1", "negative_2"]
        for item, row in enumerate(rows(found)):
            own = positives.loc[positives["qid"] == row[0], "docno"].tolist()
            shuffled = [f"n{n}" for n in range(5)]
            random.Random(item + 11).shuffle(shuffled)
            offset = epoch * 2 % 5
            assert row[1] == own[(item + 11 + epoch) % len(own)]
            assert list(row[2:]) == (shuffled * 2)[offset : offset + 2]


def test_too_few_negatives_are_repeated_or_filled_and_counted():
    pairs = many(4)
    run = pd.DataFrame([("q0", "d1", 2), ("q0", "d2", 1), ("q1", "d0", 1)], columns=["qid", "docno", "score"])
    mined = pairs.with_negatives(run, pairs.texts)
    found = mined.rows(0, negatives=3).set_index("qid")
    assert set(found.loc["q0"].iloc[1:]) == {"d1", "d2"}
    assert set(found.loc["q1"].iloc[1:]) == {"d0"}
    for qid in ("q2", "q3"):
        assert set(found.loc[qid].iloc[1:]) <= {"d0", "d1", "d2", "d3"} - {f"d{qid[1:]}"}
    assert [mined.short_of(count) for count in (0, 1, 2, 3)] == [0, 2, 3, 4]
    pd.testing.assert_frame_equal(mined.rows(5, negatives=3, seed=2), mined.rows(5, negatives=3, seed=2))
    assert not mined.rows(5, negatives=3, seed=2).equals(mined.rows(5, negatives=3, seed=3))
    assert pairs.rows(0, negatives=0).columns.tolist() == ["qid", "positive"]
    with pytest.raises(ValueError, match="has no negatives"):
        pairs.rows(0, negatives=1)
    with pytest.raises(ValueError, match="at least 0"):
        mined.rows(-1, negatives=1)


def test_other_queries_texts_fill_nothing_that_is_relevant():
    queries = pd.DataFrame([("q0", "a"), ("q1", "b")], columns=["qid", "query"])
    positives = pd.DataFrame([("q0", "p"), ("q1", "p")], columns=["qid", "docno"])
    negatives = pd.DataFrame([("q0", "n")], columns=["qid", "docno"])
    pairs = TrainingPairs("two", queries, positives, negatives, {"p": "p", "n": "n"})
    with pytest.raises(ValueError, match="'q1' has no negatives, and all positives are relevant to it"):
        pairs.rows(0, negatives=1)


def test_what_answers_an_equal_query_or_copies_an_answer_is_no_negative():
    """q0 and q1 ask the same, and c is a copy of q0's answer."""
    queries = pd.DataFrame([("q0", "a"), ("q1", "a"), ("q2", "b"), ("q3", "c")], columns=["qid", "query"])
    positives = pd.DataFrame([("q0", "p"), ("q1", "r"), ("q2", "s"), ("q3", "c")], columns=["qid", "docno"])
    texts = {"p": "same", "r": "r", "s": "s", "c": "same", "n": "n"}
    pairs = TrainingPairs("four", queries, positives, positives[:0], texts)
    ranking = ["r", "c", "p", "s", "n"]
    run = pd.DataFrame([("q0", docno, -rank) for rank, docno in enumerate(ranking)], columns=["qid", "docno", "score"])
    mined = pairs.with_negatives(run, texts)
    assert mined.negatives["docno"].tolist() == ["s", "n"]
    given = replace(pairs, negatives=pd.DataFrame([("q0", docno) for docno in ranking], columns=["qid", "docno"]))
    for epoch in range(20):
        found = given.rows(epoch, negatives=1).set_index("qid")["negative_1"]
        assert found["q0"] in ("s", "n")
        assert found["q1"] == "s"  # a positive of another query, and no answer to this one
        assert found["q3"] in ("r", "s")  # not p, whose text is its own answer


OLD = [
    {
        "query_id": "1",
        "query": "kidney",
        "positive_passages": [{"docid": "d1", "title": "Renal", "text": "failure"}],
        "negative_passages": [{"docid": "d2", "text": "fever"}, {"docid": "d1", "title": "Renal", "text": "failure"}],
    },
    {
        "query_id": 2,
        "query": "hot",
        "positive_passages": [{"docid": "d2", "text": "fever"}, {"docid": "d5", "title": "", "text": " "}],
        "negative_passages": [],
    },
    {"query_id": "3", "query": "none", "positive_passages": [], "negative_passages": []},
]
NEW = [
    {"query_id": "1", "query_text": "kidney", "positive_document_ids": ["d1"], "negative_document_ids": ["d2", "d1"]},
    {"query_id": "2", "query_text": "hot", "positive_document_ids": ["d2", "d5"], "negative_document_ids": []},
    {"query_id": "3", "query_text": "none", "positive_document_ids": [], "negative_document_ids": []},
]
CORPUS = [
    {"docid": "d1", "title": "Renal", "text": "failure"},
    {"docid": "d2", "text": "fever"},
    {"docid": "d5", "text": " "},
    {"docid": "d6", "text": "not asked for"},
]


def write(path, lines, opened=open):
    with opened(path, "wt") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("form", ["old", "packed", "new, a file", "new, texts", "new, a collection"])
def test_both_forms_of_tevatron_are_read(form, tmp_path, caplog):
    texts = {"d1": "Renal failure", "d2": "fever", "d5": " "}
    corpora = {
        "new, a file": write(tmp_path / "corpus.jsonl", CORPUS),
        "new, texts": texts,
        "new, a collection": collection(texts),
    }
    corpus = corpora.get(form)
    file = write(tmp_path / "train.jsonl", OLD if corpus is None else NEW, gzip.open if form == "packed" else open)
    caplog.clear()
    pairs = pairs_from_tevatron(file, corpus)
    assert rows(pairs.queries) == [("1", "kidney"), ("2", "hot")]
    assert rows(pairs.positives) == [("1", "d1"), ("2", "d2")]
    assert rows(pairs.negatives) == [("1", "d2")]
    assert dict(pairs.texts) == {"d1": "Renal failure", "d2": "fever"}
    assert pairs.labels == {"1", "2"}
    assert pairs.name == "train.jsonl"
    assert pairs.origin == (("tiny", corpus.fingerprint) if form == "new, a collection" else None)
    assert "1 of the 3 positives have no text" in caplog.text
    assert "1 of the 2 negatives have no text, or are positives too" in caplog.text
    assert "1 of the 3 queries have no positive" in caplog.text
    assert pairs_from_tevatron(file, corpus, labelled=False).labels == frozenset()


def changed(line, **fields):
    return {**OLD[line], **fields}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "at least 2 queries, found 0"),
        ([OLD[0]], "at least 2 queries, found 1"),
        (NEW, "give the corpus"),
        (
            [{"query_id": "1", "query": "x", "positives": []}],
            "line 1: expected positive_passages .* found query_id, query",
        ),
        ([changed(0, query_id=None)], "line 1: query_id is a name, found None"),
        ([changed(0, query=" ")], "line 1: query is a text that is not blank, found ' '"),
        ([changed(0, query=None)], "line 1: query is a text"),
        ([OLD[0], OLD[0]], "line 2: query_id '1' occurs twice"),
        ([changed(0, positive_passages=["d1"])], "line 1: positive_passages is a list of passages"),
        ([changed(0, positive_passages=[{"docid": "d1"}])], "line 1: title and text are strings, found '' and None"),
        ([changed(0, positive_passages=[{"text": "x"}])], "line 1: docid is a name, found None"),
        (
            [OLD[0], changed(1, positive_passages=[{"docid": "d1", "text": "other"}])],
            "line 2: docid 'd1' has another text",
        ),
        ([changed(0, positive_passages=[{"docid": "d", "text": " "}])], "none of the 1 positives has a text"),
    ],
)
def test_bad_lines_of_tevatron_are_named(lines, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pairs_from_tevatron(write(tmp_path / "train.jsonl", lines))


def test_a_corpus_without_the_positives_is_refused(tmp_path):
    file = write(tmp_path / "train.jsonl", NEW)
    with pytest.raises(ValueError, match=r"none of the 3 positives has a text .*such as 'd1'"):
        pairs_from_tevatron(file, {"d9": "x"})
    with pytest.raises(FileNotFoundError, match="no such file"):
        pairs_from_tevatron(tmp_path / "gone.jsonl")


@pytest.mark.parametrize(
    ("frame", "positives", "negatives"),
    [
        ({"query": ["a", "a", "b"], "positive": ["x", "y", "x"]}, {"a": ["x", "y"], "b": ["x"]}, {}),
        (
            {"query": ["a", "b"], "positive": ["x", "y"], "negatives": [["y", "z"], []]},
            {"a": ["x"], "b": ["y"]},
            {"a": ["y", "z"]},
        ),
        (
            {"query": ["a", "b"], "positive": ["x", "y"], "negative_1": ["z", "z"], "negative_2": ["w", None]},
            {"a": ["x"], "b": ["y"]},
            {"a": ["z", "w"], "b": ["z"]},
        ),
        (
            {"query": ["a", "b"], "positive": ["x", "y"], "negative": ["y", "z"]},
            {"a": ["x"], "b": ["y"]},
            {"a": ["y"], "b": ["z"]},
        ),
        (
            {"qid": ["a", "a", "b"], "query": ["a", "a", "b"], "docno": [1, 2, 1], "text": ["x", "y", "x"]},
            {"a": ["x", "y"], "b": ["x"]},
            {},
        ),
    ],
)
def test_pairs_of_a_frame(frame, positives, negatives):
    pairs = pairs_from_frame(pd.DataFrame(frame), "mine")
    query = dict(zip(pairs.queries["qid"], pairs.queries["query"], strict=True))
    for found, expected in ((pairs.positives, positives), (pairs.negatives, negatives)):
        texts = {}
        for qid, docno in rows(found):
            texts.setdefault(query[qid], []).append(pairs.texts[docno])
        assert texts == expected
    assert pairs.documents == ({"1", "2"} if "docno" in frame else frozenset())
    assert pairs.name == "mine"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            {"question": ["a"], "positive": ["x"]},
            "expected the columns query and positive, .*; found question, positive",
        ),
        ({"query": ["a", "a"], "positive": ["x", "x"]}, "row 1: query and positive are those of an earlier row: 'a'"),
        ({"query": ["a", " "], "positive": ["x", "y"]}, "row 1: query is a text that is not blank, found ' '"),
        ({"query": ["a", "b"], "positive": ["x", ""]}, "row 1: positive is a text that is not blank"),
        ({"query": ["a", "b"], "positive": ["x", float("nan")]}, "row 1: positive is a text .*found nan"),
        (
            {"query": ["a", "b"], "positive": ["x", "y"], "negatives": ["z", "w"]},
            r"row 0: negatives is a text .*\['z'\]",
        ),
        ({"query": ["a"], "positive": ["x"]}, "at least 2 queries, found 1"),
        ({"query": [], "positive": []}, "at least 2 queries, found 0"),
        (
            {"qid": ["1", "1"], "query": ["a", "b"], "docno": ["d", "e"], "text": ["x", "y"]},
            "row 1: qid '1' has another query",
        ),
        (
            {"qid": ["1", "2"], "query": ["a", "b"], "docno": ["d", "d"], "text": ["x", "y"]},
            "row 1: docno 'd' has another text",
        ),
    ],
)
def test_a_bad_frame_is_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        pairs_from_frame(pd.DataFrame(frame))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": [("q0", "a"), ("q0", "b")]}, "1 qids occur twice: 'q0'"),
        ({"queries": [("q0", " ")]}, "1 queries are blank: 'q0'"),
        ({"queries": [("q0", "a"), ("q1", "b")]}, "1 queries have no relevant text: 'q1'"),
        ({"positives": [("q0", "p"), ("q9", "p")]}, "1 positives have no query"),
        ({"positives": [("q0", "p"), ("q0", "p")]}, "1 positives occur twice"),
        ({"negatives": [("q9", "p")]}, "1 negatives have no query"),
        ({"negatives": [("q0", "gone")]}, "1 docnos have no text: 'gone'"),
        ({"texts": {"p": " "}}, "1 docnos have no text: 'p'"),
    ],
)
def test_pairs_that_contradict_themselves_are_refused(changes, message):
    given = {"queries": [("q0", "a")], "positives": [("q0", "p")], "negatives": [], "texts": {"p": "text"}, **changes}
    columns = {"queries": ["qid", "query"], "positives": ["qid", "docno"], "negatives": ["qid", "docno"]}
    frames = {name: pd.DataFrame(given[name], columns=names) for name, names in columns.items()}
    with pytest.raises(ValueError, match=message):
        TrainingPairs("mine", texts=given["texts"], **frames)


def test_other_things_than_collections_and_frames_are_refused():
    with pytest.raises(TypeError, match="expected a test collection"):
        pairs_from_collection("hpo")
    with pytest.raises(TypeError, match=r"expected a data frame, found 'pairs.csv'"):
        pairs_from_frame("pairs.csv")


def test_nothing_is_logged_of_whole_pairs(caplog):
    caplog.set_level(logging.INFO)
    many()
    assert not caplog.records
