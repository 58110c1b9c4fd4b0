"""What is settled before the first sample is drawn: chart, times, tolerances, noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solvers import PI, PID, Controller, I
from solvers.registry import find

from .chart import Chart, parse_chart
from .denoiser import Denoiser, Predictor
from .dynamics import ProbabilityFlow, ReverseSDE
from .grids import time_grid
from .guidance import innermost
from .oracle import Oracle
from .samplers import BACKENDS, Sampler, find_sampler, with_noise
from .sde import SDE, VP

__all__ = ["CONTROLLERS", "Plan", "make_plan"]

CONTROLLERS: dict[str, Callable[[], Controller]] = {"i": I, "pi": PI, "pid": PID}


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first sample is drawn.

    Attributes:
        times: (N + 1,) times of fixed steps, from t_start to t_end; None where tolerances rule.
        t_start, t_end: the interval, in the order it is run through.
        breaks: whether the solver is told the model's jumps.
        grid: the spacing behind `times`, or None.
        points: (T,) times at which states are kept, or None.
    """

    denoiser: Predictor
    sampler: Sampler
    chart: Chart
    times: Tensor | None
    t_start: float
    t_end: float
    breaks: bool
    grid: str | None
    eta: float
    rtol: float
    atol: float
    controller: Controller
    max_evaluations: int
    points: Tensor | None = None

    @property
    def controls(self) -> bool:
        """Whether `controller` sets the steps: not on a grid, nor where a backend does it."""
        return self.times is None and self.sampler.source not in BACKENDS

    def dynamics(self) -> ProbabilityFlow | ReverseSDE:
        """The flow, or the reverse SDE, that the method integrates."""
        where = (self.denoiser, self.chart, self.t_start, self.t_end, self.breaks)
        if self.sampler.kind == "sde":
            return ReverseSDE(*where, eta=self.eta)
        return ProbabilityFlow(*where)

    def reversed(self) -> Plan:
        """The same run from t_end to t_start."""
        times = None if self.times is None else self.times.flip(0)
        return replace(self, times=times, t_start=self.t_end, t_end=self.t_start)

    def without_last_step(self) -> Plan:
        """The same run up to the last but one time of its grid.

        Raises:
            ValueError: steps are not fixed, or there is only one.
        """
        if self.times is None:
            raise ValueError("final='zero': needs fixed steps; give steps, or final='denoise'")
        if len(self.times) < 3:
            raise ValueError("final='zero': takes the place of the last step; give steps >= 2")
        return replace(self, times=self.times[:-1], t_end=float(self.times[-2]))


def make_plan(
    denoiser: Predictor,
    *,
    solver: str,
    steps: int | None,
    rtol: float | None,
    atol: float | None,
    controller: str | Controller,
    chart: str | Chart | None,
    grid: str | Sequence[float] | Tensor | None,
    t_min: float,
    t_max: float | None,
    eta: float | None,
    breaks: bool | None,
    max_evaluations: int,
    points: Sequence[float] | Tensor | None = None,
) -> Plan:
    """Check and complete the settings of `sdeflow.sampling.sample`.

    Raises:
        ValueError: an argument out of range, unknown, or that the sampler cannot use.
    """
    sampler = find_sampler(solver)
    grid = _spacing(grid)
    if steps is not None or grid is not None or not sampler.adaptive:
        _no_control(sampler, {"rtol": rtol, "atol": atol, "controller": controller})
    rtol = sampler.tolerance if rtol is None else rtol
    atol = sampler.tolerance if atol is None else atol
    for name, value in [("rtol", rtol), ("atol", atol)]:
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: a tolerance must be 0 or more, for example 1e-3")
    if isinstance(controller, str):
        if controller not in CONTROLLERS:
            raise ValueError(f"controller={controller!r}: choose one of {', '.join(CONTROLLERS)}")
        if sampler.source in BACKENDS and controller != "pi":
            raise ValueError(
                f"controller={controller!r}: {sampler.source} controls the steps of {solver} "
                "itself; leave it out, or take another solver"
            )
        own = sampler.gains if controller == "pi" else None
        controller = CONTROLLERS[controller]() if own is None else own
    if eta is not None and eta != 0 and sampler.kind == "ode":
        if not sampler.noisy:
            raise ValueError(f"eta={eta}: {solver} is deterministic; use a stochastic solver")
        sampler = with_noise(sampler)
    if sampler.kind == "chain" and chart is not None:
        raise ValueError(
            f"chart={getattr(chart, 'name', chart)!r}: {solver} has exact steps of its own and "
            "runs in no chart; leave it out"
        )
    if grid is None and (steps is not None or not sampler.adaptive):
        grid = sampler.grid
    if sampler.source in BACKENDS and grid is None and _scale(chart) not in (None, "x"):
        raise ValueError(
            f"chart={getattr(chart, 'name', chart)!r}: {sampler.source} measures errors in the "
            "state as it is, so it takes scale x only: write x/CLOCK, or fix the steps"
        )
    text = sampler.chart if chart is None else chart
    made = text if isinstance(text, Chart) else parse_chart(text, denoiser.sde)
    if t_max is None:
        t_max = 1.0 if _starts_from_noise(denoiser, sampler, made, grid) else _last(denoiser.sde)
    if not 0 < t_min < 1:
        raise ValueError(f"t_min={t_min}: must be inside (0, 1), for example 1e-3")
    if not t_min < t_max <= 1:
        raise ValueError(f"t_max={t_max}: must be inside (t_min={t_min:g}, 1]")
    times = None
    if grid is not None:
        steps = sampler.steps if steps is None else steps
        times = time_grid(grid, denoiser.sde, steps, t_max, t_min)
    if denoiser.quantised:
        if times is None:
            raise ValueError(
                f"solver={solver!r} chooses its own times, and this model knows the noise levels "
                "it was trained at only: give steps (--steps), e.g. 50 with solver ddim"
            )
        if _asks_inside(sampler):
            raise ValueError(
                f"solver={solver!r} asks the model between the ends of its steps, too, and this "
                "model knows the noise levels it was trained at only: take ddim, dpmpp-2m or heun"
            )
        # Steps that end at the same level are one step.
        times = torch.unique_consecutive(denoiser.visited(times))
        t_max, t_min = float(times[0]), float(times[-1])
    return Plan(
        denoiser,
        sampler,
        made,
        times,
        t_max,
        t_min,
        times is None if breaks is None else breaks,
        grid,
        sampler.eta if eta is None else eta,
        rtol,
        atol,
        controller,
        max_evaluations,
        _exact(_points(points), [t_max, t_min] if times is None else times),
    )


def _scale(chart: str | Chart | None) -> str | None:
    """The scale of a chart as it was given."""
    if isinstance(chart, Chart):
        return chart.scale
    return None if chart is None else chart.rpartition("/")[0]


def _points(given: Sequence[float] | Tensor | None) -> Tensor | None:
    """Times at which to keep states, as a tensor on the host."""
    if given is None:
        return None
    kind = torch.float64 if isinstance(given, (list, tuple)) else None
    try:
        points = torch.as_tensor(given, dtype=kind).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        points = torch.empty(())
    if points.dim() != 1 or points.is_complex():
        raise ValueError(f"trajectory={given!r}: give a list of times, such as [1.0, 0.1, 0.001]")
    return points


def _spacing(grid: Any) -> str | None:
    """A grid as text: its name, or its times separated by commas."""
    if grid is None or isinstance(grid, str):
        return grid
    try:
        times = torch.as_tensor(grid)
        # Of times in float32 the digits that were meant: 0.001, not 0.0010000000474974513.
        short = times.dtype is torch.float32 and not isinstance(grid, (list, tuple))
        numbers = times.tolist() if isinstance(grid, Tensor) or short else list(grid)
        return ",".join(f"{t:.7g}" if short else repr(float(t)) for t in numbers)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"grid={grid!r}: give a spacing such as log-snr, or times such as [1.0, 0.1, 0.001]"
        ) from None


def _no_control(sampler: Sampler, given: dict[str, Any]) -> None:
    """Refuse what controls the steps where they are fixed; the default control is none."""
    for name, value in given.items():
        if value is None or (name == "controller" and value == "pi"):
            continue
        remedy = "leave out either"
        if not sampler.adaptive:
            remedy = f"{sampler.name} takes no others, so use steps, or another solver"
        raise ValueError(
            f"{name}={getattr(value, 'name', value)}: has no effect on fixed steps; {remedy}"
        )


def _asks_inside(sampler: Sampler) -> bool:
    """Whether the model is asked at times that are not exactly ends of steps."""
    if sampler.kind == "chain":
        return sampler.churn != 0
    # Backends round times to the state's type, and what is just below a level is another one.
    return sampler.source in BACKENDS or find(sampler.method, sampler.kind)[0].inside


def _exact(points: Tensor | None, marks: Tensor | list[float]) -> Tensor | None:
    """Times in float64, (T,): a mark that was rounded to the points' own type is that mark."""
    if points is None:
        return None
    exact = points.double()
    if not points.is_floating_point():
        return exact
    marks = torch.as_tensor(marks, dtype=torch.float64)
    same = points[:, None] == marks.to(points.dtype)
    return torch.where(same.any(1), marks[same.int().argmax(1)], exact)


def _starts_from_noise(
    denoiser: Predictor, sampler: Sampler, chart: Chart, grid: str | None
) -> bool:
    """Whether t = 1 will do: alpha(1) > 0, or nothing on the way divides by it or tells it."""
    if denoiser.sde.has_signal_at(1.0):
        return True
    model = innermost(denoiser)
    told = isinstance(model, Oracle) or model.prediction in ("data", "velocity")
    if isinstance(model, Denoiser):
        told = told and bool(model.conditioning(torch.ones(1, dtype=torch.float64)).isfinite())
    try:
        chart.check(0.5, 1.0)
        if grid is not None:
            time_grid(grid, chart.sde, 2, 1.0, 0.5)
    except ValueError:
        return False
    if sampler.multistep and chart.clock in ("mixed", "banded"):
        # Its weights are integrals over sigma/alpha, which is infinite there and in these clocks.
        return False
    return told and sampler.kind == "ode"


def _last(sde: SDE) -> float:
    """The time of the log-SNR that linear VP ends with, -5.02."""
    return float(sde.time_of_log_snr(VP().log_snr(1.0)))
