"""torchdiffeq's methods behind `odeint`: `torchdiffeq/dopri5`, `torchdiffeq/euler` and so on.

torchdiffeq (Chen et al. 2018, arXiv 1806.07366) integrates a batch as one system: one step size,
from one error norm over all samples. Steps and their control are torchdiffeq's. It is told

* its end (`step_t`), which it would otherwise step over and interpolate back from;
* its break points (`jump_t`; on a grid, the grid and `perturb`).

It rounds times to the state's dtype before the field sees them; those that this would take outside
[t0, t1] are put back. Its callbacks tell which steps it accepted and rejected, not their errors:
the log has NaN there, and every sample has the same attempts. One bad sample stops the batch.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from .controller import Array, Controller, I, flat
from .log import Status, StepLog
from .registry import MethodInfo, register
from .route import Outcome, Route
from .stepper import Evaluator

__all__ = ["CONTROLLER", "PREFIX", "integrate"]

PREFIX = "torchdiffeq/"
# torchdiffeq's rule for the next step is this controller for the whole batch.
CONTROLLER = I(
    safety=0.9, min_factor=0.2, max_factor=10.0, shrink_accepted=False, grow_retried=True
)

# Name: order, evaluations per accepted step, what it is.
_ADAPTIVE = {
    "dopri5": (5, 6, "Dormand and Prince 5(4)"),
    "dopri8": (8, 13, "Prince and Dormand 8(7)"),
    "bosh3": (3, 3, "Bogacki and Shampine 3(2)"),
    "fehlberg2": (2, 2, "Fehlberg 2(1); reuses a slope that is not quite that of the new state"),
    "adaptive_heun": (2, 1, "Heun and Euler 2(1); reuses the slope at the predicted state"),
}
_FIXED = {
    "euler": (1, 1, "the simplest"),
    "midpoint": (2, 2, "two stages"),
    "heun2": (2, 2, "trapezoidal"),
    "heun3": (3, 3, "Heun's third-order rule"),
    "rk4": (4, 4, "the 3/8 rule, not the classical one"),
    "explicit_adams": (4, 1, "Adams-Bashforth on a uniform grid, started by rk4"),
}


class _Stop(Exception):
    """The budget of evaluations is spent."""


class _Field:
    """The field as torchdiffeq calls it; its callbacks fill the log."""

    def __init__(
        self, field: Evaluator, y0: Tensor, route: Route, log: StepLog, order: int, budget: int
    ) -> None:
        self.field = field
        self.log = log
        self.order = order
        self.budget = budget
        self.sign = route.sign
        self.sample = np.arange(len(y0))
        ends = sorted((route.sign * route.seen_first, route.sign * float(route.seen_before[-1])))
        self.low, self.high = ends
        self.used = 0
        self.last = y0
        # Where the step under way started: what there is if it fails.
        self.t, self.y, self.dt = route.t0, y0, 0.0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        if self.used >= self.budget:
            raise _Stop
        self.used += 1
        now = min(max(float(t), self.low), self.high)
        self.last = self.field(now, y)
        return self.last

    def callback_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.t, self.y, self.dt = float(t), y, self.sign * float(dt)

    def note(self, t: float, dt: float, accepted: bool) -> None:
        """Log one attempt, for every sample alike."""
        spent = self.field.spent()
        self.log.record(self.sample, t, dt, np.nan, accepted, spent, self.order)


class _ControlledField(_Field):
    """The field of the adaptive methods, which tell how every attempt ended."""

    def callback_accept_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.note(float(t), self.sign * float(dt), True)

    def callback_reject_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.note(float(t), self.sign * float(dt), False)


class _GridField(_Field):
    """The field of methods on a grid, which tell of the beginnings of their steps only."""

    started = False

    def callback_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.finish()
        super().callback_step(t, y, dt)
        self.started = True

    def finish(self) -> None:
        """Log the step that has just ended."""
        if self.started:
            self.note(self.t, self.dt, True)


def integrate(
    info: MethodInfo,
    field: Evaluator,
    y0: Tensor,
    route: Route,
    log: StepLog,
    rtol: float,
    atol: float,
    times: Array | None,
    controller: Controller | None,
    first_step: Array | None,
    points: Array | None,
    max_evaluations: int,
) -> tuple[Outcome, Tensor | None]:
    """Run one of torchdiffeq's methods; returns how it ended and the states at `points`.

    Raises:
        ValueError: for what torchdiffeq cannot do.
    """
    import torchdiffeq  # takes a second to import, for methods that are seldom asked for

    name = info.name.removeprefix(PREFIX)
    _refuse(info, y0, times, controller, first_step, route)
    order = int(info.order)
    wrapped: _Field
    # Break points on the way, in time; those at the ends are dealt with by the field.
    inner = route.sign * route.stops[:-1]
    options: dict[str, object]
    if info.adaptive:
        control = controller or CONTROLLER
        wrapped = _ControlledField(field, y0, route, log, order, max_evaluations)
        options = {
            "step_t": torch.tensor([route.t1], dtype=torch.float64),
            "safety": control.safety,
            "ifactor": control.max_factor,
            "dfactor": control.min_factor,
        }
        if len(inner):
            options["jump_t"] = torch.from_numpy(inner)
        if first_step is not None:
            options["first_step"] = float(first_step[0])
    else:
        assert times is not None
        wrapped = _GridField(field, y0, route, log, order, max_evaluations)
        grid = torch.from_numpy(route.sign * route.grid(times))
        options = {
            "grid_constructor": lambda func, y, t: grid.to(t),
            "perturb": bool(len(inner)),
            "interp": "cubic",
        }
        if name == "explicit_adams":
            options["max_order"] = 4
    stops = np.concatenate([[route.t0], points if points is not None else [], [route.t1]])
    # Points at the ends are there already.
    stops = stops[np.append(True, np.diff(stops) != 0)]
    status, states = Status.ok, None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not support callbacks.*")
            states = torchdiffeq.odeint(
                wrapped,
                y0,
                torch.from_numpy(stops).to(y0.device),
                rtol=rtol,
                atol=atol,
                method=name,
                options=options,
            )
    except _Stop:
        status = Status.max_evaluations
    except AssertionError as failure:
        if "underflow" not in str(failure) and "non-finite" not in str(failure):
            raise
        status = Status.step_underflow
    if isinstance(wrapped, _GridField) and status is Status.ok:
        wrapped.finish()
    outcome = _outcome(wrapped, status, states, y0, route)
    log.evaluations[:] = wrapped.used
    log.calls = field.calls
    log.finish()
    return outcome, _trajectory(states, stops, points, y0)


def _refuse(
    info: MethodInfo,
    y0: Tensor,
    times: Array | None,
    controller: Controller | None,
    first_step: Array | None,
    route: Route,
) -> None:
    method = f"method={info.name!r}"
    if y0.device.type == "mps":
        raise ValueError(
            f"{method} keeps float64 times on the state's device, which {y0.device} lacks; "
            "take one of our own methods, such as 'dopri5'"
        )
    if info.adaptive and times is not None:
        raise ValueError(
            f"{method} chooses its steps itself; drop dt and grid, or take 'dopri5', which can "
            "step on a grid too"
        )
    if controller is not None and not (
        controller.p == controller.d == 0
        and controller.i == 1
        and controller.grow_retried
        and not controller.shrink_accepted
    ):
        raise ValueError(
            f"{method} has a controller of its own; give controller=I(safety, min_factor, "
            "max_factor, shrink_accepted=False, grow_retried=True), or take 'dopri5'"
        )
    if first_step is not None and len(first_step) and not (first_step == first_step[0]).all():
        raise ValueError(f"{method} takes one first_step for the whole batch; give one number")
    if len(route.stops) > 1 and not info.breaks:
        raise ValueError(f"{method} cannot forget its history at breaks; take 'torchdiffeq/rk4'")
    if info.name == PREFIX + "explicit_adams" and times is not None:
        steps = np.diff(times)
        if np.abs(steps - steps[0]).max() > 1e-9 * abs(steps[0]):
            raise ValueError(f"{method} needs equal steps; give dt that divides the interval")


def _outcome(
    field: _Field, status: Status, states: Tensor | None, y0: Tensor, route: Route
) -> Outcome:
    batch = len(y0)
    reached = states is not None
    y = states[-1] if states is not None else field.y
    statuses = np.full(batch, status, np.int64)
    # Not a number makes torchdiffeq's step underflow, in all samples at once.
    for value in (y, field.last) if status is not Status.max_evaluations else (y,):
        if len(value) == batch:
            sick = (~flat(torch.isfinite(value)).all(1)).cpu().numpy()
            if status is not Status.ok or value is y:
                statuses[sick] = Status.non_finite
    return Outcome(
        y,
        np.full(batch, route.t1 if reached else field.t),
        statuses,
        np.full(batch, 0.0 if reached else field.dt),
        np.full(batch, np.nan),
    )


def _trajectory(
    states: Tensor | None, stops: Array, points: Array | None, y0: Tensor
) -> Tensor | None:
    if points is None:
        return None
    if states is None:
        return torch.full((len(points), *y0.shape), torch.nan, dtype=y0.dtype, device=y0.device)
    where = np.flatnonzero(np.isin(stops, points))
    return states.index_select(0, torch.from_numpy(where).to(states.device))


def _register(table: dict[str, tuple[int, int, str]], adaptive: bool) -> None:
    for name, (order, evaluations, note) in table.items():
        register(
            MethodInfo(
                PREFIX + name,
                "ode",
                order,
                adaptive,
                source="torchdiffeq",
                per_sample=False,
                breaks=name != "explicit_adams",
                dense=False,
                logs="steps" if adaptive else "grid",
                evaluations=evaluations,
                note=note,
            )
        )


_register(_ADAPTIVE, adaptive=True)
_register(_FIXED, adaptive=False)
