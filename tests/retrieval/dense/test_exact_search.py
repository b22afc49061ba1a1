"""Candidates over several devices, on the code path that GPUs take."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

from pyterrier_merge.retrieval.dense import exact_search as room
from pyterrier_merge.retrieval.dense.exact_search import Share, device_names, rough_best
from pyterrier_merge.retrieval.dense.index import FaissIndex

DIM = 24


def vectors(n: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32).round(1)


def queries(n: int) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{i}" for i in range(n)], "query": "x", "query_vec": list(vectors(n, seed=1))})


@pytest.fixture(params=["float32", "float16"])
def index(request, tmp_path) -> FaissIndex:
    matrix = vectors(500)
    matrix[::3] = matrix[0]  # many ties, in all shares
    docs = [{"docno": f"d{i * 7 % 500}", "doc_vec": vector} for i, vector in enumerate(matrix)]
    return FaissIndex(tmp_path / "index", dtype=request.param, verbose=False).index(docs)


@pytest.mark.parametrize("depth", [1, 7, 130, 500])
@pytest.mark.parametrize("n_queries", [1, 9])
@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_best_scores_are_found(index, monkeypatch, depth, n_queries, split):
    monkeypatch.setattr(room, "SCORES", 64 * n_queries)
    asked = np.stack(queries(n_queries)["query_vec"])
    scores, docids = rough_best(index.open(), asked, depth, ("cpu",) * split)
    products = asked.astype(np.float64) @ index.open().rows(slice(None)).astype(np.float64).T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :depth], atol=1e-4)
    np.testing.assert_allclose(scores, np.take_along_axis(products, docids, axis=1), atol=1e-4)
    assert all(len(set(row)) == depth for row in docids.tolist())


@pytest.mark.parametrize("k", [1, 20, 400, 3_000])
def test_devices_change_no_bit(index, k):
    expected = index.retriever(k)(queries(30))
    for device in (("cpu", "cpu"), ["cpu"] * 3, "cpu"):
        pd.testing.assert_frame_equal(index.retriever(k, device=device)(queries(30)), expected)


def test_shares_that_a_device_holds_give_the_same(index, monkeypatch):
    """Loaded shares, as on a GPU, in the stored type."""
    loaded = []

    def load(stored, devices):
        halves = [range(0, 200), range(200, 500)]
        shares = [Share("cpu", rows, torch.from_numpy(stored.matrix[rows.start : rows.stop].copy())) for rows in halves]
        loaded.extend(share.loaded.dtype for share in shares)
        return shares

    expected = index.retriever(40)(queries(30))
    monkeypatch.setattr(room, "_shares", load)
    pd.testing.assert_frame_equal(index.retriever(40)(queries(30)), expected)
    assert str(loaded[0]).removeprefix("torch.") == index.metadata["vec_dtype"]


def test_precision_is_put_back(index):
    torch.set_float32_matmul_precision("high")
    try:
        index.retriever(3)(queries(2))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_names_of_devices(monkeypatch):
    assert device_names(None) == ("cpu",)
    assert device_names(["cpu", "cpu"]) == ("cpu", "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_names("cuda") == ("cuda:0", "cuda:1")
    assert device_names("cuda:1") == ("cuda:1",)
    for wrong, message in (
        ("cuda:2", "no device 'cuda:2': torch sees 2 GPUs"),
        ("gpu", "no device is called 'gpu': use"),
        ((), "names no device"),
    ):
        with pytest.raises(ValueError, match=message):
            device_names(wrong)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="no device 'cuda'"):
        device_names("cuda")


@pytest.mark.parametrize("backend", [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul])
def test_a_precision_set_for_one_backend_is_no_hindrance_and_put_back(index, monkeypatch, backend):
    if not hasattr(backend, "fp32_precision"):
        pytest.skip("this torch has no precision of a backend")
    expected = index.retriever(3)(queries(2))
    during, rough = [], room._scores
    monkeypatch.setattr(room, "_scores", lambda *given: (during.append(backend.fp32_precision), rough(*given))[1])
    before = backend.fp32_precision
    backend.fp32_precision = "tf32"
    try:
        pd.testing.assert_frame_equal(index.retriever(3)(queries(2)), expected)
        assert backend.fp32_precision == "tf32"
        assert set(during) == {"ieee"}
    finally:
        backend.fp32_precision = before


def test_a_search_does_not_put_the_precision_back_under_another(index):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with ThreadPoolExecutor(4) as jobs:
            list(jobs.map(lambda _: index.retriever(3)(queries(9)), range(40)))
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.mkldnn.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-23, 1e18])
def test_lengths_at_the_ends_of_the_range(tmp_path, scale):
    """Vectors that differ in their last bits, so that the order of sums decides what a product selects."""
    base = np.random.default_rng(0).normal(size=16)
    near = base + np.random.default_rng(1).integers(-2, 3, size=(3000, 16)) * base * 1.2e-7
    docs = [{"docno": f"d{i}", "doc_vec": vector} for i, vector in enumerate((near * scale).astype(np.float32))]
    index = FaissIndex(tmp_path / "index", verbose=False).index(docs)
    asked = pd.DataFrame({"qid": list("ab"), "query": "x", "query_vec": list(near[:2].astype(np.float32))})
    everything = index.retriever(3000)(asked)
    expected = everything[everything["rank"] < 20].reset_index(drop=True)
    pd.testing.assert_frame_equal(index.retriever(20)(asked), expected)


def test_a_vector_whose_products_overflow_is_refused(index, tmp_path):
    long = np.full(DIM, 3e18, dtype=np.float32)
    with pytest.raises(ValueError, match=r"document 'd' is longer than 1e\+19.*normalise"):
        FaissIndex(tmp_path / "long", verbose=False).index([{"docno": "d", "doc_vec": long}])
    with pytest.raises(ValueError, match=r"query 'q' is longer than 1e\+19"):
        index.retriever(3)(pd.DataFrame({"qid": ["q"], "query": "x", "query_vec": [long]}))
