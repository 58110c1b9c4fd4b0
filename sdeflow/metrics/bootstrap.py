"""Intervals and tests by resampling (Efron & Tibshirani, An Introduction to the Bootstrap, 1993).

From n samples, n are drawn with replacement, R times, and the statistic S is computed anew:
S*_1 .. S*_R. With q the percentiles of S* - mean S*,

    interval   [S + q_(1-c)/2, S + q_(1+c)/2]
    p value    of D = 0: share of |D* - mean D*| that are at least |D|

The percentiles are taken about the resamples' own mean, because a resample holds only 63 % of
the samples: a biased statistic (the Fréchet distance, coverage) is more biased in it, and its
plain percentiles may not even contain S.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_interval", "bootstrap_test", "resample_counts"]

Array = NDArray[np.float64]


def resample_counts(count: int, resamples: int, rng: np.random.Generator) -> Array:
    """How often each sample is drawn, (resamples, count); rows sum to `count`."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)


def bootstrap_interval(
    value: float, resampled: Array, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a statistic.

    Args:
        value: The statistic of the samples.
        resampled: The statistic of resamples, (R,), R at least 2.
        confidence: Share of such intervals that contain the truth, in (0, 1).

    Returns:
        Lower and upper end.

    Raises:
        ValueError: If the confidence is out of range or there are fewer than 2 resamples.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: must be inside (0, 1), for example 0.95")
    if len(resampled) < 2:
        raise ValueError(f"resampled: {len(resampled)} values; needs at least 2")
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(resampled - resampled.mean(), tails)
    return float(value + low), float(value + high)


def bootstrap_test(difference: float, resampled: Array) -> float:
    """Two-sided p value of a difference that would be 0 if nothing differed.

    Args:
        difference: The difference measured.
        resampled: The difference in resamples, (R,), both sides resampled alike (paired).

    Returns:
        The p value, at least 1/(R + 1).
    """
    extreme = np.abs(resampled - resampled.mean()) >= abs(difference)
    return float((1 + np.count_nonzero(extreme)) / (1 + len(resampled)))
