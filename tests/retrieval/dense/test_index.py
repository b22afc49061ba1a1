from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from pyterrier.measures import R, nDCG

from pyterrier_merge.collections import from_frames
from pyterrier_merge.encoding.encoded_vector import EncodedVector
from pyterrier_merge.retrieval.dense import build
from pyterrier_merge.retrieval.dense.build import IndexBusyError, VectorBuild
from pyterrier_merge.retrieval.dense.docnos import JOURNAL
from pyterrier_merge.retrieval.dense.index import FaissIndex
from pyterrier_merge.retrieval.dense.retriever import FaissRetriever
from pyterrier_merge.retrieval.dense.vectors import read_metadata
from pyterrier_merge.storage import finish_folder

pt.documentation._cached_objects_inv = {}  # schematics look the documentation up on the network otherwise

DIM = 24


class HashEncoder(pt.Transformer):
    """Gives each text a vector that its SHA-256 decides, and remembers what it encoded."""

    batch_size = 32
    text_field = "text"

    def __init__(self, fingerprint: str = "hash-1", *, dies_after: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.dies_after = dies_after
        self.encoded: list[str] = []

    def __rshift__(self, right):
        pipeline = super().__rshift__(right)
        return pipeline.compile() if isinstance(right, pt.Indexer) else pipeline  # as E5Encoder does

    def encode_docs(self, texts, batch_size=None):
        for text in texts:
            if len(self.encoded) == self.dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            self.encoded.append(text)
        return np.stack([vector_of(text) for text in texts])

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        with pt.validate.any(inp) as v:
            v.query_frame(extra_columns=["query"], mode="query")
            v.document_frame(extra_columns=["text"], mode="doc")
        if v.mode == "query":
            return inp.assign(query_vec=EncodedVector.of(map(vector_of, inp["query"]), self.fingerprint))
        return inp.assign(doc_vec=EncodedVector.of(self.encode_docs(inp["text"].tolist()), self.fingerprint))


def vector_of(text: str) -> np.ndarray:
    digest = hashlib.sha256(text.encode()).digest()[:DIM]
    return np.frombuffer(digest, dtype=np.uint8).astype(np.float32) / 128 - 1


def corpus(n: int) -> list[dict[str, str]]:
    return [{"docno": f"d{i}", "text": f"text {i}"} for i in range(n)]


def vectors(n: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def whole_vectors(n: int, *, seed: int = 0) -> np.ndarray:
    """Whole numbers, whose inner products float32 computes exactly, and which tie often."""
    return vectors(n, seed=seed).round() * 2


def documents(matrix: np.ndarray, docnos: list[str] | None = None) -> list[dict]:
    names = docnos or [f"d{i}" for i in range(len(matrix))]
    return [{"docno": docno, "doc_vec": vector} for docno, vector in zip(names, matrix, strict=True)]


def queries(matrix: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(matrix))], "query": "x", "query_vec": list(matrix)})


def brute_force(docs: list[dict], matrix: np.ndarray, k: int) -> list[list[str]]:
    """The docnos of each query, best first, ties by docno: float64 and Python's sort."""
    scores = matrix.astype(np.float64) @ np.stack([doc["doc_vec"] for doc in docs]).astype(np.float64).T
    return [[doc["docno"] for _, doc in sorted(zip(-row, docs, strict=True), key=order)[:k]] for row in scores]


def order(scored: tuple[float, dict]) -> tuple[float, str]:
    return scored[0], scored[1]["docno"]


def ranking(results: pd.DataFrame) -> list[list[str]]:
    return [group["docno"].tolist() for _, group in results.groupby("qid", sort=False)]


@pytest.fixture
def index(tmp_path: Path) -> FaissIndex:
    return FaissIndex(tmp_path / "index", verbose=False)


def nothing_left(index: FaissIndex) -> bool:
    return not any(index.path.parent.iterdir())


class TestSearch:
    @pytest.mark.parametrize("k", [1, 7, 300, 1000])
    def test_agrees_with_brute_force_at_any_cutoff(self, index, k):
        docs = documents(whole_vectors(300))
        index.index(iter(docs))
        found = index.retriever(k)(queries(whole_vectors(40, seed=1)))
        assert ranking(found) == brute_force(docs, whole_vectors(40, seed=1), k)

    def test_columns(self, index):
        matrix, query = vectors(50), vectors(2, seed=1)
        index.index(documents(matrix))
        found = index.retriever(3)(queries(query).assign(topic="t"))
        assert found.columns.tolist() == ["qid", "query", "query_vec", "topic", "docno", "docid", "score", "rank"]
        assert found["rank"].tolist() == [0, 1, 2, 0, 1, 2]
        assert found["docno"].tolist() == [f"d{docid}" for docid in found["docid"]]
        expected = [
            matrix[docid] @ query[int(qid[1:])] for qid, docid in zip(found["qid"], found["docid"], strict=True)
        ]
        np.testing.assert_allclose(found["score"], expected, rtol=1e-5)
        assert found["score"].dtype == np.float32
        assert "query_vec" not in index.retriever(3, drop_query_vec=True)(queries(query)).columns

    def test_rank_agrees_with_pyterrier(self, index):
        matrix = np.repeat(vectors(10), 5, axis=0)
        index.index(documents(matrix))
        found = index.retriever(20)(queries(vectors(4, seed=1)))
        assert pt.model.add_ranks(found.copy())["rank"].tolist() == found["rank"].tolist()

    def test_empty_frame_has_all_columns_and_opens_nothing(self, tmp_path):
        empty = pd.DataFrame(columns=["qid", "query", "query_vec"])
        retriever = FaissIndex(tmp_path / "missing").retriever(5)
        found = retriever(empty)
        assert found.columns.tolist() == ["qid", "query", "query_vec", "docno", "docid", "score", "rank"]
        assert len(found) == 0
        assert "query_vec" not in FaissRetriever(retriever.index, drop_query_vec=True)(empty).columns

    @pytest.mark.parametrize("k", [1, 3, 5, 60, 499, 500])
    def test_duplicates_across_the_cutoff_come_by_docno(self, index, k):
        matrix = whole_vectors(500)
        matrix[::2] = matrix[0]  # 250 equal vectors, half of the index
        docnos = [f"n{i}" for i in np.random.default_rng(2).permutation(500)]
        docs = documents(matrix, docnos)
        index.index(docs)
        query = np.concatenate([matrix[:1], -matrix[:1], whole_vectors(30, seed=1)])
        expected = brute_force(docs, query, k)
        assert ranking(index.retriever(k)(queries(query))) == expected
        assert expected[0] == sorted(docnos[::2])[:k] + expected[0][250:]

    def test_results_do_not_depend_on_how_faiss_computes(self, index, monkeypatch):
        faiss = pytest.importorskip("faiss")
        matrix = vectors(400)
        matrix[[7, 200, 399]] = matrix[0]
        index.index(documents(matrix))
        query = queries(np.concatenate([matrix[:1], vectors(69, seed=1)]))
        with monkeypatch.context() as patch:
            patch.setattr(faiss.cvar, "distance_compute_blas_threshold", 1)  # a matrix product, as for many queries
            together = index.retriever(9)(query)
        alone = pd.concat([index.retriever(9)(query.iloc[[i]]) for i in range(70)], ignore_index=True)
        assert together["docno"].tolist() == alone["docno"].tolist()
        assert together["score"].tolist() == alone["score"].tolist()  # to the last bit
        assert together["docno"].tolist()[:4] == ["d0", "d200", "d399", "d7"]

    def test_batches_are_bounded_and_join_up(self, index, monkeypatch):
        docs = documents(vectors(100))
        index.index(docs)
        monkeypatch.setattr("pyterrier_merge.retrieval.dense.search.CANDIDATES", 200)
        found = index.retriever(5, verbose=True)(queries(vectors(23, seed=1)))
        assert ranking(found) == brute_force(docs, vectors(23, seed=1), 5)

    def test_refuses_what_it_cannot_search(self, index):
        with pytest.raises(FileNotFoundError, match=r"encoder >> index"):
            index.retriever()(queries(vectors(1)))
        index.index(documents(vectors(5)))
        with pytest.raises(ValueError, match=r"'q0'.*\(7,\).*\(24,\)"):
            index.retriever()(queries(vectors(1)[:, :7]))
        broken = vectors(2)
        broken[1, 3] = np.nan
        with pytest.raises(ValueError, match="'q1' is not finite"):
            index.retriever()(queries(broken))
        words = queries(vectors(1)).assign(query_vec=[["x"] * DIM])
        with pytest.raises(ValueError, match="query 'q0' has a vector that NumPy cannot read as numbers"):
            index.retriever()(words)
        with pytest.raises(ValueError, match="num_results"):
            index.retriever(0)

    def test_pickles_without_the_vectors(self, index):
        index.index(documents(vectors(500)))
        retriever, query = index.retriever(5), queries(vectors(3, seed=1))
        found = retriever(query)
        stored = pickle.dumps(retriever)
        assert len(stored) < 2_000
        pd.testing.assert_frame_equal(pickle.loads(stored)(query), found)

    @pytest.mark.parametrize("n_docs", [1, 2])
    def test_hardly_any_documents(self, index, n_docs):
        docs = documents(vectors(n_docs))
        index.index(docs)
        query = vectors(3, seed=1)
        assert ranking(index.retriever(10)(queries(query))) == brute_force(docs, query, 10)

    def test_missing_faiss_names_the_extra(self, index, monkeypatch):
        index.index(documents(vectors(5)))
        monkeypatch.setitem(sys.modules, "faiss", None)
        with pytest.raises(ImportError, match=r"pyterrier-merge\[cpu\]"):
            index.retriever()(queries(vectors(1)))


class TestPyTerrier:
    def test_flex_index_reads_it(self, index):
        pyterrier_dr = pytest.importorskip("pyterrier_dr")
        index.index(documents(vectors(300), [f"doc-{i * 37 % 300}" for i in range(300)]))
        query = queries(vectors(20, seed=1))
        theirs = pyterrier_dr.FlexIndex(index.path, verbose=False).np_retriever(num_results=10)(query)
        ours = index.retriever(10)(query)
        assert ours["docno"].tolist() == theirs["docno"].tolist()
        np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-5)
        assert type(pt.Artifact.load(str(index.path))) is pyterrier_dr.FlexIndex

    def test_pyterrier_opens_float16_as_what_it_is(self, tmp_path):
        index = FaissIndex(tmp_path / "half", dtype="float16", verbose=False)
        index.index(documents(vectors(30)))
        opened = pt.Artifact.load(str(index.path))
        assert type(opened) is FaissIndex
        query = queries(vectors(2, seed=1))
        pd.testing.assert_frame_equal(opened.retriever(5)(query), index.retriever(5)(query))

    def test_reads_a_flex_index(self, tmp_path):
        pyterrier_dr = pytest.importorskip("pyterrier_dr")
        docs = documents(vectors(300))
        pyterrier_dr.FlexIndex(tmp_path / "flex", verbose=False).index(docs)
        found = FaissIndex(tmp_path / "flex").retriever(4)(queries(vectors(9, seed=1)))
        assert ranking(found) == brute_force(docs, vectors(9, seed=1), 4)

    @pytest.mark.parametrize(
        "docnos", [["only"], [f"d1%p{i}" for i in range(300)], ["a\nb", "c,d", 'e"f', "007"], ["文書1", "文章2"]]
    )
    def test_unusual_docnos(self, index, docnos):
        pyterrier_dr = pytest.importorskip("pyterrier_dr")
        docs = documents(vectors(len(docnos)), docnos)
        index.index(docs)
        query = queries(vectors(3, seed=1))
        assert ranking(index.retriever(5)(query)) == brute_force(docs, vectors(3, seed=1), 5)
        theirs = pyterrier_dr.FlexIndex(index.path, verbose=False).np_retriever(num_results=min(5, len(docnos)))(query)
        assert ranking(theirs) == brute_force(docs, vectors(3, seed=1), 5)

    def test_a_docno_that_is_much_longer_does_not_widen_the_others(self, index, monkeypatch):
        pyterrier_dr = pytest.importorskip("pyterrier_dr")
        monkeypatch.setattr("pyterrier_merge.retrieval.dense.docnos.SPACIOUS", 10_000)
        matrix = whole_vectors(300)
        matrix[::2] = matrix[0]
        names = [f"n{i:03}" for i in np.random.default_rng(2).permutation(300)]
        names[120] = "n15" + "x" * 5_000  # of those that tie
        docs = documents(matrix, names)
        with pytest.raises(RuntimeError, match="kept"):
            index.indexer(shard_size=50).index(FailingDocuments(docs, fails_at=160))
        index.index(docs)
        assert (index.path / "docnos.npids").stat().st_size < 20_000
        assert index.open().names.tolist() == [name.encode() for name in names]
        query = queries(np.concatenate([matrix[:1], whole_vectors(20, seed=1)]))
        found = index.retriever(200)(query)
        assert ranking(found) == brute_force(docs, np.stack(query["query_vec"]), 200)
        theirs = pyterrier_dr.FlexIndex(index.path, verbose=False)
        found = found[found["qid"] == "q0"]
        pairs = found[["qid", "query", "query_vec", "docno"]]
        np.testing.assert_allclose(index.scorer()(pairs)["score"], found["score"], rtol=1e-5)
        np.testing.assert_allclose(theirs.np_scorer()(pairs)["score"], found["score"], rtol=1e-5)
        assert set(theirs.np_retriever(num_results=300)(query)["docno"]) == set(names)

    def test_identity_follows_the_content(self, tmp_path):
        index, same = FaissIndex(tmp_path / "i", verbose=False), FaissIndex(str(tmp_path / "i"))
        assert index.retriever(5) == same.retriever(5)
        before = hash(index.retriever(5))
        index.index(documents(vectors(9)))
        assert index.retriever(5) == same.retriever(5)
        assert hash(index.retriever(5)) == hash(same.retriever(5)) != before
        assert index.retriever(5) != index.retriever(6)
        assert index.retriever(5) != index.retriever(5, drop_query_vec=True)
        other = FaissIndex(tmp_path / "j", verbose=False)
        other.index(documents(vectors(9)))
        assert other.retriever(5) != index.retriever(5)
        assert other.fingerprint == index.fingerprint
        first = index.fingerprint
        index.indexer(mode="overwrite").index(documents(vectors(9, seed=1)))
        assert index.fingerprint != first

    def test_fuses_a_rank_cutoff(self, index):
        retriever = index.retriever(100, drop_query_vec=True)
        fused = (retriever % 7).compile()
        assert fused == index.retriever(7, drop_query_vec=True)
        assert retriever.fuse_rank_cutoff(100) is retriever
        assert retriever.fuse_rank_cutoff(1000) is retriever

    def test_compiling_refuses_another_encoder(self, index):
        (HashEncoder("one") >> index).index(corpus(5))
        assert (HashEncoder("one") >> index.retriever()).compile()
        assert (pt.apply.query_vec(lambda row: vectors(1)[0]) >> index.retriever()).compile()
        with pytest.raises(ValueError, match="encoded with one, the queries with two"):
            (HashEncoder("two") >> index.retriever()).compile()

    @pytest.mark.parametrize("plan", ["linear", "tree"])
    def test_an_experiment_refuses_another_encoder(self, index, plan):
        (HashEncoder("one") >> index).index(corpus(5))
        topics = pd.DataFrame({"qid": ["q1"], "query": ["text 3"]})
        qrels = pd.DataFrame({"qid": ["q1"], "docno": ["d3"], "label": 1})

        def experiment(*encoders):
            return pt.Experiment(
                [encoder >> index.retriever(k) for k, encoder in enumerate(encoders, 2)],
                topics,
                qrels,
                [nDCG @ 5],
                plan=plan,
            )

        assert experiment(HashEncoder("one"), HashEncoder("one"))["nDCG@5"].tolist() == [1, 1]
        with pytest.raises(ValueError, match="encoded with one, the queries with two"):
            experiment(HashEncoder("one"), HashEncoder("two"))

    def test_searching_refuses_another_encoder(self, index):
        (HashEncoder("one") >> index).index(corpus(5))
        topics = pd.DataFrame({"qid": ["q1"], "query": ["text 3"]})
        assert index.retriever(1)(HashEncoder("one")(topics))["docno"].tolist() == ["d3"]
        with pytest.raises(ValueError, match="encoded with one, the queries with two"):
            index.retriever(1)(HashEncoder("two")(topics))
        both = pd.concat([HashEncoder("one")(topics), HashEncoder("two")(topics.assign(qid="q2"))])
        ways = (  # of vectors to the index, past the frame that they were put into
            lambda: index.retriever(1)(both),
            lambda: index.scorer()(both.assign(docno="d3")),
            lambda: (HashEncoder("two") >> index.retriever(1))(topics.to_dict(orient="records")),
            lambda: list((HashEncoder("two") >> index.retriever(1)).transform_iter(topics.to_dict(orient="records"))),
            lambda: index.retriever(1)(pickle.loads(pickle.dumps(both[1:]))),
        )
        for way in ways:
            with pytest.raises(ValueError, match="encoded with one, the queries with two"):
                way()
        index.indexer(mode="overwrite").index(documents(vectors(5)))  # now nobody knows
        assert len(index.retriever(1)(HashEncoder("two")(topics))) == 1

    def test_experiment_plans_agree(self, tmp_path):
        systems = []
        for seed in range(2):
            index = FaissIndex(tmp_path / str(seed), verbose=False)
            index.index(documents(vectors(60, seed=seed)))
            systems += [HashEncoder() >> index.retriever(20), HashEncoder() >> index.retriever(5)]
        topics = pd.DataFrame({"qid": list("abc"), "query": ["one", "two", "three"]})
        qrels = pd.DataFrame({"qid": list("abc"), "docno": ["d3", "d5", "d7"], "label": 1})
        tables = [
            pt.Experiment(systems, topics, qrels, [nDCG @ 20, R @ 5], names=list("wxyz"), plan=plan)
            for plan in ("linear", "tree")
        ]
        pd.testing.assert_frame_equal(*tables)
        assert tables[0]["nDCG@20"].nunique() > 1

    def test_inspection_needs_no_index(self, tmp_path):
        index = FaissIndex(tmp_path / "missing")
        columns = ["qid", "query_vec"]
        assert pt.inspect.transformer_inputs(index.retriever()) == [columns]
        assert pt.inspect.transformer_outputs(index.retriever(), columns) == [
            *columns,
            *("docno", "docid", "score", "rank"),
        ]
        assert pt.inspect.indexer_inputs(index) == [["docno", "doc_vec"]]
        assert pt.inspect.indexer_inputs(index.indexer(encoder=HashEncoder())) == [["docno", "text"]]
        assert pt.inspect.subtransformers(index.retriever()) == {}
        assert pt.inspect.artifact_type_format(index) == ("dense_index", "flex")
        assert not any(tmp_path.iterdir())


RetrieverCase = pt.testing.transformer_test_class(lambda: FaissIndex("missing").retriever())


@pytest.mark.parametrize("make", [FaissIndex, lambda path: FaissIndex(path).indexer(encoder=HashEncoder())])
def test_indexer_schematics(make, tmp_path):
    schematic = pt.schematic.transformer_schematic(make(tmp_path / "missing"))
    assert schematic["type"] == "indexer"
    assert len(schematic["label"]) <= 20
    assert pt.schematic.draw(HashEncoder() >> FaissIndex(tmp_path / "missing"))


class TestIndexing:
    def test_metadata_and_files(self, index):
        assert not index.built()
        assert (HashEncoder("abc") >> index).index(corpus(12)) is index
        assert index.built()
        assert len(index) == 12
        expected = {"type": "dense_index", "format": "flex", "vec_size": DIM, "doc_count": 12, "encoder": "abc"}
        assert expected.items() <= json.loads((index.path / "pt_meta.json").read_text()).items()
        assert index.metadata["bytes"] == 12 * DIM * 4 == (index.path / "vecs.f4").stat().st_size
        assert [path.name for path in index.path.parent.iterdir()] == ["index"]
        assert sorted(path.name for path in index.path.iterdir()) == ["docnos.npids", "pt_meta.json", "vecs.f4"]

    def test_accepts_frames_lists_and_other_dtypes(self, tmp_path):
        matrix = vectors(8).astype(np.float16)
        inputs = [
            pd.DataFrame(documents(matrix)),
            documents(matrix.astype(np.float64)),
            [{"docno": doc["docno"], "doc_vec": doc["doc_vec"].tolist()} for doc in documents(matrix)],
            [{"docno": doc["docno"], "doc_vec": torch.tensor(doc["doc_vec"])} for doc in documents(matrix)],
        ]
        prints = set()
        for i, given in enumerate(inputs):
            prints.add(FaissIndex(tmp_path / str(i), verbose=False).index(given).fingerprint)
        assert len(prints) == 1

    def test_a_frame_of_texts_goes_through_a_pipeline(self, index):
        (HashEncoder() >> index).index(pd.DataFrame(corpus(7)))
        np.testing.assert_array_equal(index.open().matrix[6], vector_of("text 6"))

    def test_takes_a_batch_size_as_pipelines_do(self, index):
        with pytest.raises(ValueError, match="document 7 is None"):
            (HashEncoder("abc") >> index).index(iter([*corpus(7), None]), batch_size=3)
        assert read_metadata(build.part_folder(index.path))["doc_count"] == 6
        (HashEncoder("abc") >> index).index(iter(corpus(7)), batch_size=2)
        assert (len(index), index.metadata["encoder"]) == (7, "abc")

    def test_stages_before_the_encoder_are_kept(self, index):
        split = pt.apply.generic(
            lambda docs: pd.concat([docs.assign(docno=docs["docno"] + part) for part in "ab"], ignore_index=True)
        )
        encoder = HashEncoder()
        (split >> encoder >> index.indexer(shard_size=4)).index(corpus(3))
        assert sorted(index.open().names) == [b"d0a", b"d0b", b"d1a", b"d1b", b"d2a", b"d2b"]
        assert len(encoder.encoded) == 6

    def test_overwrite_replaces_at_the_end_and_serves_the_new(self, index):
        index.index(documents(vectors(20)))
        retriever, query = index.retriever(3), queries(vectors(5, seed=1))
        retriever(query)
        docs = documents(vectors(30, seed=2), [f"new{i}" for i in range(30)])
        with pytest.raises(FileExistsError, match="overwrite"):
            index.index(docs)
        with pytest.raises(ValueError, match="docno"):
            index.indexer(mode="overwrite").index([*docs, docs[0]])
        assert len(index) == 20
        for job in (index, FaissIndex(index.path, verbose=False)):
            job.indexer(mode="overwrite").index(docs)
            assert len(index) == len(docs)
            assert ranking(retriever(query)) == brute_force(docs, vectors(5, seed=1), 3)
            docs = documents(vectors(40, seed=3), [f"newer{i}" for i in range(40)])

    def test_an_index_that_is_overwritten_while_it_is_opened_is_the_new_one(self, index, monkeypatch):
        index.index(documents(vectors(20)))
        found = [index.metadata]

        def metadata(self):
            if not found:
                return read_metadata(self.path)
            index.indexer(mode="overwrite").index(documents(vectors(30)))
            return found.pop()

        reader = FaissIndex(index.path, verbose=False)
        monkeypatch.setattr(FaissIndex, "metadata", property(metadata))
        assert len(reader) == 30

    def test_a_process_that_comes_as_the_index_is_finished_may_tidy_up_first(self, index, monkeypatch):
        def finish(part, path, **settings):
            finish_folder(part, path, **settings)
            (path / JOURNAL).unlink()

        monkeypatch.setattr(build, "finish_folder", finish)
        assert len(index.index(documents(vectors(20)))) == 20

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda docs: docs[3].update(docno="d1"), r"document 3 has the docno 'd1'.*unique"),
            (lambda docs: docs[3].update(docno=""), r"document 3 has the docno ''"),
            (lambda docs: docs[3].update(docno="nul\0"), r"document 3 has the docno 'nul.*no NUL"),
            (lambda docs: docs[3].update(docno="half \ud800"), r"document 3 has the docno 'half.*Unicode"),
            (lambda docs: docs[3].update(docno=17), r"document 3 has the docno 17"),
            (lambda docs: docs[3].pop("docno"), r"document 3 has the docno None"),
            (lambda docs: docs[3].update(doc_vec=np.zeros(5)), r"'d3'.*\(5,\).*\(24,\)"),
            (lambda docs: docs[0].update(doc_vec=np.float32(1)), r"'d0'.*shape \(\)"),
            (lambda docs: docs[3].update(doc_vec=np.full(DIM, np.nan)), r"'d3' is not finite"),
            (lambda docs: docs[3].update(doc_vec=np.full(DIM, np.inf)), r"'d3' is not finite"),
            (lambda docs: docs[3].pop("doc_vec"), r"'d3' has no doc_vec.*put an encoder"),
            (lambda docs: docs[0].update(doc_vec=["x"] * DIM), r"'d0' has a vector .* cannot read as numbers"),
            (lambda docs: docs[3].update(doc_vec=[[1], [1, 2]]), r"'d3' has a vector .* cannot read as numbers"),
            (lambda docs: docs[3].update(doc_vec={}, text="x"), r"'d3' has a vector .* cannot read as numbers"),
            (lambda docs: docs[3].update(docno=" d3"), r"document 3 has the docno ' d3', which has white space"),
            (lambda docs: docs.insert(3, ("d3", "text")), r"document 3 is \('d3', 'text'\), expected a mapping"),
            (lambda docs: docs.clear(), "nothing to index"),
        ],
    )
    def test_refuses_broken_documents(self, index, spoil, message):
        docs = documents(vectors(6))
        spoil(docs)
        with pytest.raises(ValueError, match=message):
            index.index(docs)
        assert not index.built()
        assert nothing_left(index)

    @pytest.mark.parametrize("text", [None, float("nan"), 7, "missing"])
    def test_a_missing_text_is_named(self, index, text):
        docs = corpus(30)
        docs[25]["text"] = text
        if text == "missing":
            del docs[25]["text"]
        with pytest.raises(ValueError, match=r"document 'd25' has .* as its text, expected a string"):
            (HashEncoder() >> index.indexer(shard_size=10)).index(docs)

    @pytest.mark.parametrize("content", ["", "[]", '{"type": "dense_'])
    def test_damaged_metadata_are_named(self, index, content):
        index.path.mkdir()
        (index.path / "pt_meta.json").write_text(content)
        for use in (index.built, lambda: index.retriever()(queries(vectors(1)))):
            with pytest.raises(ValueError, match=r"pt_meta.json is damaged .*delete .*index and build"):
                use()

    def test_does_not_overwrite_what_is_no_index(self, tmp_path):
        (tmp_path / "file").write_text("precious")
        (tmp_path / "folder").mkdir()
        for name in ("file", "folder"):
            for mode in ("create", "overwrite"):
                with pytest.raises(FileExistsError, match=name):
                    FaissIndex(tmp_path / name).indexer(mode=mode).index(documents(vectors(2)))
        with pytest.raises(FileNotFoundError, match="no finished index"):
            FaissIndex(tmp_path / "file").retriever()(queries(vectors(1)))
        assert (tmp_path / "file").read_text() == "precious"

    def test_refuses_an_encoder_that_drops_documents(self, index):
        class Forgetful(HashEncoder):
            def transform(self, inp):
                return super().transform(inp).iloc[1:]

        with pytest.raises(ValueError, match="one row for each"):
            (Forgetful() >> index).index(corpus(3))
        assert nothing_left(index)

    def test_refuses_unknown_settings(self, index):
        with pytest.raises(ValueError, match="append"):
            index.indexer(mode="append")
        with pytest.raises(ValueError, match="shard_size"):
            index.indexer(shard_size=0)

    def test_refuses_a_truncated_index(self, index):
        index.index(documents(vectors(6)))
        os.truncate(index.path / "vecs.f4", 100)
        with pytest.raises(RuntimeError, match="damaged"):
            index.retriever()(queries(vectors(1)))


class TestFloat16:
    def test_files_metadata_and_results(self, tmp_path):
        index = FaissIndex(tmp_path / "index", dtype="float16", verbose=False)
        matrix, query = vectors(300), vectors(12, seed=1)
        index.index(documents(matrix))
        expected = {"format": "flex_float16", "vec_dtype": "float16", "bytes": 300 * DIM * 2, "vec_size": DIM}
        assert expected.items() <= json.loads((index.path / "pt_meta.json").read_text()).items()
        assert sorted(path.name for path in index.path.iterdir()) == ["docnos.npids", "pt_meta.json", "vecs.f2"]
        np.testing.assert_array_equal(
            np.fromfile(index.path / "vecs.f2", np.float16), matrix.astype(np.float16).ravel()
        )
        opened = FaissIndex(index.path)  # nobody says that it is float16
        found = opened.retriever(40)(queries(query))
        rounded = documents(matrix.astype(np.float16).astype(np.float32))
        assert ranking(found) == brute_force(rounded, query, 40)
        longest = np.linalg.norm(matrix.astype(np.float16).astype(np.float64), axis=1).max()
        assert opened.open().largest_norm == pytest.approx(longest)
        assert found["score"].dtype == np.float32

    def test_has_an_identity_of_its_own(self, tmp_path):
        matrix = whole_vectors(20)  # float16 holds them exactly
        prints = {
            FaissIndex(tmp_path / dtype, dtype=dtype, verbose=False).index(documents(matrix)).fingerprint
            for dtype in ("float16", "float32")
        }
        assert len(prints) == 2

    def test_what_it_cannot_hold_is_refused(self, tmp_path):
        index = FaissIndex(tmp_path / "index", dtype="float16", verbose=False)
        docs = documents(vectors(6))
        docs[4]["doc_vec"][3] = -70_000
        with pytest.raises(ValueError, match="document 'd4' has numbers beyond 65504, the largest of float16"):
            index.index(docs)
        assert nothing_left(index)

    def test_resumes_in_its_own_dtype_alone(self, tmp_path):
        half, whole = (FaissIndex(tmp_path / "index", dtype=dtype, verbose=False) for dtype in ("float16", "float32"))
        TestResumption.fail_at(HashEncoder(), half, 25, shard_size=10)
        with pytest.raises(ValueError, match="stored in float16, and this one is float32: go on with the same"):
            (HashEncoder() >> whole).index(corpus(25))
        encoder = HashEncoder()
        (encoder >> half).index(corpus(25))
        assert len(encoder.encoded) == 5
        expected = np.stack([vector_of(f"text {i}") for i in range(25)]).astype(np.float16)
        np.testing.assert_array_equal(half.open().matrix, expected)

    def test_pyterrier_dr_does_not_misread_it(self, tmp_path):
        pyterrier_dr = pytest.importorskip("pyterrier_dr")
        index = FaissIndex(tmp_path / "index", dtype="float16", verbose=False).index(documents(vectors(3)))
        with pytest.raises(AssertionError):
            len(pyterrier_dr.FlexIndex(index.path))

    def test_a_truncated_file_is_named(self, tmp_path):
        index = FaissIndex(tmp_path / "index", dtype="float16", verbose=False).index(documents(vectors(3)))
        os.truncate(index.path / "vecs.f2", 100)
        with pytest.raises(RuntimeError, match=r"vecs.f2 is damaged: 3 vectors of 24 float16 numbers take 144 bytes"):
            index.retriever()(queries(vectors(1)))

    def test_other_dtypes_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="unknown dtype 'int8': choose one of float32, float16"):
            FaissIndex(tmp_path / "index", dtype="int8")


class TestDisk:
    """A vector takes 24 * 4 bytes, a line of the journal is counted as 64, a name takes its width and 12."""

    def test_documents_whose_number_is_known_must_all_fit(self, disk):
        index, encoder = FaissIndex(disk.folder / "index", verbose=False), HashEncoder()
        disk.resize(600_000)
        with pytest.raises(OSError, match=r"no room for 5,000 more vectors of 24 float32 numbers: 860,000 bytes"):
            (encoder >> index).index(corpus(5_000))
        assert encoder.encoded == [f"text {i}" for i in range(1_000)]  # the first shard says what vectors are
        assert nothing_left(index)
        disk.resize(1_500_000)
        (encoder >> index).index(corpus(5_000))
        np.testing.assert_array_equal(index.open().matrix[4_999], vector_of("text 4999"))

    def test_documents_of_an_unknown_number_are_kept_as_far_as_they_fit(self, disk):
        index, encoder = FaissIndex(disk.folder / "index", verbose=False), HashEncoder()
        disk.resize(700_000)
        with pytest.raises(OSError, match=r"for 1,000 more vectors of .* needed, .*; 4,000 documents are kept, and"):
            (encoder >> index).index(doc for doc in corpus(8_000))
        assert len(encoder.encoded) == 4_000
        disk.resize(2_500_000)
        (encoder >> index).index(doc for doc in corpus(8_000))
        assert encoder.encoded == [f"text {i}" for i in range(8_000)]
        np.testing.assert_array_equal(index.open().matrix[7_999], vector_of("text 7999"))

    def test_what_a_resumed_job_lacks_is_asked_for_before_it_encodes(self, index, monkeypatch):
        with pytest.raises(RuntimeError, match="kept"):
            (HashEncoder() >> index.indexer(shard_size=100)).index(FailingDocuments(corpus(1_000), fails_at=200))
        encoder, usage = HashEncoder(), shutil.disk_usage(index.path.parent)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=140_000))
        needed = 800 * (24 * 4 + 64) + 1_000 * (len("d199") + 12)
        with pytest.raises(OSError, match=f"{needed:,} bytes .* needed, 140,000 .*; 200 documents are kept"):
            (encoder >> index.indexer(shard_size=100)).index(corpus(1_000))
        assert encoder.encoded == []
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
        (encoder >> index.indexer(shard_size=100)).index(corpus(1_000))
        assert len(index) == 1_000

    def test_float16_takes_half(self, tmp_path, monkeypatch):
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
        with pytest.raises(OSError, match=f"24 float16 numbers: {10 * (24 * 2 + 64) + 10 * 12:,} bytes"):
            FaissIndex(tmp_path / "half", dtype="float16", verbose=False).index(documents(vectors(10)))

    def test_a_collection_says_how_many_documents_it_has(self, index, monkeypatch):
        topics = pd.DataFrame({"qid": ["1"], "query": ["x"]})
        collection = from_frames("small", corpus(50), topics, topics.assign(docno="d1", label=1))
        usage = shutil.disk_usage(index.path.parent)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
        for verbose in (False, True):
            with pytest.raises(OSError, match="no room for 50 more vectors"):
                (HashEncoder() >> index.indexer(shard_size=10)).index(collection.corpus_iter(verbose=verbose))


class FailingDocuments(list):
    """Documents of a known number, whose reading breaks off."""

    def __init__(self, docs, *, fails_at):
        super().__init__(docs)
        self.fails_at = fails_at

    def __iter__(self):
        yield from self[: self.fails_at]
        raise ConnectionResetError("the disk went away")


class TestDuplicates:
    """A docno that comes twice is refused before its shard is encoded, wherever the first one is."""

    @pytest.mark.parametrize(("first", "second"), [(3, 4), (3, 17), (9, 10), (0, 58), (31, 59)])
    def test_in_any_shard(self, index, first, second):
        docs, encoder = corpus(60), HashEncoder()
        docs[second]["docno"] = f"d{first}"
        with pytest.raises(ValueError, match=rf"document {second} has the docno 'd{first}', which occurs twice"):
            (encoder >> index.indexer(shard_size=10)).index(docs)
        assert len(encoder.encoded) == second // 10 * 10
        docs[second]["docno"] = f"d{second}"
        (encoder >> index).index(docs)
        assert len(index) == len(encoder.encoded) == 60

    def test_of_many_shards(self, index):
        docs = corpus(300)
        docs[299]["docno"] = "d120"
        with pytest.raises(ValueError, match="document 299 has the docno 'd120'"):
            (HashEncoder() >> index.indexer(shard_size=1)).index(docs)


class TestResumption:
    def test_a_killed_job_goes_on_and_encodes_nothing_twice(self, tmp_path, caplog):
        index = FaissIndex(tmp_path / "index", verbose=False)
        command = [sys.executable, __file__, str(index.path), "37"]
        killed = subprocess.run(command, check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not index.built()
        with pytest.raises(FileNotFoundError, match="30 documents of an unfinished one are kept"):
            len(index)

        encoder = HashEncoder()
        with caplog.at_level(logging.INFO):
            (encoder >> index.indexer(shard_size=10)).index(iter(corpus(55)))
        assert "resuming at document 30" in caplog.text
        assert encoder.encoded == [f"text {i}" for i in range(30, 55)]

        untouched = FaissIndex(tmp_path / "untouched", verbose=False)
        (HashEncoder() >> untouched).index(corpus(55))
        assert index.fingerprint == untouched.fingerprint
        np.testing.assert_array_equal(index.open().matrix, [vector_of(f"text {i}") for i in range(55)])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "untouched"]

    def test_the_spelling_does_not_matter(self, tmp_path):
        spellings = [
            lambda encoder, index: (encoder >> index).index(iter(corpus(2500))),
            lambda encoder, index: (encoder >> index).compile().index(iter(corpus(2500))),
            lambda encoder, index: index.indexer(encoder=encoder).index(corpus(2500)),
            lambda encoder, index: (pt.Transformer.identity() >> encoder >> index).compile().index(iter(corpus(2500))),
        ]
        for i, spelling in enumerate(spellings):
            index, encoder = FaissIndex(tmp_path / str(i), verbose=False), HashEncoder()
            self.fail_at(encoder, index, 2300)
            encoder.encoded.clear()
            spelling(encoder, index)
            assert encoder.encoded == [f"text {i}" for i in range(2000, 2500)]

    def test_failing_documents_are_named_and_shards_kept(self, index):
        with pytest.raises(RuntimeError, match=r"after document 'd24' \(OSError: disk\)") as failure:
            self.fail_at(HashEncoder(), index, 25, shard_size=10, expect=False)
        assert isinstance(failure.value.__cause__, OSError)
        encoder = HashEncoder()
        (encoder >> index).index(corpus(25))
        assert len(encoder.encoded) == 5

    def test_vectors_without_an_encoder_resume_too(self, index):
        docs = documents(vectors(40))
        docs[25]["doc_vec"] = np.full(DIM, np.nan)
        with pytest.raises(ValueError, match="d25"):
            index.indexer(shard_size=10).index(docs)
        docs[25]["doc_vec"] = vectors(40)[25]
        index.indexer(shard_size=7).index(docs)
        np.testing.assert_array_equal(index.open().matrix, vectors(40))

    def test_changed_documents_are_refused(self, index):
        self.fail_at(HashEncoder(), index, 25, shard_size=10)
        swapped = corpus(30)
        swapped[3], swapped[4] = swapped[4], swapped[3]
        with pytest.raises(ValueError, match=r"document 3 is 'd4', and 'd3' is indexed there.*delete"):
            (HashEncoder() >> index).index(swapped)
        with pytest.raises(ValueError, match="only 15 documents came, and 20 are indexed"):
            (HashEncoder() >> index).index(corpus(15))
        with pytest.raises(ValueError, match=r"document 20 has the docno 'd7'.*unique"):
            (HashEncoder() >> index).index([*corpus(20), corpus(8)[7]])
        (HashEncoder() >> index).index(corpus(20))
        assert len(index) == 20

    def test_a_changed_text_is_refused(self, index):
        self.fail_at(HashEncoder(), index, 25, shard_size=10)
        changed = corpus(25)
        changed[12]["text"] = "other"
        with pytest.raises(ValueError, match=r"document 'd12' is indexed already, with another text.*delete"):
            (HashEncoder() >> index).index(changed)
        changed = corpus(25)
        changed[22]["text"] = "other"  # not indexed yet
        (HashEncoder() >> index).index(changed)
        np.testing.assert_array_equal(index.open().matrix[22], vector_of("other"))

    @pytest.mark.parametrize("changed", [{"doc_vec": np.zeros(DIM)}, {"text": "other"}])
    def test_a_changed_vector_is_refused(self, index, changed):
        docs = documents(vectors(20))
        if "text" in changed:
            docs = [{**doc, "text": doc["docno"]} for doc in docs]
        with pytest.raises(ValueError, match="document 20 has the docno None"):
            index.indexer(shard_size=10).index([*docs, {}])
        with pytest.raises(ValueError, match="document 'd7' is indexed already"):
            index.index([*docs[:7], {**docs[7], **changed}, *docs[8:]])
        index.index(docs)

    def test_an_unknown_encoder_is_warned_of(self, index, caplog):
        unknown = index.indexer(encoder=pt.apply.doc_vec(lambda doc: vector_of(doc["text"])), shard_size=2)
        with pytest.raises(ValueError, match="document 4 has the docno None"):
            unknown.index([*corpus(4), {}])
        assert not caplog.records
        unknown.index(corpus(5))
        assert caplog.messages == [f"{index.path}: it was begun by an unknown encoder; was it this one?"]
        np.testing.assert_array_equal(index.open().matrix, [vector_of(f"text {i}") for i in range(5)])

    def test_the_vectors_tell_their_encoder_where_no_one_else_does(self, index, tmp_path):
        stage = pt.apply.title(lambda _: "x")
        (stage >> (HashEncoder("abc") >> FaissIndex(tmp_path / "known"))).index(corpus(3))
        (stage >> HashEncoder("abc") >> index.indexer(shard_size=1)).index(corpus(3))
        assert [each.metadata["encoder"] for each in (FaissIndex(tmp_path / "known"), index)] == ["abc", "abc"]
        with pytest.raises(ValueError, match="encoded with abc, the queries with def"):
            (HashEncoder("def") >> index.retriever())([{"qid": "q1", "query": "text 1"}])

    @pytest.mark.parametrize("shard_size", [4, 9])
    @pytest.mark.parametrize(
        ("others", "names"),
        [(HashEncoder("two"), "one, two"), (pt.apply.doc_vec(lambda _: np.ones(DIM)), "an unknown one, one")],
    )
    def test_vectors_of_several_encoders_are_refused(self, index, shard_size, others, names):
        docs = pd.DataFrame(corpus(9))
        mixed = pd.concat([HashEncoder("one")(docs[:4]), others(docs[4:])])
        with pytest.raises(ValueError, match=rf"the vectors are of several encoders \({names}\).*delete"):
            index.indexer(shard_size=shard_size).index(mixed)

    def test_vectors_of_a_killed_jobs_encoder_finish_its_work(self, index):
        self.fail_at(HashEncoder("one"), index, 25, shard_size=10)
        ready = HashEncoder("one")(pd.DataFrame(corpus(25)))
        with pytest.raises(ValueError, match=r"of several encoders \(one, two\)"):
            index.index(HashEncoder("two")(ready))
        assert index.index(ready).metadata["encoder"] == "one"

    def test_another_encoder_is_refused(self, index):
        self.fail_at(HashEncoder("one"), index, 25, shard_size=10)
        with pytest.raises(ValueError, match="encoded with one, and this one is two"):
            (HashEncoder("two") >> index).index(corpus(25))

    def test_a_half_written_shard_is_cut_off(self, index):
        self.fail_at(HashEncoder(), index, 25, shard_size=10)
        part = index.path.with_name(".index.part")
        for name in ("vecs.f4", "docnos.jsonl"):
            with (part / name).open("ab") as file:
                file.write(b"torn")
        for name in ("docnos.npids", ".pt_meta.json.123.part", "vecs.f2"):
            (part / name).write_bytes(b"torn")
        (HashEncoder() >> index).index(corpus(25))
        np.testing.assert_array_equal(index.open().matrix, [vector_of(f"text {i}") for i in range(25)])
        assert index.open().docnos(np.arange(25)) == [f"d{i}" for i in range(25)]
        assert len(list(index.path.iterdir())) == 3

    def test_a_damaged_journal_is_refused(self, index):
        self.fail_at(HashEncoder(), index, 25, shard_size=10)
        journal = index.path.with_name(".index.part") / "docnos.jsonl"
        for spoil, message in ((lambda text: text.replace("[", "(", 1), "damaged.*delete"), (lambda _: "", "missing")):
            journal.write_text(spoil(journal.read_text()))
            with pytest.raises(RuntimeError, match=message):
                (HashEncoder() >> index).index(corpus(25))

    def test_a_damaged_part_is_refused(self, index):
        self.fail_at(HashEncoder(), index, 25, shard_size=10)
        os.truncate(index.path.with_name(".index.part") / "vecs.f4", 100)
        with pytest.raises(RuntimeError, match="damaged"):
            (HashEncoder() >> index).index(corpus(25))

    def test_two_jobs_at_once_are_refused(self, index):
        def rival():
            yield from documents(vectors(10))
            with pytest.raises(RuntimeError, match="another process is building"):
                index.index(documents(vectors(10)))

        index.indexer(shard_size=5).index(rival())
        assert len(index) == 10

    def test_a_build_that_finished_meanwhile_is_not_touched(self, index, monkeypatch):
        """The rival finishes after this job has opened the file that it locks, and before it locks it."""
        lock = VectorBuild._lock

        def late_lock(build):
            monkeypatch.setattr(VectorBuild, "_lock", lock)
            shutil.copytree(build.part, build.path.with_name("rival"))
            build.part.rename(build.path.with_name("finished"))
            lock(build)

        self.fail_at(HashEncoder(), index, 25, shard_size=10)
        monkeypatch.setattr(VectorBuild, "_lock", late_lock)
        with pytest.raises(IndexBusyError):
            (HashEncoder() >> index).index(corpus(25))
        for name in ("vecs.f4", "docnos.jsonl", "pt_meta.json"):
            finished, rival = (index.path.with_name(folder) / name for folder in ("finished", "rival"))
            assert finished.read_bytes() == rival.read_bytes()

    def test_a_job_killed_while_it_overwrote_is_mended(self, index):
        (HashEncoder() >> index).index(corpus(5))
        before = index.fingerprint
        aside = index.path.rename(index.path.with_name(".index.pyterrier-merge-1.old"))
        (aside / "docnos.jsonl").write_text("")
        assert not index.built()
        with pytest.raises(FileExistsError, match="finished index"):
            (HashEncoder() >> index).index(corpus(5))
        assert index.fingerprint == before
        assert [path.name for path in index.path.parent.iterdir()] == ["index"]
        assert len(list(index.path.iterdir())) == 3

    def test_what_a_link_leads_to_is_overwritten(self, index):
        (HashEncoder() >> index).index(corpus(5))
        disk = index.path.parent / "disk"
        disk.mkdir()
        index.path.rename(disk / "folder")
        index.path.symlink_to(disk / "folder")
        self.fail_at(HashEncoder(), index, 25, shard_size=10, mode="overwrite")
        (HashEncoder() >> index.indexer(mode="overwrite")).index(corpus(25))
        assert len(FaissIndex(disk / "folder")) == 25
        assert index.path.is_symlink()
        assert [path.name for path in disk.iterdir()] == ["folder"]

    def test_files_of_others_are_not_mended(self, index):
        index.path.mkdir()
        (index.path / "docnos.jsonl").write_text("precious")
        with pytest.raises(FileExistsError, match="not a dense index"):
            index.index(documents(vectors(2)))
        assert (index.path / "docnos.jsonl").read_text() == "precious"

    @staticmethod
    def fail_at(encoder, index, place, *, shard_size=1_000, expect=True, mode="create"):
        def failing():
            yield from corpus(place)
            raise OSError("disk")

        pipeline = encoder >> index.indexer(shard_size=shard_size, mode=mode)
        if not expect:
            return pipeline.index(failing())
        with pytest.raises(RuntimeError, match="disk"):
            return pipeline.index(failing())


if __name__ == "__main__":
    (HashEncoder(dies_after=int(sys.argv[2])) >> FaissIndex(sys.argv[1]).indexer(shard_size=10)).index(corpus(55))


def test_a_build_that_another_process_finishes_in_between_counts_as_busy(tmp_path, monkeypatch):
    """``dense_index`` waits for those, and finds the other's index."""
    begin = Path.mkdir

    def finished_meanwhile(self, *arguments, **settings):
        begin(self, *arguments, **settings)
        if self.name.endswith(".part"):
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", finished_meanwhile)
    with pytest.raises(IndexBusyError, match="another process is building"):
        VectorBuild(tmp_path / "index", encoder=None)
