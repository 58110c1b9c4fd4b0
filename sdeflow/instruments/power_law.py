r"""A power law K ~ t^p fitted to a curve of means over the same samples at every time.

    p = sum_i w_i log K(t_i),    w_i = (log t_i - mean) / sum_j (log t_j - mean)^2

The points of such a curve are correlated, since every time sees the same samples, so the usual
error of a slope would be wrong: the samples' share of it is a jackknife over groups of samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Exponent", "fit_exponent"]

Array = NDArray[np.float64]
GROUPS = 16  # of the jackknife


@dataclass(frozen=True)
class Exponent:
    """A power law K ~ t^value fitted between two times.

    Attributes:
        value: the exponent.
        error: its standard error: of the drawn samples and of the fit, together.
        low: smallest time of the fit.
        high: largest.
    """

    value: float
    error: float
    low: float
    high: float


def fit_exponent(times: Array, norms: Array) -> Exponent:
    """Least squares of log E||.|| against log t.

    Args:
        times: (T,) times, at least 3.
        norms: (T, N) positive numbers of N samples, the same ones at every time.

    Returns:
        The slope; its error adds, in squares, that of the drawn samples (jackknife over groups of
        them, so correlations between times count) and that of the fit (scatter about the line).

    Raises:
        ValueError: shapes that do not fit, or a mean that is not positive and finite.
    """
    times, norms = np.asarray(times, dtype=np.float64), np.asarray(norms, dtype=np.float64)
    if norms.ndim != 2 or len(norms) != len(times) or len(times) < 3 or norms.shape[1] < 2:
        raise ValueError(f"norms of shape {norms.shape}: need ({len(times)} >= 3 times, samples)")
    means = norms.mean(1)
    if not (np.isfinite(means).all() and (means > 0).all()):
        raise ValueError("norms: a mean is 0 or not finite there, so there is no power law to fit")
    log_t = np.log(times) - np.log(times).mean()
    weights = log_t / (log_t**2).sum()
    value = float(weights @ np.log(means))
    scatter = np.log(means) - np.log(means).mean() - value * log_t
    fit = float((scatter**2).sum() / (len(times) - 2) / (log_t**2).sum())
    groups = np.array_split(np.arange(norms.shape[1]), min(GROUPS, norms.shape[1]))
    left_out = np.array(
        [weights @ np.log(np.delete(norms, group, axis=1).mean(1)) for group in groups]
    )
    n = len(groups)
    drawn = float(((left_out - left_out.mean()) ** 2).sum() * (n - 1) / n)
    return Exponent(value, math.sqrt(fit + drawn), float(times.min()), float(times.max()))
