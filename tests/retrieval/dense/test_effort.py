"""How much of a structure is searched by default: enough for the exact ten and for as many results as are asked for."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from pyterrier_merge.retrieval.dense.effort import default_nprobe
from pyterrier_merge.retrieval.dense.index import FaissIndex

pytest.importorskip("faiss")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

DIM, TOPICS, SPREAD = 32, 50, 1.2


def vectors(n: int, seed: int) -> np.ndarray:
    """Unit vectors around fifty centres, as texts lie around their topics."""
    centres = np.random.default_rng(5).normal(size=(TOPICS, DIM))
    generator = np.random.default_rng(seed)
    matrix = centres[generator.integers(TOPICS, size=n)] + SPREAD * generator.normal(size=(n, DIM))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def queries(n: int = 100) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{place}" for place in range(n)], "query": "x", "query_vec": list(vectors(n, 1))})


def index_of(folder, n: int) -> FaissIndex:
    documents = [{"docno": f"d{place}", "doc_vec": vector} for place, vector in enumerate(vectors(n, 0))]
    return FaissIndex(folder / str(n), verbose=False).index(documents)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> FaissIndex:
    return index_of(tmp_path_factory.mktemp("effort"), 4_000)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> FaissIndex:
    return index_of(tmp_path_factory.mktemp("effort"), 400)


def exact_ten() -> np.ndarray:
    return np.argsort(-(vectors(100, 1) @ vectors(4_000, 0).T), axis=1)[:, :10]


@pytest.mark.parametrize(
    "factory",
    ["IVF16,Flat", "IVF32,SQfp16", "IVF100,Flat", "IVF100,SQ8", "IVF256,Flat", "IVF64_HNSW8,Flat", "HNSW8", "HNSW32"],
)
def test_defaults_find_the_exact_ten(index, factory):
    """A sixteenth of the lists finds .68 to .95 of them, and a queue of 16 finds .89 (HNSW8)."""
    found = index.retriever(10, factory=factory)(queries()).groupby("qid", sort=False)["docid"].apply(set)
    assert np.mean([len(found[f"q{place}"] & set(ten)) / 10 for place, ten in enumerate(exact_ten())]) >= 0.95


@pytest.mark.parametrize(
    ("lists", "n_docs", "depth", "expected"),
    [
        (1, 100, 42, 1),
        (32, 19_034, 42, 12),  # 2 * 5.66
        (100, 19_034, 42, 20),
        (1_024, 19_034, 42, 64),
        (1_024, 19_034, 1_032, 223),  # 4 * 1032 / (19034 / 1024) = 222.1
        (65_536, 10_000_000, 1_032, 512),
        (100, 400, 132, 100),
    ],
)
def test_nprobe_by_lists_and_depth(lists, n_docs, depth, expected):
    assert default_nprobe(lists, n_docs, depth) == expected


@pytest.mark.parametrize("factory", ["IVF100,Flat", "IVF100,SQ8", "HNSW16", "HNSW16_SQ8"])
@pytest.mark.parametrize("num_results", [100, 390])
def test_as_many_results_as_were_asked_for(small, factory, num_results, caplog):
    found = small.retriever(num_results, factory=factory)(queries())
    assert set(found.groupby("qid").size()) == {num_results}
    assert "found fewer" not in caplog.text


def test_more_results_than_documents_are_no_warning(small, caplog):
    assert len(small.retriever(1_000, factory="IVF8,Flat")(queries(2))) == 800
    assert "found fewer" not in caplog.text


def test_a_queue_is_never_shorter_than_the_results(small):
    found = small.retriever(300, factory="HNSW16", ef_search=1)(queries())
    assert set(found.groupby("qid").size()) == {300}


def test_too_few_results_are_warned_of_once(small, caplog):
    retriever = small.retriever(100, factory="IVF100,Flat", nprobe=6)
    with caplog.at_level(logging.WARNING):
        counts = retriever(queries()).groupby("qid").size()
        retriever(queries())
    (warning,) = [record.getMessage() for record in caplog.records if "found fewer" in record.getMessage()]
    least = counts.min()
    more = min(100, max(12, -(-600 // least)))
    assert warning == (
        f"IVF100,Flat found fewer than 100 documents, {least} at least, for 100 of 100 queries: "
        f"nprobe=6 of its 100 lists were searched, try nprobe={more}"
    )
    tried = small.retriever(100, factory="IVF100,Flat", nprobe=more)(queries()).groupby("qid").size()
    assert tried.min() > counts.max()


def test_a_graph_that_finds_too_few_names_ef_search(tmp_path, caplog):
    """Nodes of two links that lie in one place leave others out of reach."""
    matrix = np.repeat(vectors(40, 0), 50, axis=0)
    documents = [{"docno": f"d{place}", "doc_vec": vector} for place, vector in enumerate(matrix)]
    graph = FaissIndex(tmp_path / "index", verbose=False).index(documents).retriever(1_500, factory="HNSW2")
    found = graph(queries(5))
    assert len(found) < 5 * 1_500
    assert "HNSW2 found fewer than 1500 documents" in caplog.text
    assert "it was searched with ef_search=1532, try ef_search=6128 or a graph of more links" in caplog.text


@pytest.mark.parametrize(
    ("factory", "candidates", "warned"),
    [("IVF16,PQ8x4", None, 1), ("PQ8x4", None, 1), ("IVF16,PQ8x4", 100, 0), ("IVF16,SQ8", None, 0), ("SQ4", None, 0)],
)
def test_product_quantizers_are_warned_of_once(index, factory, candidates, warned, caplog):
    retriever = index.retriever(10, factory=factory, candidates=candidates)
    for _ in range(2):
        retriever(queries(3))
    told = [record.getMessage() for record in caplog.records if "coarse scores" in record.getMessage()]
    assert len(told) == warned
    assert all("42 candidates for 10 results" in message and "candidates=100" in message for message in told)
