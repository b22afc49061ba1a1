"""What ``compare`` costs beside ``ir_measures`` alone, for the same figures of the same runs.

    python experiments/benchmarks/comparing.py    # 40 runs of 1,667 queries x 100 documents, as JQaRA has

``ir_measures`` gives the means; ``compare`` also gives the values of each query, the share of judged documents, paired
tests against one baseline, and checks each run against the collection. Turns alternate; the ratio of medians counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
from pyterrier.measures import RR, R, nDCG
from tabulate import tabulate

from pyterrier_merge import compare, from_frames
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "comparing.json"
MEASURES = [nDCG @ 10, RR @ 10, R @ 100]
QUERIES, DEPTH, DOCUMENTS, RELEVANT = 1_667, 100, 20_000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    docnos, qids = [f"doc{n:06d}" for n in range(DOCUMENTS)], [f"q{n}" for n in range(QUERIES)]

    def drawn(depth: int) -> pd.DataFrame:
        found = np.concatenate([generator.choice(DOCUMENTS, depth, replace=False) for _ in qids])
        return pd.DataFrame({"qid": np.repeat(qids, depth), "docno": np.array(docnos)[found]})

    runs = {f"run {n}": drawn(DEPTH).assign(score=generator.random(QUERIES * DEPTH)) for n in range(options.runs)}
    qrels = drawn(RELEVANT).assign(label=1)
    docs = [{"docno": docno, "text": "text"} for docno in docnos]
    collection = from_frames("drawn", docs, pd.DataFrame({"qid": qids, "query": "query"}), qrels)

    def alone() -> None:
        judgements = qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
        for run in runs.values():
            ir_measures.calc_aggregate(MEASURES, judgements, run.rename(columns={"qid": "query_id", "docno": "doc_id"}))

    def with_compare() -> None:
        compare(runs, collection, measures=MEASURES)

    seconds: dict[str, list[float]] = {"ir_measures": [], "compare": []}
    for _ in range(options.turns):
        seconds["ir_measures"].append(timed(alone))
        seconds["compare"].append(timed(with_compare))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratio = medians["compare"] / medians["ir_measures"]
    print(tabulate([[name, taken] for name, taken in medians.items()], headers=["way", "seconds"], floatfmt=".2f"))
    print(f"compare / ir_measures: {ratio:.2f}")
    found = {"runs": options.runs, "queries": QUERIES, "depth": DEPTH, "seconds": seconds, "ratio": round(ratio, 3)}
    write_file(RESULTS, json.dumps({**found, "environment": environment()}, indent=1) + "\n")


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 3)


if __name__ == "__main__":
    main()
