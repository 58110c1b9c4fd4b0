"""torchsde's methods behind `sdeint`: `torchsde/euler`, `torchsde/srk` and so on.

torchsde (Li et al. 2020, arXiv 2001.01328) steps the whole batch with one step size and estimates
errors by step doubling. Step and step control are torchsde's. What surrounds them is ours:

* time runs forwards on the clock `s = sign * t`, in float64;
* it is run once per stretch between break points, so that the end and the breaks are hit exactly,
  and times are kept inside the stretch;
* the noise is a `BrownianPath` per sample, which makes it independent of the batch and of which
  steps are rejected, and equal to that of our own methods on the same steps;
* every step asks the path for its increment, which is how it comes into the log, with the
  evaluations it cost: attempts and rejections are logged, their errors cannot be.

One bad sample stops the batch under error control. A sample that fails is reported at the start of
the stretch it failed in, since torchsde does not say how far it got.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .brownian import Brownian, Increment
from .controller import Array
from .dense import Recorder
from .log import Status, StepLog
from .registry import MethodInfo, register
from .route import Outcome, Route
from .sde_steps import Additive, Diagonal
from .stepper import Evaluator, Rows, index

__all__ = ["PREFIX", "equal_step", "integrate", "needs_area"]

PREFIX = "torchsde/"

# Name: strong order for additive noise, evaluations per step (0: it depends), what it is.
_METHODS = {
    "euler": (1.0, 1, "Euler-Maruyama, Itô"),
    "milstein": (1.0, 1, "Milstein's method, Itô; differentiates g(t, y)"),
    "srk": (1.5, 0, "Rößler's, Itô: SRA1 for additive noise, SRID2 for diagonal noise"),
    "midpoint": (1.0, 2, "explicit midpoint, Stratonovich"),
    "heun": (1.0, 2, "trapezoidal, Stratonovich"),
    "euler_heun": (1.0, 1, "trapezoidal in the noise only, Stratonovich"),
    "log_ode": (1.0, 2, "log-ODE midpoint, Stratonovich"),
    "reversible_heun": (1.0, 1, "algebraically reversible Heun, Stratonovich"),
}
_ITO = ("euler", "milstein", "srk")
# Added to equal steps, so that rounding leaves no sliver of a step at the end.
_SLIVER_ULPS = 4.0
_UNDERFLOW_ULPS = 16.0

for _name, (_order, _evaluations, _note) in _METHODS.items():
    register(
        MethodInfo(
            PREFIX + _name,
            "sde",
            _order,
            adaptive=True,
            source="torchsde",
            per_sample=False,
            dense=False,
            logs="steps",
            evaluations=_evaluations,
            note=_note,
        )
    )


def needs_area(method: str) -> bool:
    """Whether the method wants time integrals of the noise."""
    return method == PREFIX + "srk"


def equal_step(grid: Array | None) -> float | None:
    """The size of the grid's steps; None without a grid.

    Raises:
        ValueError: if they are not equal. Only the last one may be shorter.
    """
    if grid is None:
        return None
    steps = np.abs(np.diff(grid))
    if not np.allclose(steps[:-1], steps[0], rtol=1e-9, atol=0) or steps[-1] > steps[0] * (
        1 + 1e-9
    ):
        raise ValueError(
            "grid has steps of different lengths, which torchsde cannot take; give dt, or take "
            "one of our own methods, such as 'sra1'"
        )
    return float(steps[0])


class _Stop(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class _Stretch:
    """The equation and its noise on one stretch between break points, as torchsde wants them.

    torchsde asks for the noise of every step that it tries, so this is where steps are seen. With
    fixed steps there is one query per step. Under control there are three per attempt: the whole
    step, its first and its second half; the next attempt starts at the end of this one if it was
    accepted, else at its start.
    """

    levy_area_approximation = "foster"  # "all that is asked for"; see __call__

    def __init__(
        self,
        method: str,
        drift: Evaluator,
        diffusion: Additive | Diagonal,
        path: Brownian,
        log: StepLog,
        samples: Rows,
        y: Tensor,
        sign: float,
        seen: tuple[float, float],
        control: float | None,
        budget: int,
    ) -> None:
        self.sde_type = "ito" if method in _ITO else "stratonovich"
        # torchsde wants a matrix for additive noise, except through g_prod, which has ours as a
        # number; reversible_heun does without g_prod.
        additive = isinstance(diffusion, Additive) and method != "reversible_heun"
        self.noise_type = "additive" if additive else "diagonal"
        if additive:
            self.g_prod = self._g_prod
        else:
            self.g = self._g
        self.drift, self.diffusion, self.path = drift, diffusion, path
        self.log, self.samples, self.order = log, samples, int(_METHODS[method][0])
        self.like, self.sign, self.seen = y, sign, seen
        self.control, self.budget = control, budget
        self.shape, self.dtype, self.device = y.flatten(1).shape, y.dtype, y.device
        self._part = 0
        self._step: tuple[float, float] | None = None
        self._whole: Increment = (y, None)
        self._half: Increment = (y, None)
        self._carried = 0

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """The drift on the increasing clock, (n, d)."""
        if self.drift.calls >= self.budget:
            raise _Stop(Status.max_evaluations)
        return (self.drift(self._time(t), y.view_as(self.like)) * self.sign).flatten(1)

    def _g(self, t: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(self._time(t), y.view_as(self.like)).expand_as(self.like).flatten(1)

    def _g_prod(self, t: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.diffusion(self._time(t), y.view_as(self.like)).flatten(1) * v

    def _time(self, t: Tensor) -> float:
        return self.sign * min(max(float(t), self.seen[0]), self.seen[1])

    def __call__(
        self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """The noise of a step. No Lévy area A: without general noise torchsde does not use it."""
        start, end = float(ta), float(tb)
        if self._part == 0:
            self.close(start)
            self._step = start, end
            if self.control is not None and end - start < self.control < self.seen[1] - start:
                raise _Stop(Status.step_underflow)
            self._whole = w, z = self._ask(end, self.control is None)
        elif self._part == 1:
            self._half = w, z = self._ask(end, False)
        else:
            w, z = self._whole[0] - self._half[0], None
            if self._whole[1] is not None and self._half[1] is not None:
                z = self._whole[1] - self._half[1] - (end - start) * self._half[0]
        if self.control is not None:
            self._part = (self._part + 1) % 3
        w = w.flatten(1)
        if return_U:
            assert z is not None
            return w, z.flatten(1)
        return (w, None) if return_A else w

    def close(self, start: float) -> None:
        """Log the last step, now that the next one is known to start at `start`."""
        spent = self.drift.spent()
        assert isinstance(spent, int)
        if self._step is None:
            self._carried = spent
            return
        begin, end = self._step
        accepted = start == end
        if accepted and self.control is not None:
            self._ask(end, True)
        dt = self.sign * (end - begin)
        stages = spent + self._carried
        self.log.record(
            self.samples, self.sign * begin, dt, math.nan, accepted, stages, self.order
        )
        self._carried, self._step = 0, None

    def _ask(self, end: float, accept: bool) -> Increment:
        increment = self.path.increment(np.full(len(self.samples), end))
        self.path.advance(np.full(len(self.samples), accept))
        return increment


def integrate(
    method: str,
    drift: Evaluator,
    diffusion: Additive | Diagonal,
    path: Brownian,
    y: Tensor,
    route: Route,
    step: float | None,
    log: StepLog,
    recorder: Recorder | None,
    tolerances: tuple[float, float],
    first_step: float | None,
    dt_min: float,
    max_evaluations: int,
) -> Outcome:
    """Run a method of torchsde's over all stretches.

    Args:
        method: its name, with the prefix.
        drift: the drift, counted.
        diffusion: the noise's factor.
        path: the noise; with time integrals if `needs_area`.
        y: initial states (B, ...).
        route: where to go.
        step: size of fixed steps, each stretch having equal ones; None for torchsde's control.
        log: is written.
        recorder: is told of the states at the stretches' ends; None if nobody is interested.
        tolerances: rtol and atol, for control.
        first_step: size of each stretch's first step under control; None for a hundredth of it.
        dt_min: under control, a batch that would need a shorter step ends as `step_underflow`.
        max_evaluations: per sample; not exceeded.

    Returns:
        How every sample ended.

    Raises:
        ValueError: for a device that has no float64.
    """
    if y.device.type == "mps":
        raise ValueError(
            f"method={method!r} multiplies states by float64 times, which {y.device} lacks; "
            "take one of our own methods, such as 'sra1'"
        )
    import torchsde

    name = method.removeprefix(PREFIX)
    result = Outcome.at_start(y, route)
    samples = np.arange(y.shape[0])
    begin, seen = route.begin, route.seen_first
    for end, before, behind in zip(
        route.stops.tolist(), route.seen_before.tolist(), route.seen_behind.tolist(), strict=True
    ):
        ulp = float(np.spacing(max(abs(begin), abs(end))))
        control = None if step is not None else max(dt_min, _UNDERFLOW_ULPS * ulp)
        if step is not None:
            dt = (end - begin) / max(1, math.ceil((end - begin) / step - 1e-9))
            dt += _SLIVER_ULPS * ulp
        else:
            dt = min(first_step or (end - begin) / 100, end - begin)
        stretch = _Stretch(
            name,
            drift,
            diffusion,
            path,
            log,
            samples,
            y,
            route.sign,
            (seen, before),
            control,
            max_evaluations,
        )
        status = Status.non_finite
        good = np.zeros(len(samples), np.bool_)
        try:
            states = torchsde.sdeint(
                stretch,
                y.flatten(1),
                torch.tensor([begin, end], dtype=torch.float64),
                bm=stretch,
                method=name,
                dt=dt,
                adaptive=step is None,
                rtol=tolerances[0],
                atol=tolerances[1],
                dt_min=0.0,
            )
            stretch.close(end)
            y1 = states[-1].view_as(y)
            good = torch.isfinite(states[-1]).all(1).cpu().numpy()
        except _Stop as stop:
            stretch.close(math.nan)
            y1, status = y, stop.status
        except AssertionError as failure:
            # torchsde's only assertion at run time: its estimate is not a number.
            if "nans" not in str(failure):
                raise
            stretch.close(math.nan)
            y1 = y
        log.evaluations[samples] = drift.calls
        lost = samples[~good]
        result.status[lost] = status
        result.t[lost] = route.sign * begin
        result.y[index(lost, y)] = y[index(np.flatnonzero(~good), y)]
        keep = np.flatnonzero(good)
        if recorder is not None and len(keep):
            ends = np.full(len(samples), begin), np.full(len(samples), end)
            recorder.step(samples, *ends, y1, None, keep)
        y = y1[index(keep, y)]
        if len(lost):
            path.keep(keep)
            drift.select(keep)
            diffusion.select(keep)
            samples = samples[keep]
        if not len(samples):
            break
        begin, seen = end, behind
    result.y[index(samples, result.y)] = y
    result.t[samples] = route.sign * begin
    log.calls = drift.calls
    log.finish()
    return result
