"""Pairs of a few words, for trainings of some steps."""

import random

import pandas as pd
import pytest

from pyterrier_merge.collections import from_frames
from pyterrier_merge.training.pairs import pairs_from_frame


@pytest.fixture(scope="session")
def some_pairs(words):
    """Twelve queries, each two words of its document and two others."""
    draw = random.Random(1)
    rows = []
    for number in range(12):
        text = draw.sample(words, 6)
        query = [*text[:2], *draw.sample(words, 2)]
        rows.append((f"q{number}", " ".join(query), f"d{number}", " ".join(text)))
    return pairs_from_frame(pd.DataFrame(rows, columns=["qid", "query", "docno", "text"]))


@pytest.fixture(scope="session")
def long_collection(words):
    """Sixty documents of thirty words, long enough for known items, and a judged query."""
    draw = random.Random(2)
    docs = [{"docno": f"d{number}", "text": " ".join(draw.choices(words, k=30))} for number in range(60)]
    topics = pd.DataFrame([("q", "fever")], columns=["qid", "query"])
    qrels = pd.DataFrame([("q", "d0", 1)], columns=["qid", "docno", "label"])
    return from_frames("long", docs, {"test": topics}, {"test": qrels})
