"""dense_index and dense_retriever: built once, whoever asks."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

from pyterrier_merge.collections import from_frames
from pyterrier_merge.collections.jqara import JqaraCollection
from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.retrieval.candidates import GivenCandidates
from pyterrier_merge.retrieval.dense.index import FaissIndex
from pyterrier_merge.retrieval.dense.pipeline import dense_index, dense_retriever

TOPICS = pd.DataFrame({"qid": ["1"], "query": ["fever"]})
QRELS = pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]})
DOCS = [{"docno": f"d{number}", "text": text} for number, text in enumerate(["pain", "fever", "kidney", "liver"])]


class LetterEncoder(pt.Transformer):
    """Counts letters; says when it begins with documents, and then waits until it may go on."""

    text_field = "text"
    verbose = False

    def __init__(self, fingerprint: str = "letters") -> None:
        self.fingerprint = fingerprint
        self.encoded = 0
        self.begun, self.go_on = Event(), Event()
        self.go_on.set()

    def encode_docs(self, texts, batch_size=None):
        self.begun.set()
        assert self.go_on.wait(timeout=60)
        self.encoded += len(texts)
        return [letters(text) for text in texts]

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        if "query" in inp:
            return inp.assign(query_vec=[letters(text) for text in inp["query"]])
        return inp.assign(doc_vec=self.encode_docs(inp["text"].tolist()))


def letters(text: str) -> np.ndarray:
    counts = np.array([text.count(letter) for letter in "aefiklnoprvy"], dtype=np.float32)
    return counts / np.linalg.norm(counts)


@pytest.fixture
def collection():
    return from_frames("small", DOCS, TOPICS, QRELS)


def test_a_second_call_encodes_nothing_and_another_encoder_builds_another(collection, tmp_path):
    encoder = LetterEncoder()
    found = dense_retriever(encoder, collection, num_results=2, root=tmp_path)(TOPICS)
    assert found["docno"].tolist()[0] == "d1"
    assert len(found) == 2
    assert dense_index(encoder, collection, root=tmp_path) == dense_index(encoder, collection, root=tmp_path)
    assert encoder.encoded == len(DOCS)
    other = dense_index(LetterEncoder("other"), collection, root=tmp_path)
    assert other.metadata["encoder"] == "other"
    assert len(list(tmp_path.iterdir())) == 2


def test_waits_for_another_that_builds_the_same(collection, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("pyterrier_merge.retrieval.dense.pipeline.POLL_SECONDS", 0.01)
    first, second, waiting = LetterEncoder(), LetterEncoder(), Event()
    logger = logging.getLogger("pyterrier_merge.retrieval.dense.pipeline")
    monkeypatch.setattr(logger, "filters", [lambda record: waiting.set() or True])
    first.go_on.clear()
    with caplog.at_level(logging.INFO), ThreadPoolExecutor() as jobs:
        building = jobs.submit(dense_index, first, collection, root=tmp_path)
        assert first.begun.wait(timeout=60)
        late = jobs.submit(dense_index, second, collection, root=tmp_path)
        assert waiting.wait(timeout=60)
        first.go_on.set()
        assert late.result(timeout=60) == building.result(timeout=60)
    assert (first.encoded, second.encoded) == (len(DOCS), 0)
    assert [message for message in caplog.messages if "waiting for it" in message] == [
        f"{late.result().path} is being built by another process: waiting for it"
    ]
    assert len(list(tmp_path.iterdir())) == 1


def test_goes_on_where_another_failed(collection, tmp_path):
    broken = LetterEncoder()
    broken.encode_docs = lambda texts: pytest.fail("no memory")
    with pytest.raises(pytest.fail.Exception):
        dense_index(broken, collection, root=tmp_path)
    assert dense_index(LetterEncoder(), collection, root=tmp_path).built()


def test_something_else_in_its_place_is_an_error(collection, tmp_path):
    path = dense_index(LetterEncoder(), collection, root=tmp_path).path
    (path / "pt_meta.json").unlink()
    with pytest.raises(FileExistsError, match="not a dense index"):
        dense_index(LetterEncoder(), collection, root=tmp_path)


@pytest.mark.parametrize("plan", ["linear", "tree"])
def test_encoders_that_differ_in_alpha_share_nothing(
    small_collection, bert_retriever, bert_language_model, tmp_path, plan
):
    encoders = [
        MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=alpha, alpha_upper=1, dtype="float32")
        for alpha in (0.0, 1.0)
    ]
    systems = [dense_retriever(encoder, small_collection, num_results=10, root=tmp_path) for encoder in encoders]
    topics, qrels = small_collection.topics("dev"), small_collection.qrels("dev")
    table = pt.Experiment(systems, topics, qrels, [nDCG @ 10], names=["zero", "one"], plan=plan)
    alone = [pt.Experiment([system], topics, qrels, [nDCG @ 10])["nDCG@10"].item() for system in systems]
    assert table["nDCG@10"].tolist() == alone
    assert alone[0] != alone[1]


class TestReranking:
    @pytest.fixture
    def questions(self, tmp_path):
        """Two questions in two splits, each with passages of its own; the passages of one suit the other better."""
        texts = {"1": "pain", "2": "fever", "3": "kidney", "4": "liver", "5": "fever fever pain"}
        given = {"dev": ("qd", "kidney", ["1", "3"]), "test": ("qt", "fever", ["4", "1", "5"])}
        files = {}
        for split, (qid, question, docnos) in given.items():
            rows = [
                {
                    "q_id": qid,
                    "question": question,
                    "passage_row_id": docno,
                    "title": "",
                    "text": texts[docno],
                    "label": 0,
                }
                for docno in docnos
            ]
            rows[-1]["label"] = 1
            files[split] = [tmp_path / f"{split}.jsonl"]
            files[split][0].write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return JqaraCollection(
            name="questions",
            title="questions",
            language="en",
            domain="none",
            task="",
            splits=("dev", "test"),
            measures=(nDCG @ 10,),
            licence="none",
            citation="",
            reranking=True,
            files=files,
            with_title=False,
        )

    def test_each_query_ranks_its_own_candidates(self, questions, tmp_path):
        topics = pd.concat([questions.topics("test"), questions.topics("dev")], ignore_index=True)
        found = dense_retriever(LetterEncoder(), questions, root=tmp_path / "indexes")(topics)
        assert found.groupby("qid", sort=False)["docno"].apply(list).to_dict() == {
            "qt": sorted("415", key=lambda docno: similarity("fever", docno), reverse=True),
            "qd": ["3", "1"],
        }
        assert found["rank"].tolist() == [0, 1, 2, 0, 1]
        cut = dense_retriever(LetterEncoder(), questions, num_results=1, root=tmp_path / "indexes")(topics)
        assert cut["docno"].tolist() == ["5", "3"]

    def test_an_experiment_takes_it(self, questions, tmp_path):
        system = dense_retriever(LetterEncoder(), questions, root=tmp_path / "indexes")
        table = pt.Experiment([system], questions.topics("test"), questions.qrels("test"), [nDCG @ 10])
        assert table["nDCG@10"].item() == 1

    def test_other_queries_are_refused(self, questions):
        with pytest.raises(ValueError, match=r"questions gives candidates only for its own topics, and 1 of 2.*'new'"):
            GivenCandidates(questions)(pd.DataFrame({"qid": ["qt", "new"], "query": ["a", "b"]}))

    def test_a_collection_without_candidates_is_refused(self, collection):
        with pytest.raises(ValueError, match="small gives no candidates"):
            GivenCandidates(collection)

    def test_identity_and_empty_frames(self, questions):
        stage = GivenCandidates(questions)
        assert stage == GivenCandidates(questions)
        assert hash(stage) == hash(GivenCandidates(questions))
        assert stage(pd.DataFrame(columns=["qid", "query"])).columns.tolist() == ["qid", "query", "docno"]
        assert "candidates" not in vars(stage)
        assert pt.schematic.draw(LetterEncoder() >> stage)


def similarity(query: str, docno: str) -> float:
    texts = {"1": "pain", "4": "liver", "5": "fever fever pain"}
    return float(letters(query) @ letters(texts[docno]))


@pytest.mark.parametrize("further", [{"qid": "1", "query": "pain"}, {"query_vec": None}])
def test_documents_that_come_with_a_query_are_encoded_all_the_same(bert_retriever, tmp_path, further):
    encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
    index = FaissIndex(tmp_path / "index", verbose=False)
    (encoder >> index).index([{**doc, **further} for doc in DOCS])
    np.testing.assert_array_equal(index.open().matrix, encoder.encode_docs([doc["text"] for doc in DOCS]))


def test_an_index_tells_how_many_documents_were_cut_and_takes_any_text(bert_retriever, tmp_path, caplog):
    """Also after a resume: what an earlier job has counted stays counted."""
    encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
    index = FaissIndex(tmp_path / "index", verbose=False)
    texts = ["fever", "pain " * 40, "\ud800", "", "a " * 99]
    docs = [{"docno": str(number), "text": text} for number, text in enumerate(texts)]

    def interrupted():
        yield from docs[:2]
        raise OSError("unplugged")

    with pytest.raises(RuntimeError, match="after document '1'"):
        index.indexer(encoder=encoder, shard_size=1).index(interrupted())
    with caplog.at_level(logging.INFO, logger="pyterrier_merge"):
        index.indexer(encoder=encoder, shard_size=1).index(docs)
    assert index.metadata["truncated"] == 2
    assert "2 of 5 documents were too long for the encoder" in caplog.text
