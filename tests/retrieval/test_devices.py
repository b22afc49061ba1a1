"""Candidates over several devices, on the code path that GPUs take."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pyterrier_merge.retrieval import devices as room
from pyterrier_merge.retrieval.devices import Share, device_names, rough_best
from pyterrier_merge.retrieval.index import FaissIndex

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
