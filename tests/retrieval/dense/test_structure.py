"""FAISS structures: what they propose is scored again, kept beside the vectors, and never used for others."""

from __future__ import annotations

import logging
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_merge.retrieval.dense import structure as room
from pyterrier_merge.retrieval.dense.index import FaissIndex
from pyterrier_merge.retrieval.dense.structure import Structure

faiss = pytest.importorskip("faiss")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

DIM = 16
FACTORIES = ["HNSW8", "IVF8,Flat", "IVF8,SQfp16", "IVF8,PQ4x4", "IVF8_HNSW4,Flat", "PCA8,SQ8"]


def vectors(n: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def documents(matrix: np.ndarray) -> list[dict]:
    return [{"docno": f"d{place}", "doc_vec": vector} for place, vector in enumerate(matrix)]


def queries(n: int = 6) -> pd.DataFrame:
    matrix = vectors(n, seed=1)
    return pd.DataFrame({"qid": [f"q{place}" for place in range(n)], "query": "x", "query_vec": list(matrix)})


def structure_folders(index: FaissIndex) -> list[Path]:
    return sorted((index.path / "structures").iterdir())


@pytest.fixture
def index(tmp_path: Path) -> FaissIndex:
    return FaissIndex(tmp_path / "index", verbose=False).index(documents(vectors(400)))


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scores_are_those_of_exact_search(tmp_path, factory, dtype):
    index = FaissIndex(tmp_path / "index", dtype=dtype, verbose=False).index(documents(vectors(400)))
    found = index.retriever(10, factory=factory)(queries())
    exact = index.retriever(400)(queries())
    both = found.merge(exact, on=["qid", "docno"], how="left")
    assert both["score_x"].tolist() == both["score_y"].tolist()  # to the last bit
    assert found.groupby("qid")["rank"].apply(list).tolist() == [list(range(10))] * 6
    assert found.columns.tolist() == exact.columns.tolist()
    everything = index.retriever(400, factory=factory, **({"nprobe": 8} if "IVF" in factory else {}))(queries())
    if factory != "HNSW8":  # a graph may leave nodes out of reach
        pd.testing.assert_frame_equal(everything, exact)


def test_parameters_take_effect_and_do_not_stay(index):
    exact = index.retriever(10)(queries(30))

    def overlap(**settings) -> int:
        found = index.retriever(10, factory="IVF32,Flat", **settings)(queries(30))
        return len(found.merge(exact, on=["qid", "docno"]))

    few, all_lists = overlap(nprobe=2), overlap(nprobe=32)
    assert few < all_lists == len(exact)
    assert overlap(nprobe=2) == few < overlap() < all_lists
    assert overlap(nprobe=14) == overlap()  # 4 * 42 candidates of 400 documents in 32 lists
    assert overlap(candidates=400, nprobe=2) == few  # no more documents are in two lists


def test_more_candidates_mend_coarse_scores(index):
    exact = index.retriever(5)(queries(30))
    overlaps = [
        len(index.retriever(5, factory="PQ2x4", candidates=n)(queries(30)).merge(exact, on=["qid", "docno"]))
        for n in (5, 60, 400)
    ]
    assert overlaps[0] < overlaps[1] < overlaps[2] == len(exact)


def test_few_hits_are_no_rows(index):
    found = index.retriever(300, factory="IVF32,Flat", nprobe=1)(queries())
    counts = found.groupby("qid").size()
    assert (counts < 300).all()
    assert (counts > 0).all()
    assert set(found["docid"]) <= set(range(400))
    assert found["score"].notna().all()


def test_equal_scores_are_ordered_by_docno(tmp_path):
    matrix = np.repeat(vectors(1), 30, axis=0)
    index = FaissIndex(tmp_path / "index", verbose=False).index(documents(matrix))
    found = index.retriever(30, factory="SQfp16")(queries(1))
    assert found["docno"].tolist() == sorted(f"d{place}" for place in range(30))


def test_built_once_and_opened_again(index, monkeypatch, caplog):
    with caplog.at_level(logging.INFO, logger=room.__name__):
        first = index.retriever(5, factory="IVF8,Flat")(queries())
    assert "training IVF8,Flat with 400 of 400 vectors" in caplog.text
    [kept] = index.structures
    assert {"factory": "IVF8,Flat", "seed": 0, "trained_with": 400}.items() <= kept.items()
    assert kept["bytes"] == (structure_folders(index)[0] / "index.faiss").stat().st_size > 400 * DIM * 4
    assert kept["build_seconds"] >= 0
    monkeypatch.setattr(room, "_built", lambda *_: pytest.fail("built again"))
    pd.testing.assert_frame_equal(FaissIndex(index.path).retriever(5, factory="IVF8,Flat")(queries()), first)
    with pytest.raises(pytest.fail.Exception, match="built again"):
        index.retriever(5, factory="IVF8,Flat", seed=1)(queries())


def test_the_sample_is_seeded_and_follows_the_lists(index, monkeypatch):
    monkeypatch.setattr(room, "POINTS_AT_LEAST", 10)
    monkeypatch.setattr(room, "POINTS_PER_LIST", 20)
    for seed in (0, 1):
        index.retriever(5, factory="IVF4,Flat", seed=seed)(queries())
    contents = [(folder / "index.faiss").read_bytes() for folder in structure_folders(index)]
    assert [kept["trained_with"] for kept in index.structures] == [80, 80]
    assert contents[0] != contents[1]
    again = FaissIndex(index.path.with_name("again"), verbose=False).index(documents(vectors(400)))
    again.retriever(5, factory="IVF4,Flat")(queries())
    assert (structure_folders(again)[0] / "index.faiss").read_bytes() in contents


def test_an_overwritten_index_has_none(index):
    retriever = index.retriever(5, factory="HNSW8")
    retriever(queries())
    other = vectors(300, seed=7)
    index.indexer(mode="overwrite").index(documents(other))
    assert index.structures == []
    found = retriever(queries())
    expected = [other[docid] @ queries()["query_vec"][int(qid[1:])] for qid, docid in found[["qid", "docid"]].values]
    np.testing.assert_allclose(found["score"], expected, rtol=1e-4)


def test_a_structure_of_other_vectors_is_not_used(index, monkeypatch):
    index.retriever(5, factory="HNSW8")(queries())
    other = FaissIndex(index.path.with_name("other"), verbose=False).index(documents(vectors(400, seed=7)))
    shutil.copytree(index.path / "structures", other.path / "structures")
    monkeypatch.setattr(room, "_built", lambda *_: pytest.fail("built"))
    with pytest.raises(pytest.fail.Exception, match="built"):
        other.retriever(5, factory="HNSW8")(queries())


def test_two_builds_at_once_both_end_well(index, monkeypatch, caplog):
    meet, built = Barrier(2), room._built
    monkeypatch.setattr(room, "_built", lambda *given: (meet.wait(timeout=60), built(*given))[1])
    with caplog.at_level(logging.INFO), ThreadPoolExecutor() as jobs:
        retrievers = [FaissIndex(index.path, verbose=False).retriever(5, factory="IVF8,Flat") for _ in range(2)]
        first, second = jobs.map(lambda retriever: retriever(queries()), retrievers)
    pd.testing.assert_frame_equal(first, second)
    assert "was built by another process in the meantime" in caplog.text
    assert len(index.structures) == len(structure_folders(index)) == 1


def test_of_two_builds_all_use_the_one_that_is_kept(index, monkeypatch):
    """Threads build a graph in an order of their own: a structure that another process kept is the one to search."""
    built = room._built

    def overtaken(faiss, vectors, factory, seed, verbose):
        mine = built(faiss, vectors, factory, seed, verbose)
        monkeypatch.setattr(room, "_built", built)
        rival = FaissIndex(index.path, verbose=False)
        rival.retriever(5, factory=factory)(queries())
        mine.index.reset()  # what this process has built would find nothing
        return mine

    monkeypatch.setattr(room, "_built", overtaken)
    assert len(index.retriever(5, factory="HNSW8")(queries())) == 30


def test_an_index_overwritten_while_a_structure_is_built(index, monkeypatch):
    """The search ends with vectors and docnos of the index that it began with; what it leaves behind is not listed."""
    expected, built = index.retriever(5)(queries()), room._built
    other = [{**doc, "docno": f"other{place}"} for place, doc in enumerate(documents(vectors(400, seed=7)))]

    def overwritten(*given):
        FaissIndex(index.path, verbose=False).indexer(mode="overwrite").index(other)
        return built(*given)

    fresh = FaissIndex(index.path, verbose=False)
    monkeypatch.setattr(room, "_built", overwritten)
    pd.testing.assert_frame_equal(fresh.retriever(5, factory="SQfp16")(queries()), expected)
    assert len(structure_folders(index)) == 1
    assert index.structures == fresh.structures == []
    assert set(fresh.retriever(5)(queries())["docno"]) <= {doc["docno"] for doc in other}


def test_a_structure_that_cannot_be_kept_is_used_all_the_same(index, monkeypatch, caplog):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(room, "finished_folder", full)
    assert len(index.retriever(5, factory="SQ8")(queries())) == 30
    assert "cannot be kept (No space left on device)" in caplog.text
    assert index.structures == []


@pytest.mark.parametrize("spoil", ["truncated", "another"])
def test_a_damaged_file_is_named(index, spoil):
    index.retriever(5, factory="SQ8")(queries())
    file = structure_folders(index)[0] / "index.faiss"
    if spoil == "truncated":
        file.write_bytes(file.read_bytes()[:100])
    else:
        faiss.write_index(faiss.IndexFlatIP(3), str(file))
    with pytest.raises(RuntimeError, match=rf"{file} is damaged.*delete {file.parent}"):
        FaissIndex(index.path).retriever(5, factory="SQ8")(queries())
    shutil.rmtree(file.parent)
    assert len(FaissIndex(index.path, verbose=False).retriever(5, factory="SQ8")(queries())) == 30


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVFx,Flat", r"cannot build 'IVFx,Flat' over 400 vectors of 16 dimensions: could not parse.*'HNSW32'"),
        ("IVF8,PQ5", r"cannot build 'IVF8,PQ5'.*multiple of the number of subquantizers"),
        ("IVF500,Flat", r"'IVF500,Flat' has 500 lists, and there are 400 vectors to train them: take fewer lists"),
        ("IDMap,Flat", r"cannot build 'IDMap,Flat'.*add_with_ids"),
    ],
)
def test_a_factory_string_that_cannot_be_built(index, factory, message):
    with pytest.raises(ValueError, match=message):
        index.retriever(5, factory=factory)(queries())
    assert index.structures == []


@pytest.mark.parametrize(
    "factory",
    ["HNSW0", "HNSW1", "HNSW01", "HNSW1_SQ8", "IVF8_HNSW1,Flat", "PQ4x0", "PQ0", "SQ0", "PCA0,Flat", "IVF0,Flat"],
)
def test_counts_that_would_end_the_process(factory):
    with pytest.raises(ValueError, match=rf"FAISS cannot search '{factory}': every number in it must be at least 1"):
        Structure(factory)


@pytest.mark.parametrize(
    "factory", ["HNSW2", "HNSW10", "HNSW16", "HNSW", "IVF100,PQ4x10", "IVF1024_HNSW32,SQ8", "PCA80,Flat"]
)
def test_counts_that_only_look_like_those(factory):
    assert Structure(factory).factory == factory


def test_a_search_that_faiss_gives_up_names_the_structure(index, monkeypatch):
    structure, matrix = Structure("SQ8"), np.stack(queries()["query_vec"])
    structure.search(index.open(), matrix, 5)
    words = "Error in void f() at /faiss/Index.cpp:9: Error: 'nprobe > 0' failed"

    def fail(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(faiss.IndexScalarQuantizer, "search", fail)
    with pytest.raises(RuntimeError, match=r"FAISS cannot search 'SQ8' for 5 documents a query: 'nprobe > 0' failed;"):
        structure.search(index.open(), matrix, 5)


def test_few_vectors_to_train_are_warned_of(index, caplog):
    index.retriever(5, factory="IVF16,Flat")(queries())
    assert "400 vectors are few to train the 16 lists of IVF16,Flat: FAISS wants 624" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nprobe": 4}, "exact search takes no nprobe"),
        ({"candidates": 2000}, "exact search takes no candidates"),
        ({"factory": "IVF8,Flat", "nprobe": 0}, "nprobe is at least 1, found 0"),
        ({"factory": "IVF8,Flat", "candidates": 9}, "candidates are at least num_results, 10, found 9"),
    ],
)
def test_settings_that_make_no_sense(index, settings, message):
    with pytest.raises(ValueError, match=message):
        index.retriever(10, **settings)


def test_parameters_that_a_structure_does_not_have(index):
    with pytest.raises(ValueError, match=r"'HNSW8' has no nprobe.*efSearch"):
        index.retriever(5, factory="HNSW8", nprobe=4)(queries())
    with pytest.raises(ValueError, match=r"'IVF8,Flat' has no ef_search"):
        index.retriever(5, factory="IVF8,Flat", ef_search=4)(queries())


def test_no_gpu_is_an_error_and_a_deep_search_goes_to_the_cpu(index, monkeypatch, caplog):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    structure, matrix = Structure("SQ8"), np.stack(queries()["query_vec"])
    with pytest.raises(RuntimeError, match=r"FAISS sees no GPU, and cuda:0 was asked for.*pyterrier-merge\[gpu\]"):
        structure.search(index.open(), matrix, 10, devices=("cuda:0",))
    monkeypatch.setattr(room, "GPU_LIMIT", 9)
    with caplog.at_level(logging.INFO):
        assert structure.search(index.open(), matrix, 10, devices=("cuda:0",)).shape == (6, 10)
    assert "searching on the CPU" in caplog.text


def test_a_fused_cutoff_changes_no_result(index):
    retriever = index.retriever(40, factory="PQ2x4", drop_query_vec=True)
    fused = (retriever % 7).compile()
    assert fused == index.retriever(7, factory="PQ2x4", candidates=72, drop_query_vec=True)
    whole = retriever(queries())
    pd.testing.assert_frame_equal(fused(queries()), whole[whole["rank"] < 7].reset_index(drop=True))


def test_identity(index):
    same = [index.retriever(5, factory="HNSW8", ef_search=20) for _ in range(2)]
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    assert repr(same[0]) == f"{index!r}.retriever(num_results=5, factory='HNSW8', ef_search=20, seed=0)"
    others = [{}, {"factory": "HNSW8"}, {"factory": "HNSW8", "ef_search": 21}, {"factory": "HNSW8", "seed": 1}]
    assert len({same[0], *(index.retriever(5, **settings) for settings in others)}) == 5


def test_pickles_without_what_it_holds(index):
    retriever = index.retriever(5, factory="HNSW8")
    found = retriever(queries())
    stored = pickle.dumps(retriever)
    assert len(stored) < 2_000
    pd.testing.assert_frame_equal(pickle.loads(stored)(queries()), found)


def test_a_shared_index_takes_its_structures_along(index, tmp_path, monkeypatch):
    found = index.retriever(5, factory="HNSW8")(queries())
    index.build_package(str(tmp_path / "package.tar.lz4"), verbose=False)
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    monkeypatch.setattr(room, "_built", lambda *_: pytest.fail("built again"))
    served = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("localhost", 0), served) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        shared = FaissIndex.from_url(f"http://localhost:{server.server_port}/package.tar.lz4")
        server.shutdown()
    assert isinstance(shared, FaissIndex)
    assert shared.fingerprint == index.fingerprint
    pd.testing.assert_frame_equal(shared.retriever(5, factory="HNSW8")(queries()), found)


StructureCase = pt.testing.transformer_test_class(lambda: FaissIndex("missing").retriever(factory="IVF8,Flat"))
