"""Distances between two sets of samples, in the space the samples live in (pixels, for images).

    Fréchet             |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), means m, covariances S
    sliced Wasserstein  (E_u W_p(u.a, u.b)^p)^(1/p), u uniform on the unit sphere
    energy              2 E|a - b| - E|a - a'| - E|b - b'|

All in float64 on the host. The Fréchet distance is the squared 2-Wasserstein distance of the two
Gaussians with the sets' means and covariances. Estimated from samples it is biased upwards, the
more the fewer they are, so it only compares with one of the same two counts: each result carries
them.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

__all__ = ["Distance", "energy_distance", "frechet_distance", "sliced_wasserstein"]

Samples = Tensor | ArrayLike


@dataclass(frozen=True)
class Distance:
    """A distance and what it was measured on.

    Attributes:
        value: The distance, in the units that its function names.
        count_a: Number of samples in the first set.
        count_b: Number of samples in the second set.
    """

    value: float
    count_a: int
    count_b: int

    def __float__(self) -> float:
        return self.value


def frechet_distance(a: Samples, b: Samples) -> Distance:
    """Fréchet distance between two sets (the squared one, as in FID), in squared units of x.

    Args:
        a: Samples, shape (N, ...), N at least 2; flattened to vectors.
        b: Samples, shape (M, ...) with the same sample shape, M at least 2.

    Returns:
        The distance and the counts.

    Raises:
        ValueError: If the shapes differ, a set is too small, or values are not finite.
    """
    x, y = _pair(a, b, at_least=2)
    difference = x.mean(0) - y.mean(0)
    r, q = _covariance_factor(x), _covariance_factor(y)
    # With S_a = R'R and S_b = Q'Q, (S_a S_b)^(1/2) has the trace of R Q' in the nuclear norm. No
    # square root is taken of an eigenvalue that is only rounding (constant pixels, few samples).
    overlap = scipy.linalg.svdvals(r @ q.T).sum()
    value = difference @ difference + (r**2).sum() + (q**2).sum() - 2 * overlap
    return Distance(max(float(value), 0.0), len(x), len(y))


def _covariance_factor(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """R with R^T R the unbiased covariance of the rows of x."""
    (factor,) = scipy.linalg.qr(x - x.mean(0), mode="r", check_finite=False)
    scaled: NDArray[np.float64] = factor[: x.shape[1]] / np.sqrt(len(x) - 1)
    return scaled


def sliced_wasserstein(
    a: Samples, b: Samples, *, order: int = 2, projections: int = 512, seed: int = 0
) -> Distance:
    """Sliced Wasserstein distance, in units of x.

    Args:
        a: Samples, shape (N, ...); flattened to vectors.
        b: Samples, shape (M, ...) with the same sample shape.
        order: p of W_p, 1 or 2.
        projections: Number of random directions.
        seed: Seed of the directions.

    Returns:
        The distance and the counts.

    Raises:
        ValueError: If the shapes differ, values are not finite, or an argument is out of range.
    """
    if order not in (1, 2):
        raise ValueError(f"order = {order}: must be 1 or 2")
    if projections < 1:
        raise ValueError(f"projections = {projections}: must be at least 1")
    x, y = _pair(a, b, at_least=1)
    directions = np.random.default_rng(seed).standard_normal((x.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    # On a line W_p couples equal quantiles: both quantile functions are steps, equal to order
    # statistics between the levels at which either of them jumps.
    n, m = len(x), len(y)
    levels = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(levels, prepend=0) / (n * m)
    left = np.sort(x @ directions, axis=0)[(levels - 1) // m]
    right = np.sort(y @ directions, axis=0)[(levels - 1) // n]
    value = float((widths @ np.abs(left - right) ** order).mean()) ** (1 / order)
    return Distance(value, n, m)


def energy_distance(a: Samples, b: Samples) -> Distance:
    """Energy distance (Székely & Rizzo 2013) by its unbiased estimate, in units of x.

    Args:
        a: Samples, shape (N, ...), N at least 2; flattened to vectors.
        b: Samples, shape (M, ...) with the same sample shape, M at least 2.

    Returns:
        The distance and the counts. Zero on average for two sets of one law; so may be negative.

    Raises:
        ValueError: If the shapes differ, a set is too small, or values are not finite.
    """
    x, y = _pair(a, b, at_least=2)
    value = 2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean()
    return Distance(float(value), len(x), len(y))


def _pair(
    a: Samples, b: Samples, at_least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _vectors("a", a, at_least), _vectors("b", b, at_least)
    if np.shape(a)[1:] != np.shape(b)[1:]:
        raise ValueError(
            f"samples of different shapes: a {tuple(np.shape(a)[1:])}, b {tuple(np.shape(b)[1:])}"
        )
    return first, second


def _vectors(name: str, samples: Samples, at_least: int) -> NDArray[np.float64]:
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu().to(torch.float64).numpy()
    x = np.asarray(samples, dtype=np.float64)
    if x.ndim < 1 or len(x) < at_least:
        raise ValueError(f"{name} has shape {x.shape}: needs at least {at_least} samples")
    x = x.reshape(len(x), -1)
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(f"{name}: {bad} of {len(x)} samples are not finite; leave them out")
    return x
