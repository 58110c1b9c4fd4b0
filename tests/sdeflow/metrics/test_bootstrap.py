"""Intervals that hold what they promise, and tests that reject as often as they should."""

import numpy as np
import pytest

from sdeflow.metrics import bootstrap_interval, bootstrap_test, resample_counts


def test_counts_are_resamples() -> None:
    counts = resample_counts(30, 400, np.random.default_rng(0))
    assert counts.shape == (400, 30)
    np.testing.assert_array_equal(counts.sum(1), 30)
    # Each count is binomial with variance 29/30; five standard errors of a mean of 400.
    assert np.abs(counts.mean(0) - 1).max() < 5 * np.sqrt(29 / 30 / 400)
    np.testing.assert_array_equal(counts, resample_counts(30, 400, np.random.default_rng(0)))


def test_interval_of_a_mean_covers_it() -> None:
    rng = np.random.default_rng(0)
    trials, n, confidence = 400, 100, 0.9
    covered, rejected = 0, 0
    for _ in range(trials):
        x = rng.standard_normal(n)
        resampled = resample_counts(n, 300, rng) @ x / n
        low, high = bootstrap_interval(x.mean(), resampled, confidence)
        covered += low <= 0 <= high
        rejected += bootstrap_test(x.mean(), resampled) <= 1 - confidence
    # Five binomial standard deviations, 0.075; the percentile interval of 100 falls 0.005 short
    # (standard deviation with n instead of n - 1, normal instead of Student tails).
    margin = 5 * np.sqrt(confidence * (1 - confidence) / trials) + 0.005
    assert abs(covered / trials - confidence) < margin
    assert abs(rejected / trials - (1 - confidence)) < margin


def test_interval_is_about_the_value() -> None:
    """A bias of the resamples moves nothing."""
    resampled = np.random.default_rng(0).standard_normal(1000)
    first = bootstrap_interval(3.0, resampled)
    assert first[0] < 3 < first[1]
    assert bootstrap_interval(3.0, resampled + 7) == pytest.approx(first, rel=1e-12)
    assert bootstrap_test(0.5, resampled + 7) == bootstrap_test(0.5, resampled)


def test_p_values() -> None:
    resampled = np.array([-1.0, 0.0, 0.0, 1.0])
    assert bootstrap_test(2.0, resampled) == pytest.approx(1 / 5)
    assert bootstrap_test(-1.0, resampled) == pytest.approx(3 / 5)
    assert bootstrap_test(0.0, np.zeros(4)) == 1


@pytest.mark.parametrize("confidence", [0, 1, -0.5, float("nan")])
def test_bad_confidence(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(0.0, np.zeros(5), confidence)


def test_too_few_resamples() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_interval(0.0, np.zeros(1))
