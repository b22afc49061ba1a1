"""Nodes of a Ray cluster are killed and added, at random times, while it encodes, sweeps and searches."""

import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pandas as pd
import pytest
from pyterrier.measures import nDCG

from pyterrier_merge import E5Encoder, FaissIndex, MergedE5Encoder, sweep
from pyterrier_merge.executor import OnRay

pytestmark = pytest.mark.slow
KILLS = 20
SECONDS = (0.5, 4.0)  # between two kills, drawn uniformly


class Killer:
    """Kills a node and adds another one, again and again, while another thread works."""

    def __init__(self, cluster):
        self.cluster, self.kills = cluster, 0
        self._nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        self._random = random.Random(0)

    def during(self, work, kills):
        """Do the work over and over while so many nodes are killed, and once more; yield what it makes."""
        goal, due = self.kills + kills, self._soon()
        with ThreadPoolExecutor(1) as thread:
            while self.kills < goal:
                made = thread.submit(work)
                while not wait([made], max(0.0, due - time.monotonic())).done:
                    self._kill()
                    due = self._soon()
                yield made.result(timeout=300)
        yield work()

    def _soon(self):
        return time.monotonic() + self._random.uniform(*SECONDS)

    def _kill(self):  # in the main thread, where alone Ray starts nodes
        self.cluster.remove_node(self._nodes.pop(0), allow_graceful=False)
        self.kills += 1
        self._nodes.append(self.cluster.add_node(num_cpus=1))


@pytest.fixture(scope="module")
def killer():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    yield Killer(cluster)
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(autouse=True)
def many_attempts(monkeypatch):
    attempts = "pyterrier_merge.executor.on_ray.ATTEMPTS"
    monkeypatch.setattr(attempts, 50)  # the killer hits an item more often than real life


def test_what_is_made_under_fire_is_what_one_process_makes(
    killer, bert_retriever, bert_language_model, small_collection, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    on_ray, began = OnRay(killer.cluster.address, workers=3), time.monotonic()
    plain = {"dtype": "float32", "device": "cpu"}
    encoder = E5Encoder(bert_retriever, **plain)
    documents = [{"docno": f"d{number}", "text": f"the {number} wings of a hawk"} for number in range(300)]

    def index(path, executor=None):
        made = FaissIndex(path, verbose=False)
        return made.indexer(encoder=encoder, executor=executor, shard_size=5, mode="overwrite").index(documents)

    alone = index(tmp_path / "alone")
    expected = alone.open().rows(slice(None))
    for made in killer.during(lambda: index(tmp_path / "together", on_ray), KILLS // 2):
        assert made.open().docnos(np.arange(300)) == [document["docno"] for document in documents]
        np.testing.assert_array_equal(made.open().rows(slice(None)), expected)
    indexed = killer.kills

    merged = MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1, **plain)
    grid = {"grid": [0, 0.25, 0.5], "metric": nDCG @ 10, "verbose": False}
    table = sweep(merged, small_collection, root=tmp_path / "sweep", **grid).table
    places = iter(range(1_000))

    def swept():
        return sweep(merged, small_collection, root=tmp_path / f"sweep {next(places)}", executor=on_ray, **grid).table

    for made in killer.during(swept, KILLS // 4):
        pd.testing.assert_frame_equal(made, table, check_exact=True)
    were_swept = killer.kills - indexed

    queries = encoder(pd.DataFrame({"qid": ["1", "2"], "query": ["hawk", "wings"]}))
    results = alone.retriever(50)(queries)
    for made in killer.during(lambda: alone.retriever(50, executor=on_ray)(queries), KILLS - KILLS // 2 - KILLS // 4):
        pd.testing.assert_frame_equal(made, results, check_exact=True)
    assert killer.kills >= KILLS
    logging.getLogger(__name__).warning(
        "%d kills while encoding, %d in sweeps, %d in all; %d items ran again; %.0f s",
        *(indexed, were_swept, killer.kills, on_ray.retries, time.monotonic() - began),
    )
