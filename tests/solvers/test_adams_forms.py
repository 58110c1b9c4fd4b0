"""Two forms of one equation on a shared grid, against exact solutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from solvers import Gauge, Measure, odeint
from solvers.controller import column


def growth(rate: float) -> Measure:
    """u' = N with, beside it, v = e^(-rate t) u: dv = (N - rate u) e^(-rate t) dt."""

    def decay(t: np.ndarray) -> np.ndarray:
        return np.exp(-rate * t)

    gauge = Gauge(decay, np.ones_like, lambda t: np.full_like(t, -rate), decay)
    return Measure(lambda t: t, np.ones_like, gauge=gauge)


def starts(batch: int = 4, device: torch.device | str = "cpu") -> Tensor:
    draw = torch.Generator().manual_seed(3)
    y = torch.randn(batch, 2, generator=draw, dtype=torch.float64)
    return y.to(device, torch.float32 if str(device).startswith("mps") else torch.float64)


def fast_growth(t: Tensor, y: Tensor) -> Tensor:
    return 5 * y + torch.cos(column(t.numpy(), y))


def grown(y0: Tensor, t: float) -> Tensor:
    """u = a e^(5 t) + (sin t - 5 cos t) / 26."""
    return (y0 + 5 / 26) * math.exp(5 * t) + (math.sin(t) - 5 * math.cos(t)) / 26


def error(method: str, steps: int, measure: Measure) -> float:
    y0, grid = starts(), np.linspace(0, 2, steps + 1)
    solution = odeint(fast_growth, y0, 0, 2, method=method, grid=grid, measure=measure)
    return float(((solution.y - grown(y0, 2)) / grown(y0, 2)).abs().max())


def test_the_better_form_is_found() -> None:
    """M = cos t is smooth where N grows like e^(5 t): after the first steps M alone is used."""
    # The first step has the worse form still: its error, h^2, is most of what is left.
    one, two = (error(method, 20, growth(5)) for method in ("abm-4-falling", "abm-4-two-forms"))
    assert two < 0.2 * one


def test_the_first_form_is_kept_where_it_is_better() -> None:
    """N = cos t is a quadrature; M = N - 5 u is not."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(column(t.numpy(), y)).expand_as(y)

    grid = np.linspace(0, 2, 16)
    solutions = [
        odeint(field, starts(), 0, 2, method=method, grid=grid, measure=growth(5))
        for method in ("abm-4-falling", "abm-4-two-forms")
    ]
    assert torch.equal(solutions[0].y, solutions[1].y)


def test_without_a_second_form_it_is_the_usual_method() -> None:
    grid = np.linspace(0, 2, 16)
    for measure in (None, Measure(np.exp, np.exp, lambda t: t * t)):
        one, two = (
            odeint(fast_growth, starts(), 0, 2, method=method, grid=grid, measure=measure)
            for method in ("abm-4-falling", "abm-4-two-forms")
        )
        assert torch.equal(one.y, two.y)


def test_order() -> None:
    """Two, for the last step has one node; u' = cos t - u, and v = e^t u."""

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.cos(column(t.numpy(), y)) - y

    y0, steps, errors = starts(), [40, 80, 160, 320], []
    # u = a e^(-t) + (cos t + sin t) / 2.
    exact = (y0 - 0.5) * math.exp(-2) + (math.cos(2) + math.sin(2)) / 2
    for n in steps:
        grid = np.linspace(0, 2, n + 1)
        solution = odeint(field, y0, 0, 2, method="abm-4-two-forms", grid=grid, measure=growth(-1))
        errors.append(float((solution.y - exact).abs().max()))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope == pytest.approx(2, abs=0.25)


def test_batch_order_and_failures_change_nothing() -> None:
    """A sample alone, among others, reversed, and beside one that fails: the same bits."""
    grid, measure = np.linspace(0, 2, 16), growth(5)

    def run(y0: Tensor, fails: int = -1) -> Tensor:
        def field(t: Tensor, y: Tensor, sample: Tensor) -> Tensor:
            bad = (column(t.numpy(), y) > 1) & (
                sample[:, None] == (-1 if fails is None else fails)
            )
            return torch.where(bad, math.nan, fast_growth(t, y))

        return odeint(
            field, y0, 0, 2, method="abm-4-two-forms", grid=grid, measure=measure,
            on_failure="return", args=(torch.arange(len(y0)),),
        ).y  # fmt: skip

    y0 = starts()
    together = run(y0)
    assert torch.equal(run(y0.flip(0)), together.flip(0))
    assert torch.equal(torch.cat([run(y0[i : i + 1]) for i in range(4)]), together)
    assert torch.equal(run(y0, fails=2)[[0, 1, 3]], together[[0, 1, 3]])


def test_a_break_point_is_a_new_start(device) -> None:
    """Behind a jump of the field nothing is remembered: the same as beginning there."""
    measure, y0 = growth(5), starts(device=device)

    def jumps(t: Tensor, y: Tensor) -> Tensor:
        after = column((t.numpy() > 1).astype(np.float64), y)
        return 5 * y + torch.cos(column(t.numpy(), y)) + 3 * after

    how = {"method": "abm-4-two-forms", "measure": measure}
    grid = np.linspace(0, 2, 21)
    whole = odeint(jumps, y0, 0, 2, grid=grid, breaks=[1.0], trajectory=[1.0], **how)
    half = whole.trajectory[0]
    behind = float(np.nextafter(1.0, 2.0))
    rest = odeint(jumps, half, behind, 2, grid=np.r_[behind, np.linspace(1.1, 2, 10)], **how).y
    # The grids differ in their last bits.
    bits = torch.finfo(y0.dtype).eps
    assert torch.allclose(whole.y, rest, rtol=2e3 * bits, atol=0)


def test_states_without_a_shape_of_their_own() -> None:
    """States (B,) are states (B, 1)."""
    y0, grid = starts()[:, 0], np.linspace(0, 2, 16)
    one, two = (
        odeint(fast_growth, y, 0, 2, method="abm-4-two-forms", grid=grid, measure=growth(5)).y
        for y in (y0, y0[:, None])
    )
    assert torch.equal(one, two[:, 0])
