"""Runge-Kutta methods: orders of convergence, and agreement with torchdiffeq."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchdiffeq

from solvers import I, odeint
from solvers.tableau import TABLEAUS
from tests.problems import RICCATI, ROTATION, Problem

# Numbers of steps on which the error lies between the rounding and the pre-asymptotic regime.
STEPS = {1: (64, 1024), 2: (32, 512), 3: (32, 512), 4: (16, 256), 5: (64, 160), 8: (6, 24)}


def slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


@pytest.mark.parametrize(
    ("method", "problem"),
    # Order 8 reaches the rounding before its error settles on the nonlinear problem.
    [(method, RICCATI) for method in TABLEAUS if method != "dopri8"]
    + [(method, ROTATION) for method in TABLEAUS],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.5), (1.5, 0.0)])
def test_order_of_convergence(method: str, problem: Problem, t0: float, t1: float) -> None:
    y0 = torch.tensor([[0.5, 1.0], [0.3, 0.4]], dtype=torch.float64)
    y0 = problem.exact(0.0, y0, t0)
    order = TABLEAUS[method].order
    low, high = STEPS[order]
    sizes, errors = [], []
    for steps in np.unique(np.geomspace(low, high, 7).astype(int)):
        end = odeint(problem.field, y0, t0, t1, method=method, dt=1.5 / int(steps)).y
        sizes.append(1.5 / steps)
        errors.append((end - problem.exact(t0, y0, t1)).abs().max().item())
    assert min(errors) > 1e-14  # else rounding would be fitted
    assert slope(sizes, errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("method", [name for name in TABLEAUS if TABLEAUS[name].order <= 4])
@pytest.mark.parametrize("breaks", [(), (0.77,)])
def test_states_between_the_steps_keep_the_order(method: str, breaks: tuple[float, ...]) -> None:
    y0 = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    times = np.linspace(0.03, 1.47, 17)
    order = TABLEAUS[method].order
    sizes, errors = [], []
    for steps in (16, 32, 64, 128):
        solution = odeint(
            ROTATION.field, y0, 0, 1.5, method=method, dt=1.5 / steps, trajectory=times,
            breaks=breaks, dense=True,
        )  # fmt: skip
        assert solution.trajectory is not None
        assert solution.interpolant is not None
        exact = torch.stack([ROTATION.exact(0.0, y0, float(t)) for t in times])
        again = torch.stack([solution.interpolant(float(t)) for t in times])
        torch.testing.assert_close(solution.trajectory, again, rtol=0, atol=1e-14)
        sizes.append(1.5 / steps)
        errors.append((solution.trajectory - exact).abs().max().item())
    assert slope(sizes, errors) > order - 0.25


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3"])
def test_dense_output_is_as_good_as_the_steps(method: str) -> None:
    y0 = torch.tensor([[0.5, 1.0], [2.0, -1.0]], dtype=torch.float64)
    times = np.linspace(1.0, 0.0, 41)
    solution = odeint(
        ROTATION.field, y0, 1.0, 0.0, method=method, rtol=1e-8, atol=1e-8, trajectory=times
    )
    assert solution.trajectory is not None
    exact = torch.stack([ROTATION.exact(1.0, y0, float(t)) for t in times])
    # Local errors below 1e-8 |y| add up over some tens of steps; 1e-6 catches a wrong polynomial.
    torch.testing.assert_close(solution.trajectory, exact, rtol=0, atol=1e-6)
    assert torch.equal(solution.trajectory[0], y0)
    assert torch.equal(solution.trajectory[-1], solution.y)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2")]
)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_fixed_grids_agree_with_torchdiffeq(ours: str, theirs: str, t0: float, t1: float) -> None:
    y0 = torch.rand(5, 2, dtype=torch.float64)
    grid = t0 + (t1 - t0) * np.linspace(0, 1, 21) ** 2
    times = torch.from_numpy(grid)
    reference = torchdiffeq.odeint(
        lambda t, y: ROTATION.field(t.expand(5), y), y0, times, method=theirs
    )
    end = odeint(ROTATION.field, y0, t0, t1, method=ours, grid=grid).y
    # 20 steps, each rounding a few times in another order.
    torch.testing.assert_close(end, reference[-1], rtol=1e-14, atol=1e-14)


def test_classical_rk4_is_not_the_three_eighths_rule() -> None:
    """torchdiffeq's "rk4" is the 3/8 rule: same order, other coefficients."""
    y0 = torch.rand(5, 2, dtype=torch.float64)
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    theirs = torchdiffeq.odeint(
        lambda t, y: ROTATION.field(t.expand(5), y), y0, times, method="rk4"
    )[-1]
    ours = odeint(ROTATION.field, y0, 0, 1, method="rk4", grid=times.numpy()).y
    exact = ROTATION.exact(0.0, y0, 1.0)
    assert 0 < (ours - theirs).abs().max() < 10 * (theirs - exact).abs().max()


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dopri8"])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 3.0), (3.0, 0.0)])
def test_a_single_sample_takes_torchdiffeqs_steps(method: str, t0: float, t1: float) -> None:
    """With an I controller and its factors, all steps but the last, which it takes too far."""
    y0 = torch.tensor([[0.5, 1.0]], dtype=torch.float64)

    class Recorded(torch.nn.Module):
        steps: list[tuple[float, float]]

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return ROTATION.field(t.expand(1), y)

        def callback_step(self, t: torch.Tensor, y: torch.Tensor, dt: torch.Tensor) -> None:
            self.steps.append((float(t), float(dt)))

    field = Recorded()
    field.steps = []
    ends = torch.tensor([t0, t1], dtype=torch.float64)
    torchdiffeq.odeint(field, y0, ends, method=method, rtol=1e-6, atol=1e-8)
    solution = odeint(
        ROTATION.field, y0, t0, t1, method=method, rtol=1e-6, atol=1e-8,
        controller=I(
            safety=0.9, min_factor=0.2, max_factor=10.0, shrink_accepted=False, grow_retried=True
        ),
    )  # fmt: skip
    t, dt = np.array(field.steps).T
    assert len(t) > 5
    assert len(solution.log) == len(t)
    # Error ratios are differences of nearly equal sums: eps / 1e-8 of them is rounding.
    np.testing.assert_allclose(solution.log.t, t, rtol=1e-5)
    np.testing.assert_allclose(np.abs(solution.log.dt[:-1]), dt[:-1], rtol=1e-5)
