"""Distances between two sets of samples, a and b, in the space the vectors live in.

    Fréchet             |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), means m, covariances S
    sliced Wasserstein  (E_u W_p(u.a, u.b)^p)^(1/p), u uniform on the unit sphere
    energy              2 E|a - b| - E|a - a'| - E|b - b'|
    MMD^2               E k(a, a') + E k(b, b') - 2 E k(a, b), k(x, y) = exp(-|x - y|^2 / (2 h^2))

All in float64 on the host. The Fréchet distance is the squared 2-Wasserstein distance of the two
Gaussians with the sets' means and covariances. Estimated from samples it is biased upwards, the
more the fewer they are, so it only compares with one of the same two counts: each result carries
them. The energy distance and MMD^2 are estimated without bias (a' and b' are other samples), so
both may be negative.

Each statistic is written for weighted samples, weight w_i meaning that sample i is there w_i
times; a sample is never paired with itself nor with its copies. That is what a bootstrap needs: a
pair of copies has distance 0, which no two samples of a continuous law have.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

__all__ = [
    "Distance",
    "Samples",
    "Slices",
    "between",
    "energy_distance",
    "frechet_distance",
    "gaussian_kernel",
    "median_distance",
    "mmd",
    "sliced_wasserstein",
    "vectors",
    "weighted_frechet",
    "within",
]

Samples = Tensor | ArrayLike
Array = NDArray[np.float64]


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
    x, y = vectors(a, b, at_least=2)
    return Distance(weighted_frechet(x, y, np.ones(len(x)), np.ones(len(y))), len(x), len(y))


def weighted_frechet(x: Array, y: Array, w: Array, v: Array) -> float:
    """Fréchet distance of vectors x (N, D) with weights w (N,) and y (M, D) with v (M,)."""
    (m, r), (n, q) = _moments(x, w), _moments(y, v)
    # With S_a = R'R and S_b = Q'Q, (S_a S_b)^(1/2) has the trace of R Q' in the nuclear norm. No
    # square root is taken of an eigenvalue that is only rounding (constant pixels, few samples).
    overlap = scipy.linalg.svdvals(r @ q.T).sum()
    value = (m - n) @ (m - n) + (r**2).sum() + (q**2).sum() - 2 * overlap
    return max(float(value), 0.0)


def _moments(x: Array, w: Array) -> tuple[Array, Array]:
    """The mean of weighted rows, and R with R^T R their unbiased covariance."""
    rows = w > 0
    x, w = x[rows], w[rows]
    total = w.sum()
    mean: Array = w @ x / total
    factor: Array = (x - mean) * np.sqrt(w / (total - 1))[:, None]
    if len(factor) > factor.shape[1]:
        (factor,) = scipy.linalg.qr(factor, mode="r", check_finite=False)
        factor = factor[: x.shape[1]]
    return mean, factor


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
    x, y = vectors(a, b, at_least=1)
    slices = Slices(x, y, projections, seed)
    return Distance(slices.distance(None, None, order), len(x), len(y))


class Slices:
    """Projections of two sets on random directions, sorted once for any number of weights.

    Args:
        x: Vectors (N, D).
        y: Vectors (M, D).
        projections: Number of random directions.
        seed: Seed of the directions.
    """

    def __init__(self, x: Array, y: Array, projections: int, seed: int) -> None:
        if projections < 1:
            raise ValueError(f"projections = {projections}: must be at least 1")
        directions = np.random.default_rng(seed).standard_normal((projections, x.shape[1]))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        n, m = len(x), len(y)
        # On a line W_p couples equal quantiles: both quantile functions are steps, equal to order
        # statistics between the levels at which either of them jumps.
        levels = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
        self._widths = np.diff(levels, prepend=0) / (n * m)
        self._sets = []
        for z, positions in ((x, (levels - 1) // m), (y, (levels - 1) // n)):
            projected = directions @ z.T
            order = np.argsort(projected, axis=1)
            self._sets.append((np.take_along_axis(projected, order, axis=1), order, positions))

    def distance(self, w: Array | None, v: Array | None, order: int = 2) -> float:
        """Sliced W_p with samples repeated w (N,) and v (M,) times; None: each once."""
        left, right = (
            _repeated(ordered, ranks, weights)[:, positions]
            for (ordered, ranks, positions), weights in zip(self._sets, (w, v), strict=True)
        )
        mean = float((np.abs(left - right) ** order @ self._widths).mean())
        return float(mean ** (1 / order))


def _repeated(ordered: Array, ranks: NDArray[np.intp], weights: Array | None) -> Array:
    """Sorted rows with each entry repeated as its sample is; whole weights with sum N."""
    if weights is None:
        return ordered
    counts = weights.astype(np.int64)[ranks]
    return np.repeat(ordered.ravel(), counts.ravel()).reshape(ordered.shape)


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
    x, y = vectors(a, b, at_least=2)
    w, v = np.ones((1, len(x))), np.ones((1, len(y)))
    cross = between(cdist(x, y), w, v)
    value = 2 * cross - within(cdist(x, x), w) - within(cdist(y, y), v)
    return Distance(float(value[0]), len(x), len(y))


def mmd(a: Samples, b: Samples, *, bandwidth: float | None = None) -> Distance:
    """MMD^2 with a Gaussian kernel (Gretton et al. 2012) by its unbiased estimate, no unit.

    Args:
        a: Samples, shape (N, ...), N at least 2; flattened to vectors.
        b: Samples, shape (M, ...) with the same sample shape, M at least 2: the reference.
        bandwidth: h of the kernel, in units of x; the median distance within b by default, so
            that all sets measured against one reference are measured alike.

    Returns:
        The distance and the counts. Zero on average for two sets of one law; so may be negative.

    Raises:
        ValueError: If the shapes differ, a set is too small, values are not finite, or the
            bandwidth is not positive.
    """
    x, y = vectors(a, b, at_least=2)
    inside = cdist(y, y)
    h = median_distance(inside) if bandwidth is None else bandwidth
    if not (h > 0 and np.isfinite(h)):
        raise ValueError(f"bandwidth = {h}: must be positive; half of b may be one point")
    w, v = np.ones((1, len(x))), np.ones((1, len(y)))
    same = within(gaussian_kernel(cdist(x, x), h), w) + within(gaussian_kernel(inside, h), v)
    value = same - 2 * between(gaussian_kernel(cdist(x, y), h), w, v)
    return Distance(float(value[0]), len(x), len(y))


def median_distance(distances: Array) -> float:
    """Median of the distances (N, N) of different samples, in their unit."""
    return float(np.median(distances[np.triu_indices(len(distances), 1)]))


def gaussian_kernel(distances: Array, bandwidth: float) -> Array:
    """exp(-d^2 / (2 h^2)), elementwise."""
    kernel: Array = np.exp(-0.5 * (distances / bandwidth) ** 2)
    return kernel


def between(values: Array, w: Array, v: Array) -> Array:
    """Mean of a function of pairs, (N, M), for each row of weights w (R, N) and v (R, M)."""
    mean: Array = ((w @ values) * v).sum(1) / (w.sum(1) * v.sum(1))
    return mean


def within(values: Array, w: Array) -> Array:
    """Mean over pairs of different samples, (N, N), for each row of weights w (R, N)."""
    pairs = ((w @ values) * w).sum(1) - w**2 @ np.diagonal(values)
    mean: Array = pairs / (w.sum(1) ** 2 - (w**2).sum(1))
    return mean


def vectors(a: Samples, b: Samples, at_least: int) -> tuple[Array, Array]:
    """Two sets as float64 vectors on the host, (N, D) and (M, D).

    Raises:
        ValueError: If the shapes differ, a set is too small, or values are not finite.
    """
    first, second = _vectors("a", a, at_least), _vectors("b", b, at_least)
    if np.shape(a)[1:] != np.shape(b)[1:]:
        raise ValueError(
            f"samples of different shapes: a {tuple(np.shape(a)[1:])}, b {tuple(np.shape(b)[1:])}"
        )
    return first, second


def _vectors(name: str, samples: Samples, at_least: int) -> Array:
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
