import numpy as np
import pytest

from pyterrier_merge.encoding.batching import token_batches


@pytest.mark.parametrize("budget", [1, 7, 64, 10_000])
def test_batches_hold_every_text_once_within_the_budget(budget):
    lengths = np.random.default_rng(0).integers(1, 50, size=300).tolist()
    batches = list(token_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    for batch in batches:
        padded = max(lengths[index] for index in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


def test_texts_of_like_length_are_together_longest_first():
    assert list(token_batches([1, 9, 2, 8], 18)) == [[1, 3], [2, 0]]


def test_nothing_gives_no_batch():
    assert list(token_batches([], 8)) == []
