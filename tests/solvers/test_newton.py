"""Newton's polynomials: exact weights, differences, the same numbers on any path to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from solvers import ErrorNorm, Gauge, Measure, newton, odeint
from solvers.newton import Differences, NewtonIntegrals
from tests.problems import RICCATI


def ratio_measure(variance: float) -> Measure:
    """In log-SNR: the measure atan(rho / sqrt v) / sqrt v, polynomials in log(rho + 0.03)."""
    root = math.sqrt(variance)
    return Measure(
        lambda t: np.arctan(np.exp(-t) / root) / root,
        lambda t: -np.exp(-t) / (variance + np.exp(-2 * t)),
        lambda t: np.log(np.exp(-t) + 0.03),
    )


@pytest.mark.parametrize("begin", [-5.0, -1.0, 0.5, 4.0])
def test_weights_are_exact_to_rounding_over_a_step_of_one(begin: float) -> None:
    measure = ratio_measure(0.4)
    t0, t1 = np.array([begin]), np.array([begin + 1.0])
    nodes = measure.clock(begin - np.array([[0.0], [0.4], [1.1], [1.5]]))
    integrals = NewtonIntegrals(measure.clock, [measure.density], orders=4)
    table = integrals(t0, t1, nodes, measure.clock(t1))
    found, spans = table[:, 0, 0], table[:, 1, 0]
    # The reference: the same integrals by forty pieces of sixty points each.
    x, w = np.polynomial.legendre.leggauss(60)
    ends = np.linspace(begin, begin + 1.0, 41)
    t = (ends[:-1, None] + (x + 1) / 80).ravel()
    weight = np.tile(w / 80, 40) * measure.density(t)
    omega = np.ones_like(t)
    for j in range(5):
        # Relative to the integral of the absolute value, twelve points leave rounding only.
        assert abs(found[j] - (omega * weight).sum()) < 2e-14 * np.abs(omega * weight).sum()
        assert spans[j] == pytest.approx(np.prod(measure.clock(t1) - nodes[:j, 0]), rel=1e-15)
        if j < 4:
            omega = omega * (measure.clock(t) - nodes[j, 0])
    assert found[0] == pytest.approx(measure.mu(t1)[0] - measure.mu(t0)[0], rel=1e-14)


def test_weights_of_a_sample_are_its_own() -> None:
    measure = ratio_measure(0.1)
    rng = np.random.default_rng(0)
    t0 = rng.normal(size=9)
    t1 = t0 + rng.random(9)
    nodes = measure.clock(t0 - np.arange(4)[:, None] * 0.3)
    integrals = NewtonIntegrals(measure.clock, [measure.density, None], orders=4)
    together = integrals(t0, t1, nodes, measure.clock(t1))
    for i in range(9):
        one = slice(i, i + 1)
        alone = integrals(t0[one], t1[one], nodes[:, one], measure.clock(t1[one]))
        np.testing.assert_array_equal(alone[..., 0], together[..., i])


def test_differences_of_a_cubic(device: torch.device) -> None:
    """At nodes 0, 1, 2, 3, 4 a cubic has D_j of its own, and none of order 4."""
    nodes = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    values = nodes**3 - 2 * nodes
    # Integers: every operation is exact. Newest first, the table of divided differences.
    y = torch.zeros(1, 1, dtype=torch.float64, device=device)
    differences = Differences(y, 3, 1)
    differences.begin(np.array([0]), y + float(values[0]), y, None)
    spans = np.array([1.0, 1.0, 1.0, 1.0])
    for i in range(1, 5):
        gaps = [nodes[i] - nodes[i - j] if j <= i else 1.0 for j in range(1, 4)]
        new = np.cumprod([1.0, *gaps])
        table = np.stack([np.zeros(3), new[:-1] / spans[:-1]], 1)[:, :, None]
        differences.predict(y, table, None)
        differences.correct(y + float(values[i]), np.ones(1), np.array([0]), None)
        norm = ErrorNorm(0.0, 1.0)
        sizes = differences.sizes(norm, None, None)[:, 0, 0]
        differences.accept(None)
        spans = new
    # Of t^3 - 2 t at 4, 3, 2, 1: first 35, second 9, third 1, times the spans 1, 2, 6.
    assert differences.newest().item() == values[4]
    np.testing.assert_array_equal(sizes, [35.0, 18.0, 6.0])


def test_both_kinds_of_arrays_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    # In float32 torch's running sums are of float64.
    y0 = 0.2 + 0.4 * torch.rand(7, 3, 5, dtype=torch.float64)
    gauge = Gauge(lambda t: np.exp(t), lambda t: np.exp(t), lambda t: np.exp(t), np.ones_like)
    measure = Measure(lambda t: t, np.ones_like, np.exp, gauge)
    ways: list[dict[str, object]] = [
        {"rtol": 1e-4, "atol": 1e-5, "weight": lambda t: 1 + t * t},
        {"rtol": 1e-4, "atol": 1e-5, "measure": measure, "breaks": (0.5,), "dense": True},
        {"grid": np.linspace(0, 2, 9)},
        {"rtol": 1e-9, "atol": 1e-1, "first_step": 2.0},  # rejected once at least
    ]
    for how in ways:
        solutions = []
        for on_host in (True, False):
            monkeypatch.setattr(newton, "_on_host", lambda y, on_host=on_host: on_host)
            solutions.append(odeint(RICCATI.field, y0, 0, 2, method="adams", **how))
        host, device = solutions
        assert torch.equal(host.y, device.y)
        np.testing.assert_array_equal(host.log.dt, device.log.dt)
        np.testing.assert_array_equal(host.log.error, device.log.error)


@pytest.mark.parametrize("size", [4, 2000])
def test_sizes_of_wide_states(size: int) -> None:
    """Beyond a thousand elements one order is compared at a time."""
    y = torch.zeros(3, size, dtype=torch.float64)
    differences = Differences(y, 2, 1)
    differences.begin(np.arange(3), y + 1.0, y, None)
    table = np.ones((2, 2, 3))
    guess = differences.predict(y, table, None)
    assert torch.equal(guess, y + 1.0)
    y1 = differences.correct(y + 4.0, np.full(3, 0.5), np.arange(3) + 3, None)
    # E_0 = 4, E_1 = 4 - 1, E_2 = 4 - 1 - 0; y_1 = 1 + E_1 / 2; tolerance 1 + 2.5.
    assert torch.equal(y1, y + 2.5)
    sizes = differences.sizes(ErrorNorm(1.0, 1.0), None, None)
    np.testing.assert_allclose(sizes, np.full((2, 1, 3), 3 / 3.5), rtol=1e-15)


def test_samples_that_are_rejected_keep_their_differences() -> None:
    y = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    differences = Differences(y, 2, 1)
    differences.begin(np.arange(3), y, y, None)
    differences.predict(y, np.ones((2, 2, 3)), None)
    differences.correct(y + 10.0, np.zeros(3), np.arange(3), None)
    differences.accept(np.array([True, False, True]))
    assert torch.equal(differences.newest(), y + torch.tensor([[10.0], [0.0], [10.0]]))
    differences.select(np.array([1, 2]))
    assert torch.equal(differences.newest(), y[1:] + torch.tensor([[0.0], [10.0]]))
