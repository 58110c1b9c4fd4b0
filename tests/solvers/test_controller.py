"""Controllers against their formula, norms against theirs, the first step against its purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from solvers import PI, PID, ErrorNorm, I
from solvers.controller import first_step, rms

YES = np.array([True])


def factor(controller: PID, error: float, before: tuple[float, float] = (1.0, 1.0)) -> float:
    history = np.array([np.log(before[0]), np.log(before[1]), 0.0])[:, None]
    return float(controller.factors(np.array([error]), np.array([error <= 1]), history, 5)[0])


@pytest.mark.parametrize("error", [1e-3, 0.3, 1.0])
@pytest.mark.parametrize("before", [(1.0, 1.0), (0.5, 0.2)])
@pytest.mark.parametrize("gains", [(0.0, 1.0, 0.0), (0.2, 0.7, 0.0), (0.3, 0.4, 0.1)])
def test_accepted_steps_follow_the_formula(
    error: float, before: tuple[float, float], gains: tuple[float, float, float]
) -> None:
    p, i, d = gains
    suggested = 0.9 * (
        error ** -(p + i + d) * before[0] ** (p + 2 * d) * before[1] ** -d
    ) ** (1 / 5)  # fmt: skip
    assert factor(PID(p, i, d), error, before) == pytest.approx(min(suggested, 10), rel=1e-14)


@pytest.mark.parametrize("controller", [I(), PI(), PID()], ids=lambda c: c.name)
def test_rejected_steps_shrink_by_the_last_error_alone(controller: PID) -> None:
    for before in ((1.0, 1.0), (1e-3, 0.5)):
        assert factor(controller, 2.0, before) == pytest.approx(0.9 * 2 ** (-1 / 5))
    assert factor(controller, 1e9) == controller.min_factor
    assert factor(controller, float("nan")) == controller.min_factor
    assert factor(controller, float("inf")) == controller.min_factor
    assert factor(controller, 0.0) == controller.max_factor


def test_limits_are_arguments() -> None:
    assert factor(PI(max_factor=3.0), 0.0) == 3.0
    assert factor(PI(min_factor=0.5), 1e9) == 0.5
    assert factor(I(safety=0.5), 1.0) == 0.5
    assert factor(I(safety=0.5, shrink_accepted=False), 1.0) == 1.0
    assert factor(I(shrink_accepted=False), 32.0) == pytest.approx(0.9 / 2)


def test_history_is_that_of_accepted_steps_only() -> None:
    history = np.zeros((3, 3))
    error = np.array([0.5, 2.0, np.nan])
    PID().factors(error, error <= 1, history, 5)
    np.testing.assert_array_equal(history[0], [np.log(0.5), 0, 0])
    error = np.array([0.25, 0.125, 0.5])
    PID().factors(error, error <= 1, history, 5)
    np.testing.assert_array_equal(history[0], np.log(error))
    np.testing.assert_array_equal(history[1], [np.log(0.5), 0, 0])


def test_steps_that_were_far_too_short_do_not_hold_back_the_next() -> None:
    history = np.zeros((3, 1))
    PI().factors(np.array([0.0]), YES, history, 5)
    np.testing.assert_allclose(history[0], np.log(1e-4))
    assert PI().factors(np.array([0.0]), YES, history, 5) == 10


def test_a_step_that_was_retried_does_not_grow_at_once() -> None:
    for controller, grown in ((PI(), 1.0), (PI(grow_retried=True), 10.0)):
        history = np.zeros((3, 1))
        controller.factors(np.array([2.0]), ~YES, history, 5)
        assert controller.factors(np.array([1e-9]), YES, history, 5) == grown
        assert controller.factors(np.array([1e-9]), YES, history, 5) > 1


def test_each_sample_may_have_an_order_of_its_own() -> None:
    factors = I().factors(np.full(2, 0.5), np.array([True, True]), np.zeros((3, 2)),
                          np.array([2.0, 5.0]))  # fmt: skip
    np.testing.assert_allclose(factors, 0.9 * 2 ** (1 / np.array([2.0, 5.0])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 8, 9, 100, 785])
def test_root_mean_square(size: int, dtype: torch.dtype, device: torch.device) -> None:
    y = torch.randn(6, size, dtype=dtype, device=device)
    expected = y.double().pow(2).mean(1).sqrt().cpu().numpy()
    # Folding adds log2(785) < 10 roundings of positive terms.
    np.testing.assert_allclose(rms(y.clone()), expected, rtol=10 * torch.finfo(dtype).eps)
    parts = np.concatenate([rms(y[i : i + 1].clone()) for i in range(6)])
    np.testing.assert_array_equal(parts, rms(y.clone()))


def test_norm_is_weighted_at_both_ends() -> None:
    y0, y1 = torch.full((1, 2), 3.0), torch.full((1, 2), -2.0)
    error = torch.full((1, 2), 0.5)
    norm = ErrorNorm(0.1, 0.2, weight=lambda t: 1 + t)
    ratio = norm(error, y0, y1, np.array([0.0]), np.array([4.0]))
    np.testing.assert_allclose(ratio, 5 * 0.5 / (0.2 + 0.1 * max(1 * 3, 5 * 2)), rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_norm_is_not_finite_where_anything_is_not(bad: float) -> None:
    norm, t = ErrorNorm(1e-3, 1e-3), np.zeros(2)
    fine = torch.zeros(2, 3)
    sick = fine.clone()
    sick[1, 2] = bad
    for error, y1 in ((sick, fine), (fine, sick)):
        ratio = norm(error, fine, y1, t, t)
        assert ratio[0] == 0
        assert not np.isfinite(ratio[1])


def test_first_step_is_short_enough_for_its_order_and_within_the_limit() -> None:
    y0 = torch.ones(3, 2, dtype=torch.float64)
    rate = torch.tensor([[1.0], [100.0], [0.0]], dtype=torch.float64)
    seen: list[np.ndarray] = []

    def field(t: np.ndarray, y: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return -rate * y

    limit = np.array([-1.0, -1.0, -1.0])
    t = np.ones(3)
    dt = first_step(ErrorNorm(1e-6, 1e-6), 5, t, limit, y0, field(t, y0), field)
    assert (dt > 0).all()
    assert (dt <= 1).all()
    # 100 times the rate: 1e4 times the second derivative, which the fifth root is taken of.
    assert dt[1] == pytest.approx(dt[0] * 1e4 ** (-1 / 5), rel=1e-9)
    assert (seen[-1] <= 1).all()
    assert (seen[-1] >= 0).all()
    short = first_step(ErrorNorm(1e-6, 1e-6), 5, t, limit * 1e-9, y0, field(t, y0), field)
    assert (short <= 1e-9).all()


def test_rounding_carries_no_probe_beyond_the_limit() -> None:
    """1 - (1 - end) is 0 for an end below half an ulp of 1, where a field may be singular."""
    y0 = torch.ones(4, 1, dtype=torch.float64)
    seen: list[np.ndarray] = []

    def probe(t: np.ndarray, y: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return 0.0 * y

    slow = torch.full((4, 1), 1e-3, dtype=torch.float64)  # the probe would go to the limit
    for end in (6e-209, 1e-17, 1e-3, 0.3):
        start = np.array([1.0, 2.0, 0.7, 1e6])
        first_step(ErrorNorm(1e-3, 1e-3), 5, start, end - start, y0, slow, probe)
        assert (seen[-1] >= end).all()
        first_step(ErrorNorm(1e-3, 1e-3), 5, -start, start - end, y0, slow, probe)
        assert (seen[-1] <= -end).all()


def test_first_step_is_usable_where_the_field_is_not_finite() -> None:
    y0 = torch.ones(2, 1)
    slope = torch.tensor([[torch.nan], [torch.inf]])
    dt = first_step(
        ErrorNorm(1e-3, 1e-3), 5, np.zeros(2), np.ones(2), y0, slope, lambda t, y: slope
    )
    assert np.isfinite(dt).all()
    assert (dt > 0).all()
