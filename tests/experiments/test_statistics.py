"""Intervals that hold what they promise, Holm's correction, and verdicts by the rules."""

import math

import numpy as np
import pytest

from experiments.runner import statistics
from experiments.runner.statistics import holm, paired


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_the_truth_as_often_as_they_say(
    seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    rng = np.random.default_rng(0)
    trials = 1000
    inside = 0
    for trial in range(trials):
        found = paired(rng.standard_normal(seeds).tolist(), seed=trial)
        inside += found.low <= 0 <= found.high
    # 0.95 within 3 standard errors of a share of 1,000 trials, and 1 % of bias.
    assert abs(inside / trials - 0.95) < 3 * math.sqrt(0.95 * 0.05 / trials) + 0.01


def test_differences_are_paired() -> None:
    a, b = [1.0, 10.0, 100.0], [1.1, 10.1, 100.1]
    found = paired(a, b)
    assert found.value == pytest.approx(-0.1)
    assert found.high < 0  # the seeds' own spread cancels
    assert found.each == pytest.approx((-0.1, -0.1, -0.1))


def test_effect_is_the_mean_over_the_standard_deviation() -> None:
    assert paired([1.0, 2.0, 3.0]).effect == pytest.approx(2.0)
    assert paired([2.0, 2.0, 2.0]).effect is None


def test_one_seed_says_nothing() -> None:
    found = paired([3.0], [1.0])
    assert (found.value, found.low, found.high) == (2.0, -math.inf, math.inf)
    assert found.p_value == 1.0


@pytest.mark.parametrize("bad", [[], [1.0, math.nan]])
def test_what_cannot_be_compared_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="a, b"):
        paired(bad)


def test_holm_by_hand() -> None:
    # Sorted .01 .03 .04 times 3, 2, 1: .03 .06 .04, made monotone.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
