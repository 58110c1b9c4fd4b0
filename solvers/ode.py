"""Ordinary differential equations `dy/dt = f(t, y)` of a batch of independent samples.

`odeint` joins a method (a stepper), a controller and the loop. Every sample has steps of its own,
is never evaluated outside [t0, t1], ends exactly at t1, and is never taken across a break point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from . import torchdiffeq_backend
from .controller import PI, Array, Controller, ErrorNorm, Weight, column, flat
from .dense import Interpolant, Piece, Recorder
from .lockstep import lockstep
from .log import StepLog
from .loop import adaptive
from .registry import Measure, MethodInfo, Problem, find, register
from .route import Outcome, Route, Run
from .runge_kutta import RungeKutta
from .solution import Solution, conclude
from .stepper import Evaluator, Field, Stepper
from .tableau import TABLEAUS, Tableau

__all__ = ["odeint"]


@torch.no_grad()
def odeint(
    field: Field,
    y0: Tensor,
    t0: float,
    t1: float,
    *,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    dt: float | None = None,
    grid: ArrayLike | None = None,
    controller: Controller | None = None,
    breaks: Sequence[float] = (),
    weight: Weight | None = None,
    first_step: float | ArrayLike | None = None,
    dt_min: float | None = None,
    max_evaluations: int = 10_000,
    args: Sequence[Tensor] = (),
    trajectory: ArrayLike | None = None,
    dense: bool = False,
    measure: Measure | None = None,
    on_failure: Literal["raise", "return"] = "raise",
) -> Solution:
    """Integrate a batch of ordinary differential equations, every sample with its own steps.

    Args:
        field: `field(t, y, *args) -> dy/dt`; t a float64 host tensor (n,), y and the result
            (n, ...) in the state's dtype and on its device. n shrinks as samples finish.
        y0: initial states (B, ...), floating point.
        t0: initial time.
        t1: end, on either side of t0.
        method: a name out of `methods()`.
        rtol: relative tolerance per step, in the user's units.
        atol: absolute tolerance per step, in the user's units.
        dt: size of fixed steps, > 0; the last one is shorter if need be. No control then.
        grid: times of fixed steps (N + 1,), from t0 to t1. No control then. Break points are put
            in; a time within a hundredth of a step of one gives way to it.
        controller: sets the step sizes; the method's own, or PI(), if None.
        breaks: times at which the field jumps. No step crosses them, and each side is evaluated
            only with times of its own. Those outside [t0, t1] are ignored.
        weight: `weight(t)`, (n,) -> (n,): factor from errors of y to the user's units.
        first_step: sizes of the first steps, one or (B,); found from the field if None.
        dt_min: a sample that would need a shorter step ends with status step_underflow. Without
            it that happens at the resolution of floats.
        max_evaluations: of the field, per sample.
        args: further per-sample tensors (B, ...) for the field.
        trajectory: times (T,) between t0 and t1, in that order, at which states are wanted.
        dense: whether the solution is wanted as a function of time.
        measure: makes the equation `dy = field dmu` instead of `dy = field dt`.
        on_failure: "raise", or "return" to get partial results with their statuses.

    Returns:
        The solution. Gradients are not recorded.

    Raises:
        ValueError: if an argument makes no sense; says which, and what would.
        SolverError: if a sample did not reach t1 and `on_failure` is "raise".
    """
    info, make = find(method, "ode")
    t0, t1 = check_interval(t0, t1)
    check_state(y0, args)
    check_numbers(rtol, atol, dt_min, max_evaluations, on_failure)
    times = make_grid(t0, t1, dt, grid)
    points = None if trajectory is None else check_points(trajectory, t0, t1)
    breaks = tuple(float(b) for b in breaks)
    if times is None and not info.adaptive:
        raise ValueError(
            f"method={method!r} estimates no error, so it cannot choose its steps: "
            "give dt or grid, or take an adaptive method such as 'dopri5'"
        )
    if measure is not None and (info.name in TABLEAUS or make is None):
        field = _by_density(field, measure)
    route = Route(t0, t1, breaks)
    log = StepLog(len(y0))
    evaluator = Evaluator(field, args, len(y0))
    start = None if first_step is None else check_first(first_step, t0, t1, len(y0))
    outcome: Outcome
    states: Tensor | None = None
    pieces: list[Piece] = []
    if make is None:
        if weight is not None or dt_min is not None or dense:
            given = "weight" if weight is not None else "dense" if dense else "dt_min"
            raise ValueError(
                f"method={method!r} cannot honour {given}; take one of our own methods, "
                f"such as 'dopri5'"
            )
        outcome, states = torchdiffeq_backend.integrate(
            info,
            evaluator,
            y0,
            route,
            log,
            rtol,
            atol,
            times,
            controller,
            start,
            points,
            max_evaluations,
        )
        if times is None and controller is None:
            controller = torchdiffeq_backend.CONTROLLER
    else:
        norm = ErrorNorm(rtol, atol, weight) if times is None else None
        keep = dense or points is not None
        shared = None if times is None else route.sign * route.grid(times)
        stepper = make(Problem(evaluator, y0, norm, keep, measure, shared))
        recorder = Recorder(points, dense, route.sign, y0, t0) if keep else None
        run = Run(stepper, evaluator, y0, route, log, recorder, max_evaluations)
        if times is None:
            controller = controller or info.controller or PI()
            outcome = adaptive(run, controller, start, dt_min or 0.0)
        else:
            outcome = lockstep(run, times)
        if recorder is not None:
            states, pieces = recorder.states, recorder.pieces
    if times is not None:
        controller = None
    between = Interpolant(pieces, len(y0)) if pieces else None
    return conclude(
        outcome, log, method, rtol, atol, controller, breaks, t0, t1, on_failure, states, between
    )


def check_interval(t0: float, t1: float) -> tuple[float, float]:
    """The ends as floats; finite and distinct."""
    t0, t1 = float(t0), float(t1)
    if not (math.isfinite(t0) and math.isfinite(t1)) or t0 == t1:
        raise ValueError(f"t0={t0} and t1={t1} must be finite and differ")
    return t0, t1


def check_state(y0: Tensor, args: Sequence[Tensor]) -> None:
    """The state is floating point, batched and finite; the arguments fit its batch."""
    if not isinstance(y0, Tensor) or not y0.is_floating_point() or y0.ndim < 1:
        what = f"{y0.dtype} {tuple(y0.shape)}" if isinstance(y0, Tensor) else type(y0).__name__
        raise ValueError(f"y0 is {what}; it must be a floating-point tensor (B, ...)")
    good = flat(torch.isfinite(y0)).all(1)
    if not good.all():
        bad = torch.nonzero(~good)[:, 0].tolist()
        raise ValueError(f"y0 is not finite in samples {bad[:5]}; remove or repair them")
    for position, arg in enumerate(args):
        if not isinstance(arg, Tensor) or arg.ndim < 1 or len(arg) != len(y0):
            raise ValueError(
                f"args[{position}] must be a tensor with {len(y0)} rows, one per sample of y0"
            )


def check_numbers(
    rtol: float, atol: float, dt_min: float | None, max_evaluations: int, on_failure: str
) -> None:
    """Tolerances, limits and policies that make sense."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value} must be a finite number >= 0")
    if rtol == 0 and atol == 0:
        raise ValueError("rtol=0 and atol=0 leave no room for any error; make one positive")
    if dt_min is not None and not (math.isfinite(dt_min) and dt_min >= 0):
        raise ValueError(f"dt_min={dt_min} must be a finite number >= 0, or None")
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations={max_evaluations} must be at least 1")
    if on_failure not in ("raise", "return"):
        raise ValueError(f"on_failure={on_failure!r} must be 'raise' or 'return'")


def make_grid(t0: float, t1: float, dt: float | None, grid: ArrayLike | None) -> Array | None:
    """The times of fixed steps (N + 1,) from t0 to t1; None where steps are to be controlled."""
    if dt is not None and grid is not None:
        raise ValueError("dt and grid both say where to step; give one of them")
    if dt is not None:
        if not (math.isfinite(dt) and dt > 0):
            raise ValueError(f"dt={dt} must be positive; the direction follows from t0 and t1")
        # A remainder that is rounding is no step.
        steps = max(1, math.ceil(abs(t1 - t0) / dt - 1e-9))
        return np.append(t0 + math.copysign(dt, t1 - t0) * np.arange(steps), t1)
    if grid is None:
        return None
    times = np.asarray(grid, np.float64)
    if times.ndim != 1 or len(times) < 2 or times[0] != t0 or times[-1] != t1:
        raise ValueError(f"grid must be 1-D and go from t0={t0} to t1={t1} exactly")
    if not (np.diff(times) * np.sign(t1 - t0) > 0).all():
        raise ValueError("grid must be strictly monotone from t0 to t1; sort it, drop repetitions")
    return times


def check_points(trajectory: ArrayLike, t0: float, t1: float) -> Array:
    """The times at which states are wanted (T,): on the way from t0 to t1, in order."""
    points = np.atleast_1d(np.asarray(trajectory, np.float64))
    sign = math.copysign(1.0, t1 - t0)
    inside = (sign * points >= sign * t0) & (sign * points <= sign * t1)
    if points.ndim != 1 or not inside.all() or not (np.diff(sign * points) > 0).all():
        raise ValueError(
            f"trajectory must be 1-D, between t0={t0} and t1={t1}, and in the order of travel"
        )
    return points


def check_first(first_step: float | ArrayLike, t0: float, t1: float, batch: int) -> Array:
    """First step sizes (B,): positive, at most the interval."""
    steps = np.array(np.broadcast_to(np.asarray(first_step, np.float64), (batch,)))
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise ValueError(f"first_step={first_step!r} must be positive, one number or {batch}")
    return np.minimum(steps, abs(t1 - t0))


def _by_density(field: Field, measure: Measure) -> Field:
    def rate(t: Tensor, y: Tensor, *args: Tensor) -> Tensor:
        return field(t, y, *args) * column(measure.density(t.numpy()), y)

    return rate


def _runge_kutta(problem: Problem, tableau: Tableau) -> Stepper:
    return RungeKutta(tableau, problem.field, problem.norm, problem.dense)


_NOTES = {
    "euler": "the simplest",
    "midpoint": "two stages",
    "heun": "trapezoidal, with Euler's method for the error",
    "bosh3": "Bogacki and Shampine 3(2)",
    "rk4": "the classical four stages",
    "dopri5": "Dormand and Prince 5(4)",
    "tsit5": "Tsitouras 5(4)",
    "dopri8": "Prince and Dormand 8(7)",
}
for _tableau in TABLEAUS.values():
    register(
        MethodInfo(
            _tableau.name,
            "ode",
            _tableau.order,
            adaptive=bool(_tableau.error),
            evaluations=_tableau.evaluations,
            inside=not {*_tableau.c} <= {0, 1},
            note=_NOTES[_tableau.name],
        ),
        partial(_runge_kutta, tableau=_tableau),
    )
