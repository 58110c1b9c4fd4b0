"""Stochastic differential equations `dy = f(t, y) dt + g dW` of a batch of independent samples.

`sdeint` joins a method (`sde_steps`), Brownian paths (`brownian`), a controller and the loop, and
keeps `odeint`'s promises: every sample has steps of its own, is never evaluated outside [t0, t1],
ends exactly at t1, and is never taken across a break point. A rejected step keeps its Brownian
path, so that which steps are rejected has no influence on the noise; and a sample's noise is a
function of its seed, so that it does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from . import torchsde_backend
from .brownian import Brownian, BrownianPath
from .controller import PI, Controller, ErrorNorm, Weight
from .dense import Recorder
from .lockstep import lockstep
from .log import StepLog
from .loop import adaptive
from .noise import Seeds
from .ode import (
    check_first,
    check_interval,
    check_numbers,
    check_points,
    check_state,
    make_grid,
)
from .registry import MethodInfo, find, register
from .route import Route, Run
from .sde_steps import (
    SRA,
    SRA1,
    SRA3,
    Additive,
    Diagonal,
    Diffusion,
    EulerMaruyama,
    StochasticHeun,
)
from .solution import Solution, conclude
from .stepper import Evaluator, Field

__all__ = ["Diffusion", "sdeint"]


@torch.no_grad()
def sdeint(
    drift: Field,
    diffusion: Diffusion,
    y0: Tensor,
    t0: float,
    t1: float,
    *,
    seeds: Seeds | None = None,
    method: str = "sra1",
    noise: Literal["additive", "diagonal"] = "additive",
    rtol: float = 1e-2,
    atol: float = 1e-2,
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
    path: Brownian | None = None,
    on_failure: Literal["raise", "return"] = "raise",
) -> Solution:
    """Integrate a batch of stochastic differential equations, every sample with its own steps.

    Time may run either way: from t0 to t1 < t0 the equation is that of `h = |dt|`, with noise
    of variance `g^2 h`, which is how the reverse-time equation of a diffusion model is meant.

    Args:
        drift: `drift(t, y, *args) -> f`; t a float64 host tensor (n,), y and the result (n, ...)
            in the state's dtype and on its device. n shrinks as samples finish.
        diffusion: `diffusion(t) -> g` for additive noise, (n,) host float64 to (n,);
            `diffusion(t, y, *args) -> g` for diagonal noise, with g (n, ...) like y.
        y0: initial states (B, ...), floating point.
        t0: initial time.
        t1: end, on either side of t0.
        seeds: one integer per sample (B,), which alone determines a sample's noise; drawn from
            torch's default generator if None.
        method: a name out of `methods()` of kind "sde".
        noise: what g depends on: "additive", on time; "diagonal", on the state as well.
        rtol: relative tolerance per step, in the user's units.
        atol: absolute tolerance per step, in the user's units.
        dt: size of fixed steps, > 0; the last one is shorter if need be. No control then.
        grid: times of fixed steps (N + 1,), from t0 to t1. No control then.
        controller: sets the step sizes; PI() if None.
        breaks: times at which drift or diffusion jump. No step crosses them, and each side is
            evaluated only with times of its own. Those outside [t0, t1] are ignored.
        weight: `weight(t)`, (n,) -> (n,): factor from errors of y to the user's units.
        first_step: sizes of the first steps, one or (B,); found from the drift if None.
        dt_min: a sample that would need a shorter step ends with status step_underflow.
        max_evaluations: of the drift, per sample.
        args: further per-sample tensors (B, ...) for the drift.
        trajectory: times (T,) between t0 and t1, in that order, at which states are wanted. Steps
            end there, as no interpolant follows a Brownian path.
        path: a Brownian path of your own instead of `seeds`, on the increasing clock
            `sign(t1 - t0) * t`; with time integrals for sra1 and sra3.
        on_failure: "raise", or "return" to get partial results with their statuses.

    Returns:
        The solution. Its log counts evaluations of the drift; its orders are those without noise.
        Gradients are not recorded.

    Raises:
        ValueError: if an argument makes no sense; says which, and what would.
        SolverError: if a sample did not reach t1 and `on_failure` is "raise".
    """
    info, _ = find(method, "sde")
    t0, t1 = check_interval(t0, t1)
    check_state(y0, args)
    check_numbers(rtol, atol, dt_min, max_evaluations, on_failure)
    fixed = make_grid(t0, t1, dt, grid)
    points = None if trajectory is None else check_points(trajectory, t0, t1)
    breaks = tuple(float(b) for b in breaks)
    if noise not in ("additive", "diagonal"):
        raise ValueError(f"noise={noise!r} must be 'additive' or 'diagonal'")
    if fixed is None and not info.adaptive:
        raise ValueError(
            f"method={method!r} estimates no error, so it cannot choose its steps: "
            "give dt or grid, or take an adaptive method such as 'sra1'"
        )
    own = _STEPPERS.get(method)
    if noise == "diagonal" and own is not None and issubclass(own, SRA):
        raise ValueError(
            f"method={method!r} is for additive noise; "
            "take 'euler-maruyama' (Itô) or 'stochastic-heun' (Stratonovich) for noise='diagonal'"
        )
    step = None
    if own is None:
        step = torchsde_backend.equal_step(fixed)
        _refuse(fixed is None, method, controller=controller, weight=weight)
    inside = () if points is None else tuple(points[(points != t0) & (points != t1)].tolist())
    route = Route(t0, t1, breaks + inside)
    if path is None:
        path = BrownianPath(
            torch.randint(2**62, (len(y0),)) if seeds is None else check_seeds(seeds, len(y0)),
            y0.shape[1:],
            route.begin,
            area=torchsde_backend.needs_area(method) if own is None else issubclass(own, SRA),
            dtype=y0.dtype,
            device=y0.device,
        )
    elif seeds is not None:
        raise ValueError("seeds and path both determine the noise; give one of them")
    log = StepLog(len(y0))
    norm = ErrorNorm(rtol, atol, weight) if fixed is None else None
    evaluator = Evaluator(drift, args, len(y0))
    amount: Additive | Diagonal = (
        Additive(diffusion) if noise == "additive" else Diagonal(diffusion, args, len(y0))
    )
    recorder = None if points is None else Recorder(points, False, route.sign, y0, t0)
    start = None if first_step is None else check_first(first_step, t0, t1, len(y0))
    if own is None:
        outcome = torchsde_backend.integrate(
            method,
            evaluator,
            amount,
            path,
            y0,
            route,
            step,
            log,
            recorder,
            (rtol, atol),
            None if start is None else float(start.min()),
            dt_min or 0.0,
            max_evaluations,
        )
        controller = None
    else:
        stepper = own(evaluator, amount, path, route.sign, norm)
        run = Run(stepper, evaluator, y0, route, log, recorder, max_evaluations)
        if fixed is None:
            controller = controller or PI()
            outcome = adaptive(run, controller, start, dt_min or 0.0)
        else:
            controller = None
            outcome = lockstep(run, fixed)
    states = None if recorder is None else recorder.states
    return conclude(
        outcome, log, method, rtol, atol, controller, breaks, t0, t1, on_failure, states
    )


def _refuse(
    controlled: bool, method: str, *, controller: Controller | None, weight: Weight | None
) -> None:
    """What torchsde's own step control has no place for."""
    given = {"controller": controller, "weight": weight}
    for name, value in given.items():
        if controlled and value is not None:
            raise ValueError(
                f"{name} cannot be used with method={method!r}, whose steps torchsde controls by "
                "itself; leave it out, or take one of our own methods, such as 'sra1'"
            )


def check_seeds(seeds: Seeds, batch: int) -> Seeds:
    """One seed for each sample."""
    if len(seeds) != batch:
        raise ValueError(f"seeds has {len(seeds)} entries for {batch} samples; give one for each")
    return seeds


_STEPPERS: dict[str, type[EulerMaruyama | StochasticHeun | SRA]] = {
    "euler-maruyama": EulerMaruyama,
    "stochastic-heun": StochasticHeun,
    "sra1": SRA1,
    "sra3": SRA3,
}
for _name, _order, _note in (
    ("euler-maruyama", 1.0, "the simplest; Itô, order 1/2 where the noise depends on the state"),
    ("stochastic-heun", 1.0, "trapezoidal; Stratonovich where the noise depends on the state"),
    ("sra1", 1.5, "Rößler's, two stages, for additive noise"),
    ("sra3", 1.5, "Rößler's, three stages, for additive noise; order 3 without noise"),
):
    register(
        MethodInfo(
            _name,
            "sde",
            _order,
            adaptive=_name != "euler-maruyama",
            dense=False,
            evaluations=_STEPPERS[_name].stages,
            inside=_name.startswith("sra"),
            note=_note,
        )
    )
