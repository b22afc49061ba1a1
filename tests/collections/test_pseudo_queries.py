import dataclasses
import hashlib
import json
import logging
import pickle
import random

import pandas as pd
import pytest

from pyterrier_merge import known_items
from pyterrier_merge.collections import from_frames, get_collection
from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.collections.pseudo_queries import undivided
from pyterrier_merge.collections.query_parts import WAYS, without_title
from pyterrier_merge.systems.choosing import used_labels
from pyterrier_merge.training.pairs import pairs_from_collection

WORDS = [f"w{n}" for n in range(40)]


def collection(docs, **options):
    topics = pd.DataFrame([("1", "anything")], columns=["qid", "query"])
    qrels = pd.DataFrame([("1", docs[0]["docno"], 3)], columns=["qid", "docno", "label"])
    return from_frames("parent", docs, topics, qrels, **options)


def documents(count=200, words=20, **fields):
    """Documents whose words are drawn, no two alike."""
    generator = random.Random(0)
    return [
        {"docno": f"d{n}", "text": f"n{n} " + " ".join(generator.choices(WORDS, k=words - 1)), **fields}
        for n in range(count)
    ]


def items_of(items):
    """Docno -> split, query and rest."""
    texts = {doc["docno"]: doc["text"] for doc in items.corpus_iter()}
    return {
        row.docno: (split, row.query, texts[row.docno])
        for split in items.splits
        for row in items.topics(split).merge(items.qrels(split), on="qid").itertuples()
    }


def sha(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def test_a_head_is_the_first_fifth_and_the_document_the_rest():
    docs = documents()
    items = known_items(collection(docs), 60)
    found = items_of(items)
    assert len(found) == items.num_docs == 60
    for doc in docs:
        if doc["docno"] in found:
            _, query, rest = found[doc["docno"]]
            assert (query, rest) == (" ".join(doc["text"].split()[:4]), " ".join(doc["text"].split()[4:]))
    for split in ("train", "dev"):
        assert len(items.topics(split)) == len(items.qrels(split)) == 30
        assert items.qrels(split)["label"].tolist() == [1] * 30
        assert items.topics(split)["qid"].tolist() == [f"item-{docno}" for docno in items.qrels(split)["docno"]]


def test_documents_are_those_with_the_smallest_hashes_of_each_split():
    docs = documents()
    found = items_of(known_items(collection(docs), 40, seed=3))
    for remainder, split in enumerate(("train", "dev")):
        of_split = [doc["docno"] for doc in docs if sha(f"split:{doc['docno']}") % 2 == remainder]
        expected = sorted(of_split, key=lambda docno: sha(f"3:{docno}"))[:20]
        assert [docno for docno, item in found.items() if item[0] == split] == expected


def test_the_order_of_the_corpus_does_not_count(caplog):
    caplog.set_level(logging.INFO)
    docs = [*documents(), *({"docno": f"s{n}", "text": "too short"} for n in range(80))]
    shuffled = random.Random(1).sample(docs, len(docs))
    one, other = (known_items(collection(some), 40, query="crop") for some in (docs, shuffled))
    said = []
    for items in (one, other):
        caplog.clear()
        items.topics("train")
        said += [record.message for record in caplog.records]
    pd.testing.assert_frame_equal(one.topics("dev"), other.topics("dev"))
    assert list(one.corpus_iter()) == list(other.corpus_iter())
    assert said[0] == said[1]
    assert "40 known items; skipped: " in said[0]


def test_no_document_is_in_one_train_and_another_dev():
    whole = collection(documents(title="n"))
    seen = {"train": set(), "dev": set()}
    for options in ({}, {"seed": 1}, {"query": "crop"}, {"n": 100}):
        items = known_items(whole, **{"n": 40, **options})
        for split, docnos in seen.items():
            docnos.update(items.qrels(split)["docno"])
    assert not seen["train"] & seen["dev"]


def test_shares_are_drawn_for_each_document():
    docs = {doc["docno"]: doc["text"].split() for doc in documents(words=50)}
    sizes = {"drawn": set(), "crop": set()}
    for way, found in sizes.items():
        starts = set()
        for docno, (_, query, rest) in items_of(known_items(collection(documents(words=50)), 100, query=way)).items():
            words, size = docs[docno], len(query.split())
            start = next(n for n in range(50) if words[n : n + size] == query.split())
            assert rest.split() == words[:start] + words[start + size :]
            starts.add(start)
            found.add(size)
        assert found <= set(range(5, 21))
        assert len(found) > 8
        assert (starts == {0}) == (way == "drawn")


def test_a_query_has_64_words_at_most():
    long = [{"docno": str(n), "text": f"n{n} " + " ".join(WORDS * 20)} for n in range(40)]
    for way in ("head", "drawn", "crop"):
        items = items_of(known_items(collection(long), 10, query=way))
        assert {len(query.split()) for _, query, _ in items.values()} == {64}
        assert all(len(f"{query} {rest}".split()) == 801 for _, query, rest in items.values())


@pytest.mark.parametrize("field", ["title", "name"])
def test_a_title_is_taken_off_the_text(field, caplog):
    docs = [
        {"docno": f"d{n}", field: f"Title {n}x", "text": f"Title {n}x. title {n}X has a body of some words"}
        for n in range(40)
    ]
    docs += [
        {"docno": f"r{n}", field: f"Part {n}y", "text": f"Part {n}y One that repeats part {n}Y here"} for n in range(9)
    ]
    docs += [{"docno": f"s{n}", field: f"Short {n}", "text": f"Short {n} of four words"} for n in range(9)]
    docs += [{"docno": f"n{n}", field: " ", "text": "no title in front of many words at all"} for n in range(9)]
    items = known_items(collection(docs), 1000, query="title")
    found = items_of(items)
    assert set(found) == {f"d{n}" for n in range(40)}
    assert {rest for _, _, rest in found.values()} == {"has a body of some words"}
    assert {query for _, query, _ in found.values()} == {f"Title {n}x" for n in range(40)}
    assert items.document_fields == ("text",)
    assert set(next(iter(items.corpus_iter()))) == {"docno", "text"}
    assert "40 known items; skipped: 27 documents that have no title, repeat it, or are too short" in caplog.text
    assert "1000 were asked for" in caplog.text


@pytest.mark.parametrize(
    ("text", "title", "rest"),
    [
        ("Renal failure. It is acute.", "Renal failure.", "It is acute."),
        ("renal FAILURE: it is", "Renal failure", "it is"),
        ("Tics are sudden", "Tic", "Tics are sudden"),
        ("Tic", "Tic", ""),
        ("A A b", "A", "b"),
        ("組み込み 組み込みシステムとは", "組み込み", "組み込みシステムとは"),
        ("no such", "Title", "no such"),
    ],
)
def test_titles_in_front(text, title, rest):
    assert without_title(text, title) == rest


def test_two_characters_are_a_word_where_there_are_no_spaces():
    docs = [{"docno": str(n), "text": f"{n:03d}組み込みシステムとは特定の機能を実現するもの"} for n in range(40)]
    docs += [{"docno": f"s{n}", "text": f"短い文はここにあります{n:02d}"} for n in range(40)]  # 13 characters
    found = items_of(known_items(collection(docs, language="ja"), 1000))
    assert set(found) == {str(n) for n in range(40)}
    assert found["7"][1:] == ("007組み", "込みシステムとは特定の機能を実現するもの")
    with pytest.raises(ValueError, match="skipped: 80 documents that are too short"):
        known_items(collection(docs), 1000).topics("dev")


def test_queries_that_another_document_asks_too_are_passed_over(caplog):
    caplog.set_level(logging.INFO)
    alike = [{"docno": f"a{n}", "text": "the very same " + " ".join(WORDS[:12])} for n in range(30)]
    items = known_items(collection([*documents(60, words=15), *alike]), 1000)
    queries = [query for _, query, _ in items_of(items).values()]
    assert len(queries) == len(set(queries)) == 61
    assert "0 documents that are too short, 29 with the query of another document" in caplog.text


def test_repeated_queries_do_not_take_the_place_of_others():
    """However many documents ask the same, and in whatever order they come."""
    alike = [{"docno": f"a{n}", "text": "the very same " + " ".join(WORDS[:12])} for n in range(200)]
    docs = [*alike, *documents(100, words=15)]
    found = items_of(known_items(collection(docs), 40))
    assert len(found) == 40
    assert items_of(known_items(collection(docs[::-1]), 40)) == found


def test_items_that_are_not_divided_are_all_in_one_split():
    items = known_items(collection(documents(60)), 40)
    whole = undivided(items)
    assert whole.splits == ("all",)
    assert set(whole.topics("all")["qid"]) == {*items.topics("train")["qid"], *items.topics("dev")["qid"]}
    assert len(whole.qrels("all")) == 40
    assert whole.fingerprint == items.fingerprint  # the same documents


def test_it_is_a_test_collection_of_its_own():
    parent = collection(documents(), task="Find it", language="de", ignore_identical_ids=True)
    items = known_items(parent, 40, seed=2)
    assert isinstance(items, TestCollection)
    assert items.name == "parent-known-items"
    assert repr(items) == (
        "<KnownItems 'parent-known-items': first fifth -> rest of a document of parent, n=40, seed=2; "
        "splits train, dev>"
    )
    assert (items.task, items.language, items.measures) == (parent.task, parent.language, parent.measures)
    assert not items.ignore_identical_ids
    assert items.missing_bytes == 0
    assert {doc["docno"] for doc in items.documents_of({"d0", "d1", "gone"})} <= {"d0", "d1"}
    wanted = items.qrels("dev")["docno"].tolist()[:3]
    assert {doc["docno"] for doc in items.documents_of(wanted)} == set(wanted)
    again = pickle.loads(pickle.dumps(items))
    pd.testing.assert_frame_equal(again.topics("dev"), items.topics("dev"))
    assert parent.labelled
    with pytest.raises(ValueError, match="no split 'test'"):
        items.topics("test")


def test_its_judgements_are_no_labels():
    parent = collection(documents())
    items = known_items(parent, 40)
    assert not items.labelled
    assert used_labels(items, "dev") == frozenset()
    assert used_labels(parent, "test") == {"parent/test/1"}
    part = pooled(items, "dev", [], depth=1)
    assert not part.labelled
    assert part.origin == items.origin == parent.origin == ("parent", parent.fingerprint)
    pairs = pairs_from_collection(items)
    assert (len(pairs), pairs.labels, pairs.origin) == (20, frozenset(), parent.origin)
    assert pairs.documents == set(items.qrels("train")["docno"])


def test_the_fingerprint_reads_nothing_and_tells_all_settings(monkeypatch):
    parent = collection(documents(title="x"))
    monkeypatch.setattr(type(parent), "_documents", lambda _: pytest.fail("read"))
    made = [
        known_items(parent),
        known_items(parent, 40),
        known_items(parent, seed=1),
        *(known_items(parent, query=way) for way in WAYS if way != "head"),
        known_items(dataclasses.replace(parent, language="ja")),
        known_items(collection(documents(words=21))),
    ]
    assert len({items.fingerprint for items in made}) == len(made) == 8
    assert known_items(parent, query="head").fingerprint == made[0].fingerprint


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda parent: known_items("hpo"), TypeError, "expected a test collection"),
        (lambda parent: known_items(parent, 9), ValueError, "at least 5 documents for each of train, dev; found n=9"),
        (lambda parent: known_items(parent, 100.5), ValueError, "found n=100.5"),
        (lambda parent: known_items(parent, seed="a"), ValueError, "seed is a whole number, found 'a'"),
        (
            lambda parent: known_items(parent, query=3),
            ValueError,
            "one of head, drawn, title, crop, or a path; found 3",
        ),
        (lambda parent: known_items(known_items(parent)), ValueError, "make others of parent"),
        (lambda parent: known_items(parent, query="heads"), ValueError, "'heads' is neither a file .* 'head'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make(collection(documents()))


def test_what_the_documents_do_not_give_is_refused_at_first_use():
    with pytest.raises(ValueError, match="neither title nor name, but text: choose another query"):
        known_items(collection(documents()), query="title").topics("dev")
    short = collection([{"docno": str(n), "text": f"nine words are too few for an item {n}"} for n in range(99)])
    with pytest.raises(ValueError, match=r"0 known items; skipped: 99 documents that are too short, .*: too few"):
        known_items(short).topics("dev")
    with pytest.raises(ValueError, match=r"6 known items; .*: too few items are left"):
        known_items(collection(documents(6))).num_docs  # noqa: B018


def write(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def generated(folder, form):
    """Two queries of each document d0, d1 ...; one of them blank for d0."""
    queries = {f"d{n}": [f"what is {n}", f"who is {n}"] for n in range(100)} | {"d0": ["what is 0", " "], "d9": []}
    if form.startswith("lists"):
        key = "predicted_queries" if form == "lists" else "querygen"
        lines = ({"docid": docno, key: own if form == "lists" else "\n".join(own)} for docno, own in queries.items())
        return write(folder / "queries.jsonl", lines)
    prefix = "" if form == "BEIR" else "gen-"
    rows = [(f"{docno}-{n}", docno, query) for docno, own in queries.items() for n, query in enumerate(own)]
    file = write(
        folder / f"{prefix}queries.jsonl", [{"_id": qid, "text": query, "metadata": {}} for qid, _, query in rows]
    )
    lines = ["query-id\tcorpus-id\tscore\n", *(f"{qid}\t{docno}\t1\n" for qid, docno, _ in rows)]
    write(folder / f"{prefix}qrels" / "train.tsv", lines)
    return folder if form == "GPL's folder" else file


@pytest.mark.parametrize("form", ["lists", "lists in strings", "BEIR", "GPL", "GPL's folder"])
def test_generated_queries_ask_for_whole_documents(form, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    docs = documents(120)
    items = known_items(collection(docs), 1000, query=generated(tmp_path, form))
    found = items_of(items)
    texts = {doc["docno"]: doc["text"] for doc in docs}
    assert set(found) == {f"d{n}" for n in range(100) if n != 9}
    assert all(rest == texts[docno] for docno, (_, _, rest) in found.items())
    assert all(query in (f"what is {docno[1:]}", f"who is {docno[1:]}") for docno, (_, query, _) in found.items())
    assert len({query.split()[0] for _, query, _ in found.values()}) == 2
    assert found["d0"][1] == "what is 0"
    assert "skipped: 21 documents that have no query there" in caplog.text
    assert "queries.jsonl -> whole of a document of parent" in repr(items)
    as_text = known_items(collection(docs), 1000, query=str(items.query))
    assert as_text.fingerprint == items.fingerprint
    other = write(tmp_path / "other" / "queries.jsonl", [{"docid": "d1", "predicted_queries": ["x"]}])
    assert known_items(collection(docs), 1000, query=other).fingerprint != items.fingerprint


@pytest.mark.parametrize(
    ("files", "query", "error", "message"),
    [
        ({"q.jsonl": []}, "q.jsonl", ValueError, "there are no queries in it"),
        ({"q.jsonl": ["not json\n"]}, "q.jsonl", ValueError, "line 1: no JSON"),
        ({"q.jsonl": [{"docid": "d1", "queries": [1]}]}, "q.jsonl", ValueError, "line 1: expected a docno or _id"),
        ({"q.jsonl": [{"docid": "d1", "queries": [" "]}]}, "q.jsonl", ValueError, "there are no queries in it"),
        ({"q.jsonl": [{"docid": "x", "queries": ["a"]}]}, "q.jsonl", ValueError, "0 known items; .*: too few"),
        (
            {"queries.jsonl": [{"_id": "1", "text": "a"}]},
            "queries.jsonl",
            FileNotFoundError,
            r"qrels/train.tsv; found nothing",
        ),
        (
            {"a-queries.jsonl": [], "b-queries.jsonl": []},
            ".",
            ValueError,
            "found a-queries.jsonl, b-queries.jsonl; name",
        ),
        ({"corpus.jsonl": []}, ".", ValueError, "found none; name the file"),
        ({}, "gone.jsonl", FileNotFoundError, "no such file"),
    ],
)
def test_files_without_queries_are_refused(files, query, error, message, tmp_path):
    for name, lines in files.items():
        write(tmp_path / name, lines)
    with pytest.raises(error, match=message):
        known_items(collection(documents()), query=tmp_path / query).topics("dev")


@pytest.mark.parametrize("way", list(WAYS))
def test_items_of_real_documents_find_themselves(way):
    from pyterrier.measures import RR

    from pyterrier_merge import bm25, compare

    hpo = get_collection("hpo")
    items = known_items(hpo, 200, query=way)
    names = {doc["docno"]: doc["name"] for doc in hpo.corpus_iter()}
    for docno, (_, query, rest) in items_of(items).items():
        assert query
        assert rest
        assert way != "title" or names[docno].lower() not in rest.lower()
    table = compare({"BM25": bm25(items)}, items, split="dev", measures=[RR], baselines=[]).table
    assert 0.3 < table["RR"][0] < 1
