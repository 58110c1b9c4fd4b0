"""Precision, recall, density and coverage where their values are known."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from sdeflow.metrics import coverage
from sdeflow.metrics.neighbours import Neighbours


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_set_against_itself(k: int) -> None:
    x = np.random.default_rng(0).standard_normal((40, 3))
    found = coverage(x, x, neighbours=k)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # Each ball holds its own centre and k others.
    assert found.density == pytest.approx((k + 1) / k, rel=1e-12)
    assert (found.neighbours, found.count_a, found.count_b) == (k, 40, 40)


def test_sets_far_apart() -> None:
    x = np.random.default_rng(0).standard_normal((30, 3))
    found = coverage(x + 1e3, x[:20])
    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)


def test_by_hand_on_a_line() -> None:
    """k = 1: a ball reaches the nearest other point."""
    b = np.array([[0.0], [1.0], [6.0]])
    b_balls = [(-1, 1), (0, 2), (1, 11)]
    a = np.array([[0.5], [2.2], [20.0]])
    a_balls = [(-1.2, 2.2), (0.5, 3.9), (2.2, 37.8)]
    found = coverage(a, b, neighbours=1)

    def inside(point: float, balls: list[tuple[float, float]]) -> int:
        return sum(low <= point <= high for low, high in balls)

    hits = [inside(point, b_balls) for point in (0.5, 2.2, 20)]
    assert found.precision == pytest.approx(np.mean([hit > 0 for hit in hits]))
    assert found.density == pytest.approx(np.mean(hits))
    assert found.recall == pytest.approx(np.mean([inside(p, a_balls) > 0 for p in (0, 1, 6)]))
    assert found.coverage == 1.0


def test_one_law_has_density_one_and_known_coverage() -> None:
    rng = np.random.default_rng(0)
    k, count = 5, 300
    found = [coverage(*rng.standard_normal((2, count, 2)), neighbours=k) for _ in range(30)]
    for name, expected in (("density", k / (count - 1) * count / k), ("coverage", 1 - 2.0**-k)):
        values = [getattr(each, name) for each in found]
        # Naeem et al.: coverage tends to 1 - 2^-k; at 300 samples it is within 1/300 of that.
        margin = 5 * np.std(values) / np.sqrt(30) + 1 / count
        assert np.mean(values) == pytest.approx(expected, abs=margin)


def test_weights_leave_samples_out() -> None:
    """Weights of 0 and 1 are the set without those of weight 0."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 2)), rng.standard_normal((25, 2))
    w, v = (rng.random(20) < 0.7).astype(float), (rng.random(25) < 0.7).astype(float)
    prepared = Neighbours(cdist(x, x), cdist(x, y), cdist(y, y), 3)
    kept = coverage(x[w > 0], y[v > 0], neighbours=3)
    for name, value in prepared.shares(w, v).items():
        assert value == pytest.approx(getattr(kept, name), rel=1e-12), name


def test_bad_input() -> None:
    x = np.zeros((5, 2))
    with pytest.raises(ValueError, match="neighbours = 0"):
        coverage(x, x, neighbours=0)
    with pytest.raises(ValueError, match="at least 6 samples"):
        coverage(x, x)
