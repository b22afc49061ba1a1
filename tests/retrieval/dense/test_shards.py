"""Shards that other processes encode, and ranges that they search."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from several_workers import SeveralWorkers

from pyterrier_merge.executor import LostItemError
from pyterrier_merge.retrieval.dense.build import part_folder
from pyterrier_merge.retrieval.dense.index import FaissIndex
from pyterrier_merge.retrieval.dense.range_search import RangeSearch, search_ranges
from pyterrier_merge.retrieval.dense.search import search
from pyterrier_merge.retrieval.dense.shards import Shard, ShardEncoder, ShardFolder
from pyterrier_merge.retrieval.dense.vectors import StoredVectors

pt.documentation._cached_objects_inv = {}  # schematics look the documentation up on the network otherwise

DIM = 24


@dataclass
class Noting:
    """Encodes texts by their SHA-256, notes each in a file, and fails for those that hold a word."""

    notes: Path
    fails_for: str = "nothing"
    broken: bool = False
    fingerprint: str = "hash"
    text_field: str = "text"

    def __post_init__(self):
        self.bi_encoder_model = self

    def encode_docs(self, texts):
        return self.encode_texts(texts)[0]

    def encode_texts(self, texts):
        if any(self.fails_for in text for text in texts):
            raise ValueError(f"cannot read {self.fails_for}")
        with self.notes.open("a") as notes:
            notes.writelines(f"{text}\n" for text in texts)
        found = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:DIM], np.uint8) for text in texts]
        vectors = np.stack(found).astype(np.float32) - 128
        return vectors * np.float32("nan" if self.broken else 1), sum("long" in text for text in texts)

    def encoded(self):
        return self.notes.read_text().splitlines() if self.notes.exists() else []


def corpus(n):
    return [{"docno": f"d{number}", "text": f"text {number}{' long' * (number % 3 == 0)}"} for number in range(n)]


def index_with(encoder, path, documents, executor=None, **options):
    return FaissIndex(path).indexer(encoder=encoder, shard_size=10, executor=executor, **options).index(documents)


def test_the_index_is_that_of_one_process(tmp_path):
    encoder = Noting(tmp_path / "notes")
    alone = index_with(encoder, tmp_path / "alone", corpus(95))
    together = index_with(encoder, tmp_path / "together", corpus(95), SeveralWorkers(4))
    for name in ("vecs.f4", "docnos.npids"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "together" / name).read_bytes()
    assert together.metadata == alone.metadata
    assert together.metadata["truncated"] == 32
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == [
        "docnos.npids",
        "pt_meta.json",
        "vecs.f4",
    ]


def test_shards_that_were_encoded_are_not_encoded_again(tmp_path, monkeypatch):
    encoder, workers = Noting(tmp_path / "notes"), SeveralWorkers(4)
    monkeypatch.setattr(workers, "map", killed_after(3, workers.map))
    with pytest.raises(KeyboardInterrupt):
        index_with(encoder, tmp_path / "index", corpus(95), workers)
    kept = list((part_folder(tmp_path / "index") / "shards").iterdir())
    assert len(kept) == 1  # encoded, and not in the index
    done = encoder.encoded()
    index = index_with(encoder, tmp_path / "index", corpus(95), SeveralWorkers(2))
    assert len(done) == 30
    assert sorted(encoder.encoded()) == sorted(document["text"] for document in corpus(95))
    assert index.open().docnos(np.arange(95)) == [document["docno"] for document in corpus(95)]


def killed_after(count, mapped):
    def stopping(work, items):
        for number, made in enumerate(mapped(work, items), 1):
            if number == count:
                raise KeyboardInterrupt
            yield made

    return stopping


@pytest.mark.parametrize("executor", [None, SeveralWorkers(3)], ids=["here", "workers"])
def test_a_document_that_cannot_be_encoded_is_named(tmp_path, executor):
    documents = corpus(40)
    documents[17]["text"] += " poison"
    with pytest.raises(ValueError, match=r"^document 'd17' cannot be encoded: cannot read poison$"):
        index_with(Noting(tmp_path / "notes", "poison"), tmp_path / "index", documents, executor)
    documents[31]["text"] += " poison"
    with pytest.raises(ValueError, match=r"^document 'd17' cannot be encoded: cannot read poison$"):
        index_with(Noting(tmp_path / "notes", "poison"), tmp_path / "index", documents, executor)
    everything = Noting(tmp_path / "other", "e")
    with pytest.raises(ValueError, match=r"^cannot read e$"):
        index_with(everything, tmp_path / "other index", documents, executor)


def test_a_vector_that_is_not_finite_is_not_kept(tmp_path):
    broken = Noting(tmp_path / "notes", broken=True)
    with pytest.raises(ValueError, match=r"^the vector of document 'd0' is not finite|cannot be encoded"):
        index_with(broken, tmp_path / "index", corpus(40), SeveralWorkers(3))
    index = index_with(Noting(tmp_path / "notes"), tmp_path / "index", corpus(40), SeveralWorkers(3))
    assert np.isfinite(index.open().rows(slice(None))).all()


def test_an_encoder_that_differs_on_a_node_is_refused(tmp_path):
    folder = ShardFolder(ShardEncoder(Noting(tmp_path / "notes")), tmp_path, "another")
    shard = Shard({"d0": "x"}, corpus(1))
    with pytest.raises(
        RuntimeError, match=r"the encoder is hash on .*, and that of the index is another: dtype 'auto'"
    ):
        folder(shard)


def test_a_cluster_of_one_worker_keeps_shards_too(tmp_path, monkeypatch):
    workers = SeveralWorkers(1)
    monkeypatch.setattr(workers, "map", killed_after(3, workers.map))
    with pytest.raises(KeyboardInterrupt):
        index_with(Noting(tmp_path / "notes"), tmp_path / "index", corpus(95), workers)
    assert len(list((part_folder(tmp_path / "index") / "shards").iterdir())) == 1


def test_a_shard_that_kills_its_process_is_named(tmp_path):
    class Losing(SeveralWorkers):
        def map(self, work, items):
            items = list(items)
            yield work(items[0])
            raise LostItemError(1, items[1], 3, "it ran out of memory")

    expected = r"work item 2 has lost its worker 3 times: it ran out of memory; it has the documents 'd10' to 'd19'"
    with pytest.raises(RuntimeError, match=expected):
        index_with(Noting(tmp_path / "notes"), tmp_path / "index", corpus(40), Losing(2))


def test_a_docno_that_comes_twice_is_refused_while_the_first_is_on_its_way(tmp_path):
    documents = [*corpus(25), {"docno": "d12", "text": "again"}]
    with pytest.raises(ValueError, match="document 25 has the docno 'd12', which"):
        index_with(Noting(tmp_path / "notes"), tmp_path / "index", documents, SeveralWorkers(9))


def test_a_folder_that_a_node_does_not_see_is_named(tmp_path):
    class Elsewhere(SeveralWorkers):
        def map(self, work, items):
            (part_folder(tmp_path / "index") / "shards").rmdir()
            return super().map(work, items)

    with pytest.raises(RuntimeError, match=r"does not see .*shards: build the index in a folder that all nodes see"):
        index_with(Noting(tmp_path / "notes"), tmp_path / "index", corpus(40), Elsewhere(2))


def test_an_encoder_that_nothing_tells_apart_encodes_here(tmp_path, caplog):
    workers = SeveralWorkers(3)
    encoder = pt.apply.doc_vec(lambda row: np.ones(DIM, dtype=np.float32) * len(row["text"]), drop=False)
    index = index_with(encoder, tmp_path / "index", corpus(30), workers)
    assert len(index) == 30
    assert not workers.taken
    assert "has no fingerprint and no telling repr: it encodes in this process" in caplog.text


@pytest.fixture(params=["float32", "float16"])
def index(request, tmp_path):
    matrix = np.random.default_rng(0).normal(size=(500, DIM)).astype(np.float32).round(1)
    matrix[::3] = matrix[0]  # ties, in all ranges
    documents = [{"docno": f"d{place * 7 % 500}", "doc_vec": vector} for place, vector in enumerate(matrix)]
    return FaissIndex(tmp_path / "index", dtype=request.param).index(documents)


def queries(count):
    vectors = np.random.default_rng(1).normal(size=(count, DIM)).astype(np.float32)
    return pd.DataFrame({"qid": [f"q{number}" for number in range(count)], "query": "x", "query_vec": list(vectors)})


@pytest.mark.parametrize("k", [1, 20, 400, 3_000])
@pytest.mark.parametrize("workers", [2, 7, 600])
def test_ranges_change_no_bit_of_a_search(index, k, workers):
    expected = index.retriever(k)(queries(9))
    found = index.retriever(k, executor=SeveralWorkers(workers))(queries(9))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_many_queries_go_in_batches(index, monkeypatch):
    monkeypatch.setattr("pyterrier_merge.retrieval.dense.search.QUERIES", 4)
    workers, asked = SeveralWorkers(2), np.stack(queries(9)["query_vec"])
    scores, docids = search_ranges(index.open(), asked, 20, workers)
    assert workers.taken == [range(250), range(250, 500)] * 3
    expected = search(index.open(), asked, 20)
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(docids, expected[1])


def test_parts_of_an_index_without_a_recorded_norm(index):
    """As pyterrier_dr writes it."""
    vectors = index.open()
    bare = StoredVectors(vectors.folder, {**vectors.metadata, "largest_norm": None})
    asked = np.stack(queries(9)["query_vec"])
    scores, docids = search(bare.part(range(100, 300)), asked, 20)
    rows = vectors.rows(slice(100, 300)).astype(np.float64)
    np.testing.assert_allclose(scores, -np.sort(-(asked @ rows.T), axis=1)[:, :20], rtol=1e-5)
    assert docids.max() < 200


def test_a_relative_path_is_searched_as_a_whole_one(index, monkeypatch):
    monkeypatch.chdir(index.path.parent)
    workers, elsewhere = SeveralWorkers(2), index.path.parent.parent
    mapped = workers.map

    def from_elsewhere(work, items):
        monkeypatch.chdir(elsewhere)
        yield from mapped(work, items)

    monkeypatch.setattr(workers, "map", from_elsewhere)
    found = FaissIndex("index").retriever(5, executor=workers)(queries(3))
    pd.testing.assert_frame_equal(found, index.retriever(5)(queries(3)))


def test_a_retriever_is_the_same_wherever_it_searches(index):
    here, there = index.retriever(5), index.retriever(5, executor=SeveralWorkers(2))
    assert here == there
    assert repr(here) == repr(there)
    assert there.fuse_rank_cutoff(3).executor is there.executor


def test_an_index_that_a_node_does_not_see_is_named(index, tmp_path):
    asked = np.stack(queries(2)["query_vec"])
    for folder, identity in ((tmp_path / "elsewhere", index.open().identity), (index.path, "another")):
        with pytest.raises(RuntimeError, match=r"does not see the index .*: put it into a folder that all nodes see"):
            RangeSearch(folder, identity, asked, 5, ("cpu",))(range(10))
