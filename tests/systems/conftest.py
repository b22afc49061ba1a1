"""A bench for systems, and a collection small enough to rank by hand."""

import pandas as pd
import pytest
from pyterrier.measures import RR

from pyterrier_merge.collections import from_frames
from pyterrier_merge.experiment.bench import ExperimentBench, InMemory
from pyterrier_merge.experiment.compare import as_system
from pyterrier_merge.systems import read_system


@pytest.fixture
def make_bench(small_collection):
    """Make a bench of systems: sections of a file, or whatever ``compare`` takes."""

    def make(systems, collection=small_collection, **options):
        made = {
            name: read_system(given) if isinstance(given, dict) else as_system(name, given)
            for name, given in systems.items()
        }
        given = {"split": "test", "measures": [RR @ 10], "num_results": 20, "store": InMemory(), **options}
        return ExperimentBench(systems=made, collection=collection, **given)

    return make


@pytest.fixture
def three():
    """Documents a to e; queries 1 and 2 of the split "test", 3 and 4 of "dev"."""
    docs = [{"docno": docno, "text": text} for docno, text in zip("abcde", WORDS, strict=True)]
    topics = {
        "test": pd.DataFrame({"qid": ["1", "2"], "query": ["kidney", "liver"]}),
        "dev": pd.DataFrame({"qid": ["3", "4"], "query": ["heart", "fever"]}),
    }
    qrels = {
        "test": pd.DataFrame({"qid": ["1", "2"], "docno": ["a", "b"], "label": 1}),
        "dev": pd.DataFrame({"qid": ["3", "4"], "docno": ["c", "d"], "label": 1}),
    }
    return from_frames("three", docs, topics, qrels)


WORDS = ["kidney failure", "liver failure", "heart disease", "fever", "acute pain"]


@pytest.fixture
def results():
    """Make a frame of results: qid -> documents with their scores."""

    def make(**queries):
        rows = [
            (qid.removeprefix("q"), docno, score) for qid, scores in queries.items() for docno, score in scores.items()
        ]
        return pd.DataFrame(rows, columns=["qid", "docno", "score"])

    return make
