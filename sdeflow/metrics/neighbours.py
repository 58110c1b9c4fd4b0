"""Fidelity and diversity, apart: how much of a lies in the support of b, and the other way round.

The support of a set is estimated by balls, B_k(x_i) around each sample, that reach its k-th
nearest neighbour. For generated samples a and real ones b:

    precision   share of a that lies in a ball of b                     (Kynkäänniemi et al. 2019,
    recall      share of b that lies in a ball of a                      arXiv 1904.06991)
    density     mean over a of (number of balls of b around it) / k     (Naeem et al. 2020,
    coverage    share of b whose ball has a sample of a                  arXiv 2002.09797)

Balls are closed. For two sets of one law density is 1 on average, coverage about 1 - 2^(-k);
precision and recall depend on the dimension and have no such value. A set against itself gives
precision = recall = coverage = 1 and density (k + 1)/k; sets far apart give 0 four times.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from .distances import Samples, vectors

__all__ = ["Coverage", "Neighbours", "coverage"]

Array = NDArray[np.float64]
# How far radii look for neighbours when weights leave some out: 10 k + 20 of them hold fewer
# than k copies with a probability below 1e-20.
REACH = (10, 20)


@dataclass(frozen=True)
class Coverage:
    """The four shares and what they were measured on.

    Attributes:
        precision, recall, coverage: In [0, 1].
        density: At least 0; 1 on average for two sets of one law.
        neighbours: k.
        count_a: Number of generated samples.
        count_b: Number of real samples.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    neighbours: int
    count_a: int
    count_b: int


def coverage(a: Samples, b: Samples, *, neighbours: int = 5) -> Coverage:
    """Precision, recall, density and coverage of a as samples of b's law.

    Args:
        a: Generated samples, shape (N, ...), N above `neighbours`; flattened to vectors.
        b: Real samples, shape (M, ...) with the same sample shape, M above `neighbours`.
        neighbours: k.

    Returns:
        The four, k and the counts.

    Raises:
        ValueError: If the shapes differ, a set is too small, or values are not finite.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours = {neighbours}: must be at least 1")
    x, y = vectors(a, b, at_least=neighbours + 1)
    prepared = Neighbours(cdist(x, x), cdist(x, y), cdist(y, y), neighbours)
    found = prepared.shares(np.ones(len(x)), np.ones(len(y)))
    return Coverage(**found, neighbours=neighbours, count_a=len(x), count_b=len(y))


class Neighbours:
    """The neighbours of every sample, sorted once for any number of weights.

    Args:
        aa: Distances within a, (N, N).
        ab: Distances from a to b, (N, M).
        bb: Distances within b, (M, M).
        k: Neighbours that a ball reaches.
    """

    def __init__(self, aa: Array, ab: Array, bb: Array, k: int) -> None:
        self._ab, self._k = ab, k
        self._nearest = [_nearest(inside, k) for inside in (aa, bb)]

    def shares(self, w: Array, v: Array) -> dict[str, float]:
        """The four by name, with a's samples there w (N,) times and b's v (M,) times.

        Copies of a sample are not its own neighbours.
        """
        radius_a, radius_b = (
            _radii(*nearest, weights, self._k)
            for nearest, weights in zip(self._nearest, (w, v), strict=True)
        )
        in_b = self._ab <= radius_b
        in_a = self._ab <= radius_a[:, None]
        there_a, there_b = w > 0, v > 0
        n, m = w.sum(), v.sum()
        return {
            "precision": float(w @ in_b[:, there_b].any(1) / n),
            "recall": float(in_a[there_a].any(0) @ v / m),
            "density": float(w @ in_b @ v / (self._k * n)),
            "coverage": float(in_b[there_a].any(0) @ v / m),
        }


def _nearest(distances: Array, k: int) -> tuple[Array, NDArray[np.intp]]:
    """Distances to the nearest other samples, rising, and which these are, (N, reach)."""
    apart = distances.copy()
    np.fill_diagonal(apart, np.inf)
    reach = min(len(apart) - 1, REACH[0] * k + REACH[1])
    order = np.argsort(apart, axis=1, kind="stable")[:, :reach]
    return np.take_along_axis(apart, order, axis=1), order


def _radii(ordered: Array, order: NDArray[np.intp], weights: Array, k: int) -> Array:
    """Distance within which each sample has k weighted others, (N,)."""
    enough = weights[order].cumsum(1) >= k
    enough[:, -1] = True
    radii: Array = np.take_along_axis(ordered, enough.argmax(1)[:, None], axis=1)[:, 0]
    return radii
