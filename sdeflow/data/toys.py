"""Five densities in the plane, of size about 1, to see a whole model at a glance.

    mixture       sum_k w_k N(m_k, 0.1^2 I), m_k = (cos, sin)(2 pi k / 8), w_k ~ exp(k / 7)
moons         two half circles facing each other, noise 0.03
rings         circles of radius 1/4, 1/2, 3/4 and 1, equally likely, noise 0.02
swissroll     a spiral from radius 1/3 to 1 in one and a half turns, noise 0.02
checkerboard  uniform on the 8 dark squares of a 4 x 4 board on [-1, 1]^2
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOYS", "draw_toy"]

Points = NDArray[np.float64]
Classes = NDArray[np.int64]


def _circle(angle: Points, radius: Points | float = 1.0) -> Points:
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)


def _mixture(rng: np.random.Generator, n: int) -> tuple[Points, Classes | None]:
    weights = np.exp(np.linspace(0.0, 1.0, 8))
    mode = rng.choice(8, size=n, p=weights / weights.sum())
    return _circle(2 * np.pi * mode / 8) + 0.1 * rng.standard_normal((n, 2)), mode


def _moons(rng: np.random.Generator, n: int) -> tuple[Points, Classes | None]:
    moon = rng.integers(2, size=n)
    sign = np.where(moon == 0, 1.0, -1.0)[:, None]
    arc = _circle(np.pi * rng.random(n))
    # Half circles of radius 0.6 around (-0.3, -0.15), bulging up, and its mirror image.
    points = sign * (0.6 * arc - np.array([0.3, 0.15]))
    return points + 0.03 * rng.standard_normal((n, 2)), moon


def _rings(rng: np.random.Generator, n: int) -> tuple[Points, Classes | None]:
    ring = rng.integers(4, size=n)
    points = _circle(2 * np.pi * rng.random(n), (ring + 1) / 4)
    return points + 0.02 * rng.standard_normal((n, 2)), ring


def _swissroll(rng: np.random.Generator, n: int) -> tuple[Points, Classes | None]:
    turn = 1.5 * np.pi * (1 + 2 * rng.random(n))
    points = _circle(turn, turn / (4.5 * np.pi))
    return points + 0.02 * rng.standard_normal((n, 2)), None


def _checkerboard(rng: np.random.Generator, n: int) -> tuple[Points, Classes | None]:
    row = rng.integers(4, size=n)
    column = 2 * rng.integers(2, size=n) + row % 2
    corner = np.stack((column, row), axis=1)
    return (corner + rng.random((n, 2))) / 2 - 1, None


TOYS: dict[str, Callable[[np.random.Generator, int], tuple[Points, Classes | None]]] = {
    "mixture": _mixture,
    "moons": _moons,
    "rings": _rings,
    "swissroll": _swissroll,
    "checkerboard": _checkerboard,
}
"""Name of each set and its sampler: (generator, n) -> points (n, 2) and classes (n,) or None."""


def draw_toy(name: str, n: int, seed: int) -> tuple[Points, Classes | None]:
    """Draw points of a 2-D set.

    Args:
        name: A key of `TOYS`.
        n: Number of points.
        seed: Seed; the same seed draws the same points.

    Returns:
        Points, float64, shape (n, 2); classes, int64, shape (n,), or None where there are none.

    Raises:
        ValueError: For an unknown name.
    """
    if name not in TOYS:
        raise ValueError(f"toy = {name!r}: must be one of {', '.join(TOYS)}")
    return TOYS[name](np.random.default_rng(seed), n)
