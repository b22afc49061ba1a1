"""MIRACL on a few passages in the folder layout that ir_datasets caches: the whole, the pools, and what is missing."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys

import published
import pytest

from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.miracl import miracl_ja
from pyterrier_merge.retrieval.lexical.bm25 import bm25

NUM_FILES = published.MIRACL_FILES
TRAIN_QIDS = [str(number) for number in range(10)]
QRELS = {
    "train": [(qid, f"{qid}#{part}", label) for qid in TRAIN_QIDS for part, label in ((0, 1), (1, 0))],
    "dev": [("100", "13#1", 1), ("100", "12#0", 0), ("100", "99#0", 0)],
}


TOPICS = {"train": {qid: f"質問{qid}" for qid in TRAIN_QIDS}, "dev": {"100": "京都の本はどれ?"}}


def write_miracl(home):
    docs = [
        {"docid": f"{number}#{part}", "title": f"題{number}", "text": f"京都の本{part}。" if part else ""}
        for number in range(NUM_FILES)
        for part in (0, 1)
    ]
    return published.write_miracl(home, docs, TOPICS, QRELS)


@pytest.fixture(scope="module")
def miracl_home(irds_home):
    return write_miracl(irds_home)


@pytest.fixture
def whole(miracl_home):
    return miracl_ja()


def test_documents_and_test_split(whole):
    docs = list(whole.corpus_iter())
    assert len(docs) == whole.num_docs == 2 * NUM_FILES
    assert docs[0] == {"docno": "0#0", "title": "題0", "text": "題0"}
    assert docs[-1] == {"docno": "13#1", "title": "題13", "text": "題13 京都の本1。"}
    assert whole.topics("test").to_dict("records") == [{"qid": "100", "query": "京都の本はどれ?"}]
    assert whole.qrels("test").to_records(index=False).tolist() == QRELS["dev"]


def test_dev_is_a_fixed_part_of_train(whole):
    def order(qid):
        return hashlib.sha256(f"42:{qid}".encode()).hexdigest()

    dev = set(sorted(TRAIN_QIDS, key=order)[:2])
    for split, qids in (("dev", dev), ("train", set(TRAIN_QIDS) - dev)):
        assert set(whole.topics(split)["qid"]) == set(whole.qrels(split)["qid"]) == qids


def test_the_judged_pool_is_what_the_judgements_name(miracl_home, caplog):
    with caplog.at_level(logging.WARNING):
        judged = get_collection("miracl-ja", pool="judged")
        assert sorted(doc["docno"] for doc in judged.corpus_iter()) == ["12#0", "13#1"]
    assert caplog.messages == ["miracl-ja: 1 of the 3 judged documents are not in the corpus"]
    assert judged.num_docs == 2
    assert judged.splits == ("test",)
    assert judged.judged_pool
    assert "only those judged" in judged.title
    dev = get_collection("miracl-ja", pool="judged-dev")
    assert dev.splits == ("dev",)
    assert {doc["docno"] for doc in dev.corpus_iter()} == set(dev.qrels("dev")["docno"])
    whole = get_collection("miracl-ja")
    assert not whole.judged_pool
    assert len({judged.fingerprint, dev.fingerprint, whole.fingerprint}) == 3


def test_bm25_over_all_and_over_the_pool(whole):
    pytest.importorskip("sudachipy", reason="Japanese is analysed by Sudachi")
    pool = miracl_ja(pool="judged")
    assert len(bm25(whole)(whole.topics("test"))) == NUM_FILES
    assert bm25(pool)(pool.topics("test"))["docno"].tolist() == ["13#1"]


def test_description():
    collection = get_collection("miracl-ja")
    assert collection.download_bytes == 1_065_120_400
    assert [str(measure) for measure in collection.measures] == ["nDCG@10", "R@100"]
    assert collection.task == "Given a question, retrieve Wikipedia passages that answer the question"
    assert collection.default_domain_model == "stabilityai/japanese-stablelm-base-gamma-7b"


def test_unknown_pools_and_options_are_refused():
    with pytest.raises(ValueError, match="no pool 'all'; it has judged, judged-dev, and None"):
        get_collection("miracl-ja", pool="all")
    with pytest.raises(ValueError, match=r"miracl-ja has no option 'pol'; did you mean 'pool'\? it has pool, download"):
        get_collection("miracl-ja", pol="judged")
    with pytest.raises(ValueError, match="miracl-ja gives no candidates to re-rank"):
        get_collection("miracl-ja").candidates("test")


def run(code, home):
    """Run code in a process that reads ``home`` and reaches no network."""
    environment = {
        **os.environ,
        "IR_DATASETS_HOME": str(home),
        "IR_DATASETS_DL_TRIES": "1",
        "https_proxy": "http://127.0.0.1:9",  # nothing listens there
    }
    start = "from pyterrier_merge import get_collection; c = get_collection('miracl-ja'); "
    done = subprocess.run(
        [sys.executable, "-c", start + code], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_without_files_one_message_says_everything(tmp_path):
    message = run("next(c.corpus_iter())", tmp_path).splitlines()[-1]
    assert message.startswith("RuntimeError: miracl-ja needs ")
    for part in ("1.1 GB", "https://huggingface.co/datasets/miracl/", "download=True", str(tmp_path / "miracl")):
        assert part in message
    assert "cannot read miracl-ja" in run("c.topics('test')", tmp_path)


def test_a_truncated_file_is_said_and_its_mending_is_enough(tmp_path):
    folder = write_miracl(tmp_path)
    file = folder / "docs" / "docs-7.jsonl.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-12])
    assert "RuntimeError: cannot read miracl-ja: Compressed file ended before" in run("print(c.num_docs)", tmp_path)
    file.write_bytes(whole)
    assert "\n28" in "\n" + run("print(c.num_docs)", tmp_path)


def test_a_collection_is_one_object_for_each_set_of_options():
    assert get_collection("miracl-ja", pool="judged") is get_collection("miracl-ja", pool="judged")
    assert get_collection("miracl-ja", pool="judged") is not get_collection("miracl-ja")
