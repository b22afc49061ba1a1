import logging

import numpy as np
import pytest

from pyterrier_merge import MaskedTraining
from pyterrier_merge.training.plan import choose_batch_size, choose_window, make_plan


@pytest.mark.parametrize(
    ("lengths", "longest", "window"),
    [
        ([20, 30, 45, 300], 256, 64),  # HPO: short texts stay in windows of 64
        ([100, 110, 120, 400], 256, 120),
        ([100, 110, 120, 130] * 100, 256, 120),
        ([300] * 10, 256, 256),
        ([300] * 10, 8192, 300),
        ([5000] * 10, 8192, 512),
        ([5000] * 10, 32, 32),
    ],
)
def test_windows_hold_three_texts_of_four_within_bounds(lengths, longest, window):
    assert choose_window(np.array(lengths), longest) == window


def test_a_batch_has_as_many_tokens_whatever_the_window():
    assert [choose_batch_size(window) for window in (16, 64, 65, 128, 256, 512, 4096)] == [32, 32, 31, 16, 8, 4, 1]


@pytest.mark.parametrize(
    ("windows", "window", "steps", "batch_size", "passes", "share"),
    [
        (21_472, 64, 800, 32, 800 / 671, 1.0),  # HPO: as many steps as ever
        (9_403, 256, 800, 8, 800 / 1176, 800 / 1176),  # SciFact
        (450, 256, 570, 8, 10.0, 1.0),  # 300 abstracts: 57 batches, ten times
        (3, 64, 10, 32, 10.0, 1.0),
        (1_000_000, 64, 800, 32, 0.0256, 0.0256),
    ],
)
def test_default_steps_are_ten_passes_and_800_at_most(windows, window, steps, batch_size, passes, share):
    plan = make_plan(MaskedTraining(), texts=7, windows=windows, window=window)
    assert (plan.steps, plan.batch_size) == (steps, batch_size)
    assert (plan.passes, plan.share) == pytest.approx((passes, share))


def test_settings_come_first():
    settings = MaskedTraining(steps=3, batch_size=5)
    plan = make_plan(settings, texts=9, windows=11, window=12)
    assert plan.report() == {
        "texts": 9,
        "windows": 11,
        "window": 12,
        "batch_size": 5,
        "steps": 3,
        "passes": 1.0,
        "share_of_text_read": 1.0,
    }


@pytest.mark.parametrize(
    ("settings", "windows", "level", "message"),
    [
        (
            {},
            1000,
            logging.INFO,
            "7 texts in 1000 windows of at most 64 tokens: 320 steps of 32 windows are",
        ),
        (
            {"steps": 800},
            300,
            logging.WARNING,
            "80.0 passes, which read 100 % of the text: one pass is steps=10 with batch_size=32",
        ),
        ({}, 100_000, logging.WARNING, "read 26 % of the text: one pass is steps=3125 with batch_size=32"),
    ],
)
def test_what_is_read_is_said_and_warned_of_where_it_is_little_or_very_often(settings, windows, level, message, caplog):
    with caplog.at_level(logging.INFO):
        make_plan(MaskedTraining(**settings), texts=7, windows=windows, window=64).log()
    (record,) = caplog.records
    assert (record.levelno, message in record.getMessage()) == (level, True)
