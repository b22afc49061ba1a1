import numpy as np
import pytest

from pyterrier_merge.training.masking import MaskedCorpus

CLS, SEP, MASK, PAD, UNKNOWN = 2, 3, 4, 0, 1


def corpus(lengths, **changes):
    draw = np.random.default_rng(0)
    sequences = [np.array([CLS, *draw.integers(5, 1000, size=length), SEP], dtype=np.int32) for length in lengths]
    settings = {
        "batch_size": 8,
        "mask_probability": 0.15,
        "mask_token": MASK,
        "pad_token": PAD,
        "special_tokens": (PAD, UNKNOWN, CLS, SEP, MASK),
        "vocabulary": 1000,
        "seed": 0,
    }
    return MaskedCorpus(sequences, **(settings | changes))


def test_an_epoch_holds_each_sequence_once_and_the_next_is_shuffled_anew():
    some = corpus([3] * 1001)
    first, second = some.epoch(0), some.epoch(1)
    assert len(first) == some.epoch_steps == 126
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(1001))
    assert not np.array_equal(first[0], second[0])
    assert all(np.array_equal(left, right) for left, right in zip(first, some.epoch(0), strict=True))


def test_batches_hold_sequences_of_like_length():
    lengths = np.random.default_rng(1).integers(1, 100, size=1024)
    padded = sum(lengths[batch].max() * len(batch) for batch in corpus(lengths).epoch(0))
    assert padded < 1.1 * lengths.sum()


def test_masks_follow_bert():
    some = corpus([398] * 100)
    batch = some.mask(np.arange(100), step=7)
    original = np.stack(some.sequences)
    assert batch.predicted.sum() / (100 * 400) == pytest.approx(0.15, abs=0.01)
    assert not batch.predicted[:, [0, -1]].any()
    np.testing.assert_array_equal(batch.labels, original[batch.predicted])
    np.testing.assert_array_equal(batch.input_ids[~batch.predicted], original[~batch.predicted])
    seen = batch.input_ids[batch.predicted]
    assert (seen == MASK).mean() == pytest.approx(0.8, abs=0.03)
    assert (seen == batch.labels).mean() == pytest.approx(0.1, abs=0.02)


def test_padding_is_neither_read_nor_predicted():
    some = corpus([1, 4, 9], mask_probability=0.9)
    batch = some.mask(np.array([0, 2, 1]), step=0)
    assert batch.input_ids.shape == (3, 12)  # a multiple of four
    assert batch.attention_mask.sum(axis=1).tolist() == [3, 11, 6]
    assert (batch.input_ids[batch.attention_mask == 0] == PAD).all()
    assert not (batch.predicted & (batch.attention_mask == 0)).any()


def test_a_short_batch_still_predicts_something():
    some = corpus([1], mask_probability=1e-9)
    for step in range(5):
        assert some.mask(np.array([0]), step).predicted.tolist() == [[False, True, False, False]]


def test_a_step_can_be_drawn_again_and_differs_from_the_next():
    some = corpus([50] * 4)
    batch = np.arange(4)
    assert all(map(np.array_equal, some.mask(batch, 3), some.mask(batch, 3)))
    assert not np.array_equal(some.mask(batch, 3).predicted, some.mask(batch, 4).predicted)
    assert some.dropout_seed(3) == some.dropout_seed(3) != some.dropout_seed(4)
