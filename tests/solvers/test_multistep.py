"""Adams methods of variable step and order: weights, orders, control, forms, closing steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from solvers import PI, Gauge, Measure, Status, odeint
from tests.problems import CONSTANT, DECAY, RICCATI, ROTATION, ZERO, Problem, column, jump, stiff

Field = Callable[..., Tensor]


def start(batch: int = 8, size: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return 0.2 + 0.4 * torch.rand(batch, size, generator=generator, dtype=dtype)


def easy(t: Tensor, y: Tensor) -> Tensor:
    """A rate that vanishes at 0 to such an order that the first, low-order steps do no harm."""
    return -8 * column(t, y) ** 7 * y


@pytest.mark.parametrize("power", [0, 1, 2, 3])
def test_polynomials_in_the_clock_are_integrated_exactly(power: int) -> None:
    """N = c^power against dmu = e^t dt with c = e^t: u(t) = e^((power + 1) t) / (power + 1)."""
    measure = Measure(np.exp, np.exp, np.exp)
    # The low orders at the start see steps so short that they leave nothing but rounding.
    grid = np.concatenate([-12 + np.linspace(0, 1e-3, 6), np.linspace(-10.5, 0.0, 15)])
    solution = odeint(
        lambda t, y: torch.exp(power * column(t, y)).expand_as(y),
        torch.zeros(2, 1, dtype=torch.float64),
        float(grid[0]),
        0.0,
        method="adams",
        grid=grid,
        measure=measure,
    )
    exact = (1 - math.exp((power + 1) * grid[0])) / (power + 1)
    # The last step is a predicted one, of four nodes. The first nodes lie close together and far
    # from where the polynomial is needed, which costs some digits.
    assert solution.y[0, 0].item() == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("direction", [1, -1])
def test_order_where_the_first_steps_are_easy(direction: int) -> None:
    errors = []
    y0 = start(2, 2)
    for steps in (200, 400):
        grid = np.linspace(0.0, 1.0, steps + 1) * direction
        field: Field = easy if direction > 0 else (lambda t, y: -easy(-t, y))
        solution = odeint(field, y0, 0.0, float(direction), method="adams", grid=grid)
        errors.append((solution.y - y0 * math.exp(-1)).abs().max().item())
        assert solution.log.calls == steps
    assert abs(math.log2(errors[0] / errors[1]) - 5) < 0.25


@pytest.mark.parametrize(
    "problem", [DECAY, RICCATI, ROTATION, ZERO, CONSTANT], ids=lambda p: p.name
)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (-0.5, 0.7)])
@pytest.mark.parametrize("controller", [None, PI()], ids=["own", "pi"])
def test_adaptive_solutions(
    problem: Problem, t0: float, t1: float, controller: PI | None, device: torch.device
) -> None:
    y0 = start(5, 2, torch.float32).to(device)
    solution = odeint(
        problem.field, y0, t0, t1, method="adams", rtol=1e-4, atol=1e-4, controller=controller
    )
    assert solution.y.dtype is torch.float32
    assert solution.y.device.type == device.type
    assert (solution.t == t1).all()
    # Some tens of steps, each accepted at up to six times 1e-4 (1 + |y|) but off by a tenth.
    torch.testing.assert_close(solution.y, problem.exact(t0, y0, t1), rtol=2e-3, atol=2e-3)


def test_error_follows_the_tolerance() -> None:
    y0, errors = start(), []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        solution = odeint(
            RICCATI.field, y0, 0, 2, method="adams", rtol=tolerance, atol=tolerance,
        )  # fmt: skip
        errors.append((solution.y - RICCATI.exact(0, y0, 2)).abs().max().item())
        assert errors[-1] < 5 * tolerance
    assert errors == sorted(errors, reverse=True)
    # One evaluation a step: dopri5 takes several times as many.
    other = odeint(RICCATI.field, y0, 0, 2, rtol=1e-9, atol=1e-9)
    assert solution.log.calls < 0.65 * other.log.calls


def test_stiff_relaxation_stays_accurate() -> None:
    problem, y0 = stiff(300.0), start(4, 2)
    solution = odeint(problem.field, y0, 0, 1, method="adams", rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(solution.y, problem.exact(0, y0, 1), rtol=0, atol=2e-4)


@pytest.mark.parametrize("closing", [True, False])
def test_one_evaluation_a_step_and_none_at_a_quiet_end(closing: bool) -> None:
    counts = np.zeros(6, int)

    def field(t: Tensor, y: Tensor, sample: Tensor) -> Tensor:
        counts[sample.numpy()] += 1
        return RICCATI.field(t, y)

    y0 = start(6, 2)
    solution = odeint(
        field, y0, 0, 2, method="adams", rtol=1e-6, atol=1e-6, args=(torch.arange(6),),
        dense=not closing,
    )  # fmt: skip
    log = solution.log
    np.testing.assert_array_equal(log.evaluations, counts)
    np.testing.assert_array_equal(np.bincount(log.sample, log.stages, 6), counts)
    # The start and the probe that finds the first step, then one each; the last may be spared.
    attempts = np.bincount(log.sample, minlength=6)
    spared = attempts + 2 - counts
    assert set(spared) <= ({0, 1} if closing else {0})
    assert not closing or spared.sum() > 0
    assert log.accepted.sum() + log.rejections.sum() == len(log.t)
    total = np.bincount(log.sample[log.accepted], log.dt[log.accepted], 6)
    np.testing.assert_allclose(total, 2.0, rtol=1e-14)


def test_steps_and_results_do_not_depend_on_the_batch() -> None:
    y0 = start(9, 5, torch.float32)
    gauge = Gauge(lambda t: np.exp(t), lambda t: np.exp(t), lambda t: np.exp(t), np.ones_like)
    measure = Measure(lambda t: t, np.ones_like, np.exp, gauge)
    how: dict[str, object] = {"method": "adams", "rtol": 1e-4, "atol": 1e-5, "measure": measure}
    whole = odeint(RICCATI.field, y0, 0, 2, **how)
    order = torch.tensor([4, 0, 8, 2])
    some = odeint(RICCATI.field, y0[order], 0, 2, **how)
    assert torch.equal(some.y, whole.y[order])
    for i in (0, 5):
        alone = odeint(RICCATI.field, y0[i : i + 1], 0, 2, **how)
        assert torch.equal(alone.y[0], whole.y[i])
        mine = whole.log.sample == i
        np.testing.assert_array_equal(alone.log.dt, whole.log.dt[mine])
        np.testing.assert_array_equal(alone.log.error, whole.log.error[mine])
        np.testing.assert_array_equal(alone.log.order, whole.log.order[mine])


def test_samples_that_fail_leave_the_others_alone() -> None:
    y0 = start(64, 2)
    bad = torch.tensor([3, 17, 60])

    def field(t: Tensor, y: Tensor, sample: Tensor) -> Tensor:
        lost = (torch.isin(sample, bad) & (t > 0.5)).view(-1, 1)
        return torch.where(lost, torch.nan, RICCATI.field(t, y))

    solution = odeint(
        field, y0, 0, 1, method="adams", args=(torch.arange(64),), on_failure="return"
    )
    assert np.flatnonzero(solution.status == Status.non_finite).tolist() == bad.tolist()
    assert (solution.t[bad.numpy()] <= 0.5).all()
    good = solution.ok
    clean = odeint(RICCATI.field, y0, 0, 1, method="adams")
    assert torch.equal(solution.y[good], clean.y[good])


def test_an_infinite_state_is_no_success() -> None:
    solution = odeint(
        lambda t, y: torch.full_like(y, 1e38), torch.full((2, 2), 3e38), 0, 10, method="adams",
        on_failure="return", max_evaluations=200,
    )  # fmt: skip
    assert not solution.ok.any()
    assert np.isfinite(solution.y.numpy()).all()


@pytest.mark.parametrize("fixed", [False, True])
def test_nothing_is_remembered_behind_a_break_point(fixed: bool) -> None:
    problem, seen = jump(0.5), []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.extend(t.tolist())
        return problem.field(t, y)

    y0 = start(3, 2)
    grid = np.linspace(0, 1, 8) if fixed else None
    solution = odeint(field, y0, 0, 1, method="adams", grid=grid, breaks=(0.5,))
    # Constant on either side: no difference across the jump, so nothing but rounding is left.
    torch.testing.assert_close(solution.y, problem.exact(0, y0, 1), rtol=0, atol=1e-14)
    assert solution.log.rejections.sum() == 0
    assert 0.5 not in seen
    ends = np.asarray(solution.log.t + solution.log.dt)
    assert (np.abs(ends - 0.5) < 1e-15).sum() == 3


def test_the_better_form_is_found() -> None:
    """u' = 5 u + cos t: with v = e^(-5 t) u it is a quadrature; its M is smooth, N is not."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return 5 * y + torch.cos(column(t, y))

    def decay(t: np.ndarray) -> np.ndarray:
        return np.exp(-5 * t)

    # dv = e^(-5t) (N - 5 u) dt, taken as M dnu with nu = -e^(-5t) / 5 and M = N - 5 u.
    gauge = Gauge(decay, np.ones_like, lambda t: np.full_like(t, -5.0), decay)
    plain = Measure(lambda t: t, np.ones_like)
    both = Measure(lambda t: t, np.ones_like, gauge=gauge)
    y0 = start(4, 2)
    # u = a e^(5 t) + (sin t - 5 cos t) / 26.
    exact = (y0 + 5 / 26) * math.exp(10) + (math.sin(2) - 5 * math.cos(2)) / 26
    calls = []
    for measure in (plain, both):
        solution = odeint(
            field, y0, 0, 2, method="adams", rtol=1e-7, atol=1e-7, measure=measure,
        )  # fmt: skip
        # Errors made early grow like the solution: they stay relative.
        torch.testing.assert_close(solution.y, exact, rtol=1e-5, atol=0)
        calls.append(solution.log.calls)
    assert calls[1] < 0.6 * calls[0]


def test_no_step_is_longer_than_the_measure_allows() -> None:
    measure = Measure(lambda t: t, np.ones_like, longest=lambda t: 0.05 + 0.1 * np.abs(t))
    for t0, t1 in ((0.0, 2.0), (2.0, 0.0)):
        solution = odeint(
            CONSTANT.field, start(2, 2), t0, t1, method="adams", measure=measure, rtol=0.1
        )
        log = solution.log
        # A last step may be stretched by a hundredth.
        assert (np.abs(log.dt) <= 1.01 * (0.05 + 0.1 * np.abs(log.t))).all()
        assert np.abs(log.dt[log.sample == 0][0]) == pytest.approx(0.05 + 0.1 * t0)
        torch.testing.assert_close(solution.y, CONSTANT.exact(t0, start(2, 2), t1))


def test_weighted_errors_are_in_the_users_units() -> None:
    y0 = start(6, 2)
    how: dict[str, object] = {"method": "adams", "rtol": 1e-5, "atol": 1e-6}
    plain = odeint(RICCATI.field, y0, 0, 1, **how)
    scaled = odeint(
        lambda t, u: RICCATI.field(t, 1024 * u) / 1024, y0 / 1024, 0, 1,
        weight=lambda t: np.full(len(t), 1024.0), **how,
    )  # fmt: skip
    # A power of two scales without rounding.
    assert torch.equal(scaled.y * 1024, plain.y)
    np.testing.assert_array_equal(scaled.log.dt, plain.log.dt)


def test_between_the_steps() -> None:
    y0, points = start(4, 2), (0.25, 0.5, 1.1)
    solution = odeint(
        RICCATI.field, y0, 0, 1.5, method="adams", rtol=1e-7, atol=1e-7, trajectory=points,
        dense=True,
    )  # fmt: skip
    assert solution.trajectory is not None
    assert solution.interpolant is not None
    for state, t in zip(solution.trajectory, points, strict=True):
        # Cubic pieces between steps of some hundredths: h^4 / 384 times a derivative of some tens.
        torch.testing.assert_close(state, RICCATI.exact(0, y0, t), rtol=0, atol=1e-5)


def test_any_shape_and_half_precision() -> None:
    for shape in ((4,), (4, 0), (0, 2), (2, 3, 5)):
        y0 = torch.rand(shape)
        solution = odeint(DECAY.field, y0, 0, 1, method="adams")
        torch.testing.assert_close(solution.y, DECAY.exact(0, y0, 1), rtol=1e-4, atol=1e-4)
    y0 = torch.rand(3, 2).bfloat16()
    solution = odeint(DECAY.field, y0, 0, 1, method="adams", rtol=0.05, atol=0.05)
    assert solution.y.dtype is torch.bfloat16
    torch.testing.assert_close(solution.y, DECAY.exact(0, y0, 1), rtol=0.1, atol=0.1)
