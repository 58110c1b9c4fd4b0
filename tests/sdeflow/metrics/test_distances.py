"""Distances against closed forms."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from sdeflow.metrics import energy_distance, frechet_distance, mmd, sliced_wasserstein
from sdeflow.metrics.distances import Slices, between, weighted_frechet, within

SYMMETRIC = [frechet_distance, sliced_wasserstein, energy_distance]
METRICS = [*SYMMETRIC, mmd]


def gaussian(n: int, mean: np.ndarray, root: np.ndarray, seed: int) -> np.ndarray:
    """n points whose sample mean and covariance are exactly `mean` and root root^T."""
    z = np.random.default_rng(seed).standard_normal((n, len(mean)))
    z -= z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T
    return mean + z @ root.T


def test_frechet_of_gaussians_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.standard_normal((2, 5, 5))
    m, n = rng.standard_normal((2, 5))
    out = frechet_distance(gaussian(100, m, p, 1), gaussian(80, n, q, 2))
    s, r = p @ p.T, q @ q.T
    middle = np.real(scipy.linalg.sqrtm(s @ r))
    expected = ((m - n) ** 2).sum() + np.trace(s + r - 2 * middle)
    assert out.value == pytest.approx(expected, rel=1e-9)
    assert (out.count_a, out.count_b) == (100, 80)
    assert float(out) == out.value


def test_frechet_in_one_dimension_and_of_a_scaled_set() -> None:
    x = np.random.default_rng(0).standard_normal((50, 1))
    spread = x.std(ddof=1)
    # |m - n|^2 + (s - r)^2 with y = 3 x + 2.
    expected = (2 * x.mean() + 2) ** 2 + (2 * spread) ** 2
    assert frechet_distance(x, 3 * x + 2).value == pytest.approx(expected, rel=1e-10)


def test_frechet_with_singular_covariances() -> None:
    """Constant pixels and fewer samples than dimensions."""
    x = torch.zeros(10, 1, 8, 8)
    x[:, :, 2:6, 2:6] = torch.randn(10, 1, 4, 4)
    # Differences of traces of order 16, rounded some tens of times.
    assert frechet_distance(x, x).value < 16 * 100 * 2**-52
    # x + 0.5 is rounded to float32 in 160 values, with 3e-8 each.
    assert frechet_distance(x, x + 0.5).value == pytest.approx(64 * 0.25, rel=1e-6)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 25), (7, 3)])
def test_sliced_wasserstein_on_a_line(order: int, n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 1)), 2 * rng.standard_normal((m, 1)) + 1
    out = sliced_wasserstein(x, y, order=order, projections=3).value
    # Each order statistic repeated to a common count couples them exactly.
    a, b = np.repeat(np.sort(x[:, 0]), m), np.repeat(np.sort(y[:, 0]), n)
    assert out == pytest.approx((np.abs(a - b) ** order).mean() ** (1 / order), rel=1e-12)
    if order == 1:
        assert out == pytest.approx(scipy.stats.wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-12)


def test_sliced_wasserstein_of_a_shift() -> None:
    x = np.random.default_rng(0).standard_normal((30, 3))
    shift = np.array([3.0, 0.0, 4.0])
    out = sliced_wasserstein(x, x + shift, projections=20_000).value
    # E (u . shift)^2 = |shift|^2 / d; its relative standard deviation is (2 (d-1) / (d+2))^(1/2),
    # 0.9 here; hence 0.9 / 20000^(1/2) / 2 for the root: five of them are 1.6 %.
    assert out == pytest.approx(5 / np.sqrt(3), rel=0.016)
    assert out == sliced_wasserstein(x, x + shift, projections=20_000).value


def test_energy_distance_by_hand_and_against_scipy() -> None:
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [4.0]])
    # 2 (2 + 4 + 1 + 3) / 4 - 1 - 2
    assert energy_distance(a, b).value == pytest.approx(2.0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(60), rng.standard_normal(50) + 1
    out = energy_distance(x[:, None], y[:, None]).value
    # scipy's is the root of the biased estimate, in which a point also meets itself.
    within = [np.abs(v[:, None] - v).sum() / len(v) ** 2 / (len(v) - 1) for v in (x, y)]
    assert out + sum(within) == pytest.approx(scipy.stats.energy_distance(x, y) ** 2, rel=1e-10)


def test_energy_distance_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    values = [energy_distance(*rng.standard_normal((2, 20, 2))).value for _ in range(300)]
    assert abs(np.mean(values)) < 5 * np.std(values) / np.sqrt(300)


def test_mmd_by_hand() -> None:
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [4.0]])

    def kernel(d: float) -> float:
        return float(np.exp(-(d**2) / (2 * 3**2)))

    cross = sum(kernel(d) for d in (2, 4, 1, 3)) / 4
    expected = kernel(1) + kernel(2) - 2 * cross
    assert mmd(a, b, bandwidth=3).value == pytest.approx(expected, rel=1e-12)
    # The only distance within b is 2.
    assert mmd(a, b).value == mmd(a, b, bandwidth=2).value


def test_mmd_of_gaussians_in_closed_form_and_unbiased() -> None:
    rng = np.random.default_rng(0)
    h, shift = 1.5, 1.0

    def mean_kernel(distance: float) -> float:
        # E exp(-(x - y)^2 / 2 h^2), x - y from N(distance, 2).
        return float(h / np.sqrt(h**2 + 2) * np.exp(-(distance**2) / (2 * (h**2 + 2))))

    for by in (0.0, shift):
        expected = 2 * mean_kernel(0) - 2 * mean_kernel(by)
        values = [
            mmd(rng.standard_normal((30, 1)), by + rng.standard_normal((20, 1)), bandwidth=h).value
            for _ in range(300)
        ]
        assert abs(np.mean(values) - expected) < 5 * np.std(values) / np.sqrt(300)


def test_whole_weights_are_copies() -> None:
    """Weighted statistics of means and quantiles are those of the set with its copies."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((9, 3)) + 0.5
    w, v = rng.multinomial(12, np.full(12, 1 / 12)), rng.multinomial(9, np.full(9, 1 / 9))
    copies = np.repeat(x, w, axis=0), np.repeat(y, v, axis=0)
    weights = w.astype(float), v.astype(float)
    expected = frechet_distance(*copies).value
    assert weighted_frechet(x, y, *weights) == pytest.approx(expected, rel=1e-9)
    for order in (1, 2):
        expected = sliced_wasserstein(*copies, order=order, projections=30, seed=2).value
        found = Slices(x, y, 30, 2).distance(*weights, order)
        assert found == pytest.approx(expected, rel=1e-12)
    values = rng.standard_normal((12, 9))
    expected = values[np.repeat(np.arange(12), w)][:, np.repeat(np.arange(9), v)].mean()
    assert between(values, weights[0][None], weights[1][None]) == pytest.approx(expected)


def test_copies_are_no_pairs() -> None:
    values = np.array([[0.0, 2.0, 4.0], [2.0, 0.0, 6.0], [4.0, 6.0, 0.0]])
    # Weights 2, 1, 0: the pairs left are the first with the second, twice, either way round.
    assert within(values, np.array([[2.0, 1.0, 0.0]])) == pytest.approx(2.0)
    assert within(values, np.ones((1, 3))) == pytest.approx(4.0)


@pytest.mark.parametrize("metric", SYMMETRIC)
def test_symmetry_and_types(metric: object) -> None:
    a, b = torch.randn(12, 1, 3, 3), torch.randn(9, 1, 3, 3) + 1
    value = metric(a, b).value  # type: ignore[operator]
    assert value == pytest.approx(metric(b, a).value, rel=1e-9)  # type: ignore[operator]
    assert value == metric(a.numpy(), b.numpy()).value  # type: ignore[operator]
    assert value > 0
    half = metric(a.bfloat16().requires_grad_(), b).value  # type: ignore[operator]
    assert half == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize("metric", METRICS)
def test_bad_input(metric: object) -> None:
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="different shapes"):
        metric(x, torch.randn(5, 3))  # type: ignore[operator]
    with pytest.raises(ValueError, match="different shapes"):
        metric(torch.randn(5, 2, 3), torch.randn(5, 3, 2))  # type: ignore[operator]
    with pytest.raises(ValueError, match="at least"):
        metric(x[:0], x)  # type: ignore[operator]
    bad = x.clone()
    bad[2] = torch.inf
    with pytest.raises(ValueError, match="b: 1 of 5 samples are not finite"):
        metric(x, bad)  # type: ignore[operator]


def test_bad_arguments() -> None:
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="order = 3"):
        sliced_wasserstein(x, x, order=3)
    with pytest.raises(ValueError, match="projections = 0"):
        sliced_wasserstein(x, x, projections=0)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match="bandwidth = 0"):
        mmd(x, torch.zeros(5, 2))
    with pytest.raises(ValueError, match="bandwidth = -1"):
        mmd(x, x, bandwidth=-1)
