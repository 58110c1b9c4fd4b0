r"""What differences between arms are worth: intervals, effect sizes, correction for many.

The unit is the seed: it sets the weights' start, the order of the data and the noise of the
samples, and all arms of one seed share them. With d_1 .. d_n the differences of two arms, seed by
seed (of logarithms where a ratio is meant), the interval is a paired bootstrap over seeds,

    [d + c q_.025, d + c q_.975],   q: percentiles of mean(d*) - d,   c = t_(n-1) sqrt(n/(n-1)) / z

The factor c makes up for two things that a bootstrap of few seeds gets wrong: its variance is too
small by (n - 1)/n, and it does not know that the variance itself is estimated (t, Student's
percentile, in place of z, the normal one): 2.7 for 3 seeds, 1.6 for 5. Simulated with normal
differences, 95 % intervals hold the truth in 94 to 96 % of cases (`tests/experiments`).

Effect size: d / s, the mean over the standard deviation of the differences. Several comparisons of
one family: p values of Student's paired test, corrected by Holm's method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sdeflow.metrics import bootstrap_interval

__all__ = ["Paired", "holm", "paired"]

RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """A difference between two arms, or of one arm from a constant.

    Attributes:
        value: mean difference over the seeds.
        low, high: its interval; infinite with one seed.
        each: the differences.
        effect: mean over standard deviation; None with one seed or without spread.
        p_value: two-sided, of no difference; 1 with one seed.
    """

    value: float
    low: float
    high: float
    each: tuple[float, ...]
    effect: float | None
    p_value: float


def paired(a: Sequence[float], b: Sequence[float] | float = 0.0, seed: int = 0) -> Paired:
    """Compare two arms.

    Args:
        a: one number per seed.
        b: the same of the other arm, in the same order; or a constant.
        seed: of the resampling.

    Raises:
        ValueError: no numbers, numbers that are not finite, or arms of different length.
    """
    d = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if d.ndim != 1 or not len(d) or len(d) != len(a):
        raise ValueError(f"a, b: need one number per seed in both, got shapes {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError(f"a, b: differences {d.tolist()} are not all finite")
    n, mean = len(d), float(d.mean())
    each = tuple(d.tolist())
    if n == 1:
        return Paired(mean, -math.inf, math.inf, each, None, 1.0)
    rng = np.random.default_rng(seed)
    means = d[rng.integers(0, n, size=(RESAMPLES, n))].mean(1)
    low, high = bootstrap_interval(mean, means, CONFIDENCE)
    tail = (1 + CONFIDENCE) / 2
    wider = stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail) * math.sqrt(n / (n - 1))
    spread = float(d.std(ddof=1))
    # Equal up to rounding: no spread to divide by.
    same = spread <= 1e-12 * max(1.0, abs(mean))
    p = float(mean == 0) if same else float(stats.ttest_1samp(d, 0.0).pvalue)
    return Paired(
        mean,
        mean + wider * (low - mean),
        mean + wider * (high - mean),
        each,
        None if same else mean / spread,
        p,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): the k-th smallest times n - k + 1.

    The corrected values are monotone and at most 1; one below 0.05 is significant with a chance
    of at most 5 % of any false one among all.
    """
    n = len(p_values)
    corrected, largest = [0.0] * n, 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (n - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
