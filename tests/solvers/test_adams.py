"""Adams methods on a grid: exact weights for any measure, orders, costs, break points."""

import math

import numpy as np
import pytest
import torch

from solvers import Measure, adams_weights, methods, odeint
from tests.problems import DECAY, RICCATI, jump

ADAMS = [info for info in methods() if info.name.startswith("ab")]
EXPONENTIAL = Measure(np.exp, np.exp)


def y0(device: torch.device) -> torch.Tensor:
    return torch.tensor([[0.7], [1.3]], dtype=torch.float64, device=device)


def test_weights_integrate_polynomials_against_an_exponential() -> None:
    start, end = np.array([0.2, 1.0]), np.array([1.4, 0.1])
    nodes = np.array([[0.2, -0.3, -0.5], [1.0, 1.2, 2.0]])
    weights = adams_weights(EXPONENTIAL, start, end, nodes)

    def moments(t: np.ndarray) -> list[np.ndarray]:
        return [np.exp(t), np.exp(t) * (t - 1), np.exp(t) * (t * t - 2 * t + 2)]

    for power, (high, low) in enumerate(zip(moments(end), moments(start), strict=True)):
        # Weights of size up to 10: their rounding, twice over.
        assert np.allclose((weights * nodes**power).sum(1), high - low, rtol=0, atol=1e-13)


@pytest.mark.parametrize("info", ADAMS, ids=lambda info: info.name)
def test_order_on_equal_steps(info, device) -> None:
    errors = []
    for steps in (40, 80, 160):
        solution = odeint(
            RICCATI.field,
            y0(device),
            0.1,
            1.0,
            method=info.name,
            grid=np.linspace(0.1, 1, steps + 1),
        )
        assert solution.log.calls == steps
        errors.append(float((solution.y - RICCATI.exact(0.1, y0(device), 1.0)).abs().max()))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    if info.order < 3 and not info.name.startswith(("ab-3", "ab-4", "ab-5", "abm-2")):
        assert abs(orders[-1] - info.order) < 0.25
    else:
        # Of the first step and the others the error that falls faster may still be the larger.
        assert orders[-1] > info.order - 0.25


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("corrected", [False, True])
def test_full_order_where_the_first_steps_are_easy(k, corrected, device) -> None:
    # The rate (p + 1) t^p makes the errors of the first steps, of lower order, at most h^(p + 2).
    order = k + corrected
    p = 3 if order < 5 else 6
    errors = []
    for steps in (160, 320):
        grid = np.linspace(0.0, 1.0, steps + 1)
        name = f"ab{'m' * corrected}-{k}"
        solution = odeint(
            lambda t, y: -(p + 1) * (t[:, None] ** p).to(y) * y, y0(device), 0.0, 1.0, method=name,
            grid=grid,
        )  # fmt: skip
        errors.append(float((solution.y - y0(device) * math.exp(-1.0)).abs().max()))
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.25


def test_one_step_is_exact_for_a_constant_field(device) -> None:
    solution = odeint(
        lambda t, y: torch.ones_like(y), y0(device), 0.0, 2.0, method="ab-1", grid=[0.0, 2.0],
        measure=EXPONENTIAL,
    )  # fmt: skip
    assert torch.equal(solution.y, y0(device) + (math.exp(2.0) - 1.0))


def test_break_points_begin_anew(device) -> None:
    problem = jump(0.5)
    seen = []

    def field(t, y):
        seen.extend(t.tolist())
        return problem.field(t, y)

    grid = np.linspace(0, 1, 8)  # 0.5 is no point of it
    solution = odeint(field, y0(device), 0.0, 1.0, method="abm-3", grid=grid, breaks=(0.5,))
    # Constant on both sides: nothing but rounding is left, if no slope crosses the break.
    assert torch.allclose(solution.y, problem.exact(0.0, y0(device), 1.0), rtol=0, atol=1e-15)
    assert 0.0 <= min(seen) <= max(seen) < 1.0


def test_trajectory_and_failures(device) -> None:
    grid = np.linspace(0, 1, 41)
    points = [0.33, 0.77]
    solution = odeint(
        DECAY.field, y0(device), 0.0, 1.0, method="abm-3", grid=grid, trajectory=points
    )
    for state, t in zip(solution.trajectory, points, strict=True):
        # The first step, a trapezoidal one that was predicted, is off by h^3/12 + h^3/4 at most.
        atol = 1.3 * (1 / 40) ** 3 / 3
        assert torch.allclose(state, DECAY.exact(0.0, y0(device), t), rtol=0, atol=atol)

    def broken(t, y):
        bad = torch.where((t > 0.5)[:, None] & (y[:, :1].cpu() > 0.5), math.nan, 0.0)
        return -y + bad.to(y)

    alone = odeint(DECAY.field, y0(device)[:1], 0.0, 1.0, method="ab-3", grid=grid)
    solution = odeint(broken, y0(device), 0.0, 1.0, method="ab-3", grid=grid, on_failure="return")
    assert solution.ok.tolist() == [True, False]
    assert torch.equal(solution.y[0], alone.y[0])


def test_needs_a_grid(device) -> None:
    with pytest.raises(ValueError, match="give dt or grid"):
        odeint(DECAY.field, y0(device), 0.0, 1.0, method="abm-4")


@pytest.mark.parametrize("method", ["abm-4", "ab-3", "abm-3-published", "abm-4-two-forms"])
@pytest.mark.parametrize("ulps", [-3, -1, 0, 1, 3])
def test_a_break_point_beside_a_grid_point(method: str, ulps: int, device) -> None:
    """They are one: a step of some ulps would divide rounding errors by its length."""
    at = 0.5 + ulps * np.spacing(0.5)
    y = torch.tensor([[0.7], [1.3]], dtype=torch.float32, device=device)

    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -y + (t > at).to(y)[:, None]

    solution = odeint(field, y, 0.0, 1.0, method=method, grid=np.linspace(0, 1, 41), breaks=[at])
    exact = y * math.exp(-1) + 1 - math.exp(-0.5)
    # The last step before the jump and that at the end have one node: h^2 / 2 each, at most.
    assert torch.allclose(solution.y, exact, rtol=0, atol=1.3 * (1 / 40) ** 2)
    assert solution.log.calls == 40


def test_a_graded_grid_keeps_its_points(device) -> None:
    """Points near a break point by design are as near to each other."""
    grid = np.r_[0, 0.5 - 1e-3 * 0.5 ** np.arange(8), 0.5, 1.0]
    solution = odeint(DECAY.field, y0(device), 0.0, 1.0, method="ab-2", grid=grid, breaks=[0.5])
    assert solution.log.calls == len(grid) - 1
