"""dense_index and dense_retriever: built once, whoever asks."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_merge.collections import from_frames
from pyterrier_merge.retrieval.dense import dense_index, dense_retriever

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
    monkeypatch.setattr("pyterrier_merge.retrieval.dense.POLL_SECONDS", 0.01)
    first, second, waiting = LetterEncoder(), LetterEncoder(), Event()
    logger = logging.getLogger("pyterrier_merge.retrieval.dense")
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
    with pytest.raises(FileExistsError, match="no dense index"):
        dense_index(LetterEncoder(), collection, root=tmp_path)
