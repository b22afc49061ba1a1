import numpy as np
import pytest

from pyterrier_merge.training.batches import WindowBatches
from pyterrier_merge.training.masking import MaskedBatches

CLS, SEP, MASK, PAD, UNKNOWN = 2, 3, 4, 0, 1


def windows(lengths, batch_size=8):
    draw = np.random.default_rng(0)
    sequences = [np.array([CLS, *draw.integers(5, 1000, size=length), SEP], dtype=np.int32) for length in lengths]
    return WindowBatches(sequences, batch_size, PAD, seed=0)


def masked(lengths, *, batch_size=8, probability=0.15, first=0, steps=10):
    special = (PAD, UNKNOWN, CLS, SEP, MASK)
    return MaskedBatches(windows(lengths, batch_size), steps, probability, MASK, special, 1000, first)


def test_an_epoch_holds_each_sequence_once_and_the_next_is_shuffled_anew():
    some = windows([3] * 1001)
    first, second = some.epoch(0), some.epoch(1)
    assert len(first) == some.epoch_steps == 126
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(1001))
    assert not np.array_equal(first[0], second[0])
    assert all(np.array_equal(left, right) for left, right in zip(first, some.epoch(0), strict=True))


def test_batches_hold_sequences_of_like_length():
    lengths = np.random.default_rng(1).integers(1, 100, size=1024)
    padded = sum(lengths[batch].max() * len(batch) for batch in windows(lengths).epoch(0))
    assert padded < 1.1 * lengths.sum()


def test_masks_follow_bert():
    some = masked([398] * 100, batch_size=100)
    batch = {name: tensor.numpy() for name, tensor in some[0].items()}
    original = np.stack(some.windows.sequences)[some.windows.epoch(0)[0]]
    predicted = batch["predicted"]
    assert predicted.sum() / (100 * 400) == pytest.approx(0.15, abs=0.01)
    assert not predicted[:, [0, -1]].any()
    np.testing.assert_array_equal(batch["tokens"], original[predicted])
    np.testing.assert_array_equal(batch["input_ids"][~predicted], original[~predicted])
    seen = batch["input_ids"][predicted]
    assert (seen == MASK).mean() == pytest.approx(0.8, abs=0.03)
    assert (seen == batch["tokens"]).mean() == pytest.approx(0.1, abs=0.02)


def test_padding_is_neither_read_nor_predicted():
    batch = masked([1, 4, 9], probability=0.9)[0]
    assert batch["input_ids"].shape == (3, 12)  # a multiple of four
    assert sorted(batch["attention_mask"].sum(dim=1).tolist()) == [3, 6, 11]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == PAD).all()
    assert not (batch["predicted"] & (batch["attention_mask"] == 0)).any()


def test_a_short_batch_still_predicts_something():
    some = masked([1], probability=1e-9)
    for number in range(5):
        assert some[number]["predicted"].tolist() == [[False, True, False, False]]


def test_a_batch_can_be_drawn_again_and_differs_from_the_next():
    some = masked([50] * 8)
    assert all((some[3][name] == some[3][name]).all() for name in some[3])
    assert not (some[3]["predicted"] == some[4]["predicted"]).all()
    later = masked([50] * 8, first=3)
    assert len(later) == 10
    assert all((some[3][name] == later[0][name]).all() for name in some[3])
