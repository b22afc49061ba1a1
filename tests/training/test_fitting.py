import pytest

from pyterrier_merge.training.fitting import Stage


def test_the_learning_rate_rises_and_falls():
    stage = Stage(steps=10, peak=1.0, warmup=4, head_only=False)
    rates = [stage.learning_rate(step) for step in range(10)]
    assert rates[:4] == pytest.approx([0.25 * 1.0, 0.5 * 0.9, 0.75 * 0.8, 1.0 * 0.7])
    assert rates[4:] == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_a_stage_without_warm_up_begins_at_its_peak():
    assert Stage(steps=5, peak=2.0, warmup=0, head_only=True).learning_rate(0) == 2.0
