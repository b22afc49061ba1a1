"""Work items on a Ray cluster of two nodes on this machine, one of which is lost in the middle."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyterrier.measures import nDCG

from pyterrier_merge import E5Encoder, FaissIndex, MergedE5Encoder, sweep
from pyterrier_merge.executor import InProcess, OnRay, ray_worker

KILLS = 13


class Noted:
    """Squares a number, and notes in a folder that it began."""

    def __init__(self, folder, seconds=0.0):
        self.folder, self.seconds = folder, seconds

    def __call__(self, number):
        began = Path(self.folder, f"{number}-{time.time_ns()}")
        began.touch()
        time.sleep(self.seconds)
        if number < 0:
            raise ValueError(f"{number} has no root")
        if number == KILLS:
            os._exit(1)
        return number**2


class LongFirst(Noted):
    """Takes its time for 0 alone."""

    def __call__(self, number):
        time.sleep(0 if number else self.seconds)
        return Noted(self.folder)(number)


class Loading:
    """Says which process it runs in, and when it was loaded there."""

    loaded = None

    def __call__(self, number):
        if self.loaded is None:
            self.loaded = time.time_ns()
        return number, os.getpid(), self.loaded


class OtherGPU(Noted):
    """Ends its process four times, as a worker does to which Ray has assigned another GPU."""

    def __call__(self, number):
        if len(list(self.folder.iterdir())) < 4:
            Path(self.folder, str(time.time_ns())).touch()
            [canary] = Path(os.environ["PYTERRIER_MERGE_CACHE"]).glob(".ray-*")
            ray_worker.Node({}, canary, self.folder, self.folder).other_gpu(0).touch()
            os._exit(1)
        return number


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def on_ray(cluster):
    return OnRay(cluster.address)


def test_items_come_back_in_order_and_an_error_is_the_works_own(on_ray, tmp_path):
    assert on_ray.workers == 2
    numbers = [3, 1, 2, 5, 4]
    work = Noted(tmp_path)
    assert list(on_ray.map(work, numbers)) == list(InProcess().map(work, numbers)) == [9, 1, 4, 25, 16]
    with pytest.raises(ValueError, match=r"^-1 has no root$"):
        list(on_ray.map(work, [1, -1]))
    assert list(on_ray.map(work, [])) == []


def test_no_worker_waits_for_a_long_item(on_ray, tmp_path):
    found = on_ray.map(LongFirst(tmp_path, seconds=8.0), range(5))
    assert next(found) == 0
    assert len(list(tmp_path.iterdir())) == 5
    assert list(found) == [1, 4, 9, 16]


@pytest.mark.slow
def test_a_sweep_is_that_of_one_process(
    on_ray, bert_retriever, bert_language_model, small_collection, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    merged = MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1, dtype="float32", device="cpu"
    )
    grid = {"grid": [0, 0.5], "metric": nDCG @ 10}
    alone = sweep(merged, small_collection, root=tmp_path / "alone", **grid)
    together = sweep(merged, small_collection, root=tmp_path / "together", executor=on_ray, **grid)
    pd.testing.assert_frame_equal(alone.table, together.table, check_exact=True)
    pd.testing.assert_frame_equal(alone.per_query, together.per_query, check_exact=True)


def test_an_index_is_that_of_one_process_also_where_a_node_is_lost(on_ray, cluster, bert_retriever, tmp_path):
    documents = [{"docno": f"d{number}", "text": f"the {number} wings of a hawk"} for number in range(200)]
    encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
    alone = FaissIndex(tmp_path / "alone").indexer(encoder=encoder, shard_size=10).index(documents)
    node = cluster.add_node(num_cpus=1)

    def read():
        for place, document in enumerate(documents):
            if place == 100:
                cluster.remove_node(node, allow_graceful=False)
            yield document

    executor = OnRay(cluster.address, workers=3)
    together = FaissIndex(tmp_path / "together").indexer(encoder=encoder, shard_size=10, executor=executor)
    index = together.index(read())
    assert index.metadata == alone.metadata
    assert index.open().docnos(np.arange(200)) == [document["docno"] for document in documents]
    np.testing.assert_array_equal(index.open().rows(slice(None)), alone.open().rows(slice(None)))
    queries = encoder(pd.DataFrame({"qid": ["1", "2"], "query": ["hawk", "wings"]}))
    found = index.retriever(20, executor=on_ray)(queries)
    pd.testing.assert_frame_equal(found, alone.retriever(20)(queries), check_exact=True)


def test_a_process_loads_what_it_needs_once(on_ray, tmp_path):
    made = list(on_ray.map(Loading(), range(6)))
    assert [number for number, *_ in made] == list(range(6))
    processes = {process for _, process, _ in made}
    assert len({loaded for *_, loaded in made}) == len(processes) <= 3


def test_the_others_go_on_where_one_item_fails(on_ray, tmp_path, caplog):
    with pytest.raises(ValueError, match=r"^-2 has no root$") as caught:
        list(on_ray.map(Noted(tmp_path), [1, -2, *range(14, 30)]))
    assert "test_on_ray.py" in str(caught.value.__cause__)  # the traceback of the worker
    assert len(list(tmp_path.iterdir())) == 18
    assert "work item 2 failed; the others continue, and the error is raised at the end: -2 has no root" in caplog.text
    with pytest.raises(ValueError, match=r"^-20 has no root$"):
        list(on_ray.map(Noted(tmp_path), [-number for number in range(20, 40)]))
    assert len(list(tmp_path.iterdir())) < 18 + 15  # most of the twenty were not begun


def test_items_that_fail_themselves_do_not_hide_what_failed_before(cluster, tmp_path):
    def items(*numbers):
        yield from numbers
        raise KeyError("of the items")

    one = OnRay(cluster.address, workers=1)
    with pytest.raises(KeyError, match="of the items"):
        list(one.map(Noted(tmp_path), items(1, 2)))
    with pytest.raises(ValueError, match=r"^-2 has no root$"):
        list(one.map(Noted(tmp_path), items(1, -2)))


def test_items_are_read_as_they_are_needed(on_ray, tmp_path):
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number

    found = on_ray.map(Noted(tmp_path), items())
    assert [next(found) for _ in range(10)] == [number**2 for number in range(10)]
    assert len(read) <= 9 + 4 * on_ray.workers
    found.close()


def test_each_worker_has_a_log(cluster, tmp_path):
    logging_workers = OnRay(cluster.address, logs=tmp_path / "logs")
    list(logging_workers.map(Noted(tmp_path), range(4)))
    said = [path.read_text() for path in (tmp_path / "logs").glob("*.log")]
    assert 1 <= len(said) <= 2
    assert sum(text.count("an item took") for text in said) == 4
    hidden = tmp_path / "a file"
    hidden.touch()
    ray_worker._log_to(hidden)  # as on a node that does not see the folder: nothing is logged


def test_items_of_a_lost_node_run_again(on_ray, cluster, tmp_path):
    ray = pytest.importorskip("ray")
    node = cluster.add_node(num_cpus=1)
    found = OnRay(cluster.address, workers=3).map(Noted(tmp_path, seconds=1.0), range(12))
    assert next(found) == 0
    cluster.remove_node(node, allow_graceful=False)
    assert list(found) == [number**2 for number in range(1, 12)]
    began = [int(path.name.split("-")[0]) for path in tmp_path.iterdir()]
    assert set(began) == set(range(12))
    assert 12 <= len(began) <= 13  # the item in flight alone
    deadline = time.monotonic() + 120
    while ray.cluster_resources()["CPU"] > 2:  # a lost node counts until the others miss its heartbeat
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_an_item_that_kills_its_workers_is_named(on_ray, tmp_path):
    with pytest.raises(RuntimeError, match="work item 2 has lost its worker 3 times"):
        list(on_ray.map(Noted(tmp_path), [1, KILLS]))


def test_a_worker_that_ends_for_another_gpu_is_no_attempt(on_ray, tmp_path):
    assert list(on_ray.map(OtherGPU(tmp_path), [7])) == [7]


def test_a_process_ends_if_it_has_another_gpu_than_before(tmp_path, monkeypatch):
    class Ray:
        gpus = (0,)

        def get_gpu_ids(self):
            return self.gpus

    mark = tmp_path / "mark"
    monkeypatch.setattr(ray_worker, "import_ray", Ray)
    monkeypatch.setattr(ray_worker, "_first_gpus", lambda: (0,))
    monkeypatch.setattr(ray_worker.os, "_exit", lambda status: pytest.fail(f"ended with {status}"))
    ray_worker._keep_gpus(mark)
    assert not mark.exists()
    Ray.gpus = (1,)
    with pytest.raises(pytest.fail.Exception, match="ended with 1"):
        ray_worker._keep_gpus(mark)
    assert mark.exists()


def test_what_a_cluster_lacks_is_named(on_ray, cluster, tmp_path):
    with pytest.raises(ValueError, match="a worker needs 1 CPU and 1 GPUs, and the cluster has 2 CPUs and 0 GPUs"):
        OnRay(cluster.address, gpus_per_worker=1)
    with pytest.raises(ValueError, match="workers is a whole number of at least 1, found 0"):
        OnRay(cluster.address, workers=0)
    canary, own = tmp_path / "canary", ray_worker.versions()
    with pytest.raises(RuntimeError, match=r"there does not see the cache .*: set PYTERRIER_MERGE_CACHE"):
        ray_worker._require_alike("there", own, own, canary)
    canary.touch()
    ray_worker._require_alike("there", own, own, canary)
    with pytest.raises(RuntimeError, match=r"there has torch 1\.0, not 2\..*: install the same versions"):
        ray_worker._require_alike("there", {**own, "torch": "1.0"}, own, canary)


def test_a_cluster_that_is_not_there_is_an_error_at_once(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray would try for minutes"))
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"):
        with pytest.raises(RuntimeError, match=rf"no Ray cluster at '{address}' .*start one with 'ray start --head'"):
            OnRay(address)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyterrier-merge\[ray\]'"):
        OnRay("local")
