"""vec_loader: stored vectors in results, with the encoder that they are of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
import pytest

from pyterrier_merge import E5Encoder, bm25
from pyterrier_merge.retrieval.dense.index import FaissIndex
from pyterrier_merge.retrieval.dense.pipeline import dense_index

DIM = 5


def vectors(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, DIM)).astype(np.float32)


@pytest.fixture(params=["float32", "float16"])
def index(request, tmp_path) -> FaissIndex:
    docs = [{"docno": f"d{number}", "doc_vec": vector} for number, vector in enumerate(vectors(9))]
    return FaissIndex(tmp_path / "index", dtype=request.param, verbose=False).index(docs)


def test_rows_have_the_stored_vectors(index):
    given = pd.DataFrame({"qid": list("aab"), "docno": ["d7", "d2", "d7"], "doc_vec": "old"}, index=[3, 4, 5])
    found = index.vec_loader()(given)
    expected = vectors(9)[[7, 2, 7]].astype(index.dtype).astype(np.float32)
    np.testing.assert_array_equal(np.stack(found["doc_vec"]), expected)
    assert {vector.dtype for vector in found["doc_vec"]} == {np.dtype(np.float32)}
    assert found.index.tolist() == [3, 4, 5]
    assert found["docno"].tolist() == given["docno"].tolist()
    assert given["doc_vec"].tolist() == ["old"] * 3


def test_a_change_of_what_comes_out_changes_no_index(index):
    index.vec_loader()(pd.DataFrame({"docno": ["d1"]}))["doc_vec"].iloc[0][:] = 0
    assert index.vec_loader()(pd.DataFrame({"docno": ["d1"]}))["doc_vec"].iloc[0].any()


def test_the_same_as_pyterrier_dr(tmp_path):
    docs = [{"docno": f"d{number}", "doc_vec": vector} for number, vector in enumerate(vectors(9))]
    index = FaissIndex(tmp_path / "index", verbose=False).index(docs)
    given = pd.DataFrame({"docno": ["d8", "d0"]})
    theirs = pyterrier_dr.FlexIndex(str(tmp_path / "index")).vec_loader()(given)
    np.testing.assert_array_equal(np.stack(index.vec_loader()(given)["doc_vec"]), np.stack(theirs["doc_vec"]))


def test_unknown_documents_are_named(index, tmp_path):
    with pytest.raises(ValueError, match=r"2 of 3 rows have documents that are not in FaissIndex.*: 'x', 'y' "):
        index.vec_loader()(pd.DataFrame({"docno": ["x", "d1", "y"]}))
    with pytest.raises(FileNotFoundError, match="no finished index"):
        FaissIndex(tmp_path / "missing").vec_loader()(pd.DataFrame({"docno": ["x"]}))


def test_they_rank_as_texts_do_and_only_for_their_own_encoder(small_collection, bert_retriever, tmp_path):
    encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
    index = dense_index(encoder, small_collection, root=tmp_path)
    topics, first = small_collection.topics("dev"), bm25(small_collection, num_results=10)
    by_vectors = (first >> index.vec_loader() >> encoder)(topics)
    by_texts = (first >> small_collection.text_loader() >> encoder)(topics)
    key = ["qid", "docno"]
    both = by_vectors.merge(by_texts, on=key, suffixes=("", "_text"))
    assert len(both) == len(by_vectors) == len(by_texts)
    np.testing.assert_allclose(both["score"], both["score_text"], atol=1e-5)
    other = E5Encoder(bert_retriever, dtype="float32", device="cpu", max_length=4)
    with pytest.raises(ValueError, match="'doc_vec' is of the encoder"):
        (first >> index.vec_loader() >> other)(topics)


def test_identity_and_empty_frames(index, tmp_path):
    loader = index.vec_loader()
    assert loader == FaissIndex(index.path).vec_loader()
    assert hash(loader) == hash(FaissIndex(index.path).vec_loader())
    assert loader != FaissIndex(tmp_path / "missing").vec_loader()
    empty = FaissIndex(tmp_path / "missing").vec_loader()(pd.DataFrame(columns=["qid", "docno"]))
    assert empty.columns.tolist() == ["qid", "docno", "doc_vec"]
    assert loader.fuse_rank_cutoff(3) == pt.RankCutoff(3) >> loader


VecLoaderCase = pt.testing.transformer_test_class(lambda: FaissIndex("missing").vec_loader())
