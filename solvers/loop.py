"""The loops that every method runs in: per-sample control, and fixed grids.

Both run on the clock `s = sign * t`, which increases, and promise for any stepper:

* the end and every break point are hit exactly, and no step crosses them. A break point is where
  the field may jump: the step before it sees the last float before it, the step behind it starts
  from the first float behind it, with nothing remembered from before, and with the step size that
  was planned before the break point cut it short;
* a sample is controlled by its own errors, leaves the batch when it is done, and every attempt of
  it is logged;
* a step is accepted because its error is small enough, and for no other reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .controller import Array, Controller, flat
from .dense import Recorder
from .log import Status, StepLog
from .stepper import Rows, Span, Stepper, index, select

__all__ = ["Counter", "Outcome", "Route", "adaptive", "lockstep"]

# An attempt that is not finite is repeated this often with a tenth of the step, since a step that
# is too long can overflow; what is left after that did not overflow because of its length.
_STRIKES = 10
_STRIKE_FACTOR = 0.1
# A last step is stretched by this much rather than leaving a sliver behind.
_STRETCH = 1.01
# A step shorter than this many spacings of the floats at t has no stages to speak of.
_UNDERFLOW_ULPS = 16.0


class Counter(Protocol):
    """Counts evaluations and follows the batch; an `Evaluator` is one."""

    calls: int

    def spent(self) -> int | NDArray[np.int64]:
        """Evaluations since the last time this was asked: one number for all, or (n,)."""

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""


@dataclass
class Outcome:
    """How every sample ended.

    Attributes:
        y: last accepted states (B, ...).
        t: their times (B,).
        status: (B,), values of `Status`.
        dt: signed steps that were to be taken next, (B,); 0 where the end was reached.
        error: error ratios of the last attempts, (B,).
    """

    y: Tensor
    t: Array
    status: NDArray[np.int64]
    dt: Array
    error: Array


class Route:
    """The way from `t0` to `t1` with the break points on it, on the increasing clock.

    Args:
        t0: start.
        t1: end.
        breaks: times at which the field may jump; those outside [t0, t1] play no part, those at
            an end make the field be evaluated just inside it.
    """

    def __init__(self, t0: float, t1: float, breaks: tuple[float, ...]) -> None:
        self.sign = 1.0 if t1 >= t0 else -1.0
        self.t0, self.t1 = t0, t1
        low, high = self.sign * t0, self.sign * t1
        jumps = np.unique([self.sign * b for b in breaks if low <= self.sign * b <= high])
        self.begin = low
        self.seen_first = float(np.nextafter(low, np.inf)) if low in jumps else low
        # The ends of all stretches: as they are, and as seen from either side.
        self.stops = np.append(jumps[(jumps > low) & (jumps < high)], high)
        below = np.nextafter(self.stops, -np.inf)
        self.seen_before = np.where(np.isin(self.stops, jumps), below, self.stops)
        self.seen_behind = np.nextafter(self.stops, np.inf)

    def grid(self, times: Array) -> Array:
        """The grid `times`, on the clock and with the break points put in."""
        return np.union1d(self.sign * times, self.stops)


def adaptive(
    stepper: Stepper,
    counter: Counter,
    y: Tensor,
    route: Route,
    log: StepLog,
    recorder: Recorder | None,
    controller: Controller,
    first_step: Array | None,
    dt_min: float,
    max_evaluations: int,
) -> Outcome:
    """Integrate with steps controlled per sample.

    Args:
        stepper: the method, whose attempts carry errors.
        counter: counts the field's evaluations.
        y: initial states (B, ...).
        route: where to go.
        log: is written.
        recorder: is told of accepted steps; None if nobody is interested.
        controller: sets the step sizes.
        first_step: sizes of the first steps (B,); None to let the stepper suggest them.
        dt_min: a step that would have to be shorter than this ends as `step_underflow`.
        max_evaluations: per sample; not exceeded.

    Returns:
        How every sample ended.
    """
    batch = len(y)
    sign = route.sign
    result = Outcome(
        y.clone(),
        np.full(batch, route.t0),
        np.full(batch, Status.ok, np.int64),
        np.zeros(batch),
        np.full(batch, np.nan),
    )
    sample = np.arange(batch)
    s = np.full(batch, route.begin)
    seen = np.full(batch, route.seen_first)
    stretch = np.zeros(batch, np.int64)
    stop = np.full(batch, route.stops[0])
    seen_stop = np.full(batch, route.seen_before[0])
    last = len(route.stops) - 1
    history = np.zeros((3, batch))
    strikes, striking = np.zeros(batch, np.int64), False
    suggested = stepper.start(sign * seen, y, sign * (stop - s), first_step is None)
    begun = counter.spent()  # belongs to the first attempt
    used = np.zeros(batch, np.int64) + begun
    dt = np.array(first_step if suggested is None else suggested)
    error = result.error.copy()
    # Cheap bounds: as long as they hold, no sample can be short of steps or of evaluations.
    resolution = _UNDERFLOW_ULPS * np.spacing(max(abs(route.t0), abs(route.t1)))
    floor = max(dt_min, float(resolution))
    most = int(used.max(initial=0))

    def leave(rows: Rows, status: NDArray[np.int64] | Status) -> None:
        who, where = sample[rows], index(rows, y)
        result.y[index(who, y)] = y.index_select(0, where)
        result.t[who] = sign * s[rows]
        result.status[who] = status
        result.dt[who] = np.where(s[rows] == route.stops[-1], 0.0, sign * dt[rows])
        result.error[who] = error[rows]
        log.evaluations[who] = used[rows]

    while len(sample):
        failed = None
        if np.minimum.reduce(dt) <= floor or most + stepper.cost() > max_evaluations:
            over = used + stepper.cost() > max_evaluations
            short = dt <= np.maximum(dt_min, _UNDERFLOW_ULPS * np.spacing(np.abs(s)))
            short &= dt < stop - s  # being cut short by a stop is no underflow
            failed = over | short
            most = int(used.max())
        if failed is not None and failed.any():
            status = np.where(over, Status.max_evaluations, Status.step_underflow)
            status = np.where(short & (strikes > 0), Status.non_finite, status)
            gone = np.flatnonzero(failed)
            leave(gone, status[gone])
            keep = np.flatnonzero(~failed)
        else:
            gap = stop - s
            hit = gap <= dt * _STRETCH
            hits = np.count_nonzero(hit)
            s1 = seen1 = s + dt
            if hits:
                s1, seen1 = np.where(hit, stop, s1), np.where(hit, seen_stop, s1)
            closing = hit if hits else False
            step = s1 - s
            if sign > 0:
                t, dt_signed = s, step
                span = Span(s, s1, step, seen, seen1, closing)
            else:
                t, dt_signed = -s, -step
                span = Span(t, -s1, dt_signed, -seen, -seen1, closing)
            attempt = stepper.step(span, y)
            assert attempt.error is not None
            error = attempt.error
            accepted = error <= 1.0
            everyone = np.count_nonzero(accepted) == len(accepted)
            spent = counter.spent()
            used = used + spent
            most += spent if isinstance(spent, int) else int(spent.max())
            log.record(sample, t, dt_signed, error, accepted, begun + spent, attempt.order)
            begun = 0
            planned = dt
            ruling = error if attempt.control is None else attempt.control
            dt = step * controller.factors(ruling, accepted, history, attempt.local_order)
            if attempt.longest is not None:
                dt = np.minimum(dt, attempt.longest)
            if recorder is not None:
                rows = np.flatnonzero(accepted)
                recorder.step(sample, s, s1, attempt.y, attempt.dense, rows)
            stay: NDArray[np.bool_] | None = None
            if everyone:
                stepper.accept(None)
                y, s, seen = attempt.y, s1, seen1
                if striking:
                    strikes, striking = np.zeros_like(strikes), False
            else:
                stepper.accept(accepted)
                y = select(accepted, attempt.y, y)
                s, seen = np.where(accepted, s1, s), np.where(accepted, seen1, seen)
                bad = ~np.isfinite(error)
                striking = bool(bad.any())
                strikes = np.where(bad, strikes + 1, 0)
                if striking:
                    dt = np.where(bad, step * _STRIKE_FACTOR, dt)
                    out = strikes > _STRIKES
                    if out.any():
                        leave(np.flatnonzero(out), Status.non_finite)
                        stay = ~out
            arrived = hit & accepted
            if hits and arrived.any():
                # A step that was cut short says little about the next: resume the planned one.
                dt = np.where(arrived, np.maximum(dt, planned), dt)
                done = arrived & (stretch == last)
                crossed = np.flatnonzero(arrived & ~done)
                if len(crossed):
                    seen = seen.copy()
                    seen[crossed] = route.seen_behind[stretch[crossed]]
                    stretch = stretch.copy()
                    stretch[crossed] += 1
                    stop = route.stops[stretch]
                    seen_stop = route.seen_before[stretch]
                    history[:, crossed] = 0.0
                    stepper.restart(crossed)
                if done.any():
                    leave(np.flatnonzero(done), Status.ok)
                    stay = ~done if stay is None else stay & ~done
            if stay is None:
                continue
            keep = np.flatnonzero(stay)
        # Finished samples leave the batch and cost nothing from here on.
        sample, s, seen, dt, error = sample[keep], s[keep], seen[keep], dt[keep], error[keep]
        stretch, stop, seen_stop = stretch[keep], stop[keep], seen_stop[keep]
        history, strikes, used = history[:, keep], strikes[keep], used[keep]
        if len(keep):
            y = y.index_select(0, index(keep, y))
            stepper.select(keep)
            counter.select(keep)
    log.calls = counter.calls
    log.finish()
    return result


def lockstep(
    stepper: Stepper,
    counter: Counter,
    y: Tensor,
    route: Route,
    grid: Array,
    log: StepLog,
    recorder: Recorder | None,
    max_evaluations: int,
) -> Outcome:
    """Integrate on a grid that all samples share, without control.

    Args:
        stepper: the method; errors that it may estimate are logged and otherwise ignored.
        counter: counts the field's evaluations.
        y: initial states (B, ...).
        route: where to go.
        grid: times from `route.t0` to `route.t1`; break points on the way are added to it.
        log: is written.
        recorder: is told of the steps; None if nobody is interested.
        max_evaluations: per sample; not exceeded.

    Returns:
        How every sample ended.
    """
    batch = len(y)
    sign = route.sign
    result = Outcome(
        y.clone(),
        np.full(batch, route.t0),
        np.full(batch, Status.ok, np.int64),
        np.zeros(batch),
        np.full(batch, np.nan),
    )
    sample = np.arange(batch)
    clock = route.grid(grid)
    ends = clock.tolist()
    before = dict(zip(route.stops.tolist(), route.seen_before.tolist(), strict=True))
    behind = dict(zip(route.stops.tolist(), route.seen_behind.tolist(), strict=True))
    used = 0  # the same for all: they leave the batch, but never step apart
    seen = route.seen_first
    s = ends[0]
    stepper.start(sign * seen, y, sign * (route.stops[0] - s), False)

    def leave(rows: Rows, status: Status, dt: float) -> None:
        who, where = sample[rows], index(rows, y)
        result.y[index(who, y)] = y.index_select(0, where)
        result.t[who] = sign * s
        result.status[who] = status
        result.dt[who] = dt
        log.evaluations[who] = used

    for s1 in ends[1:]:
        dt = sign * (s1 - s)
        if used + stepper.cost() > max_evaluations:
            leave(np.arange(len(sample)), Status.max_evaluations, dt)
            sample = sample[:0]
            break
        seen1 = before.get(s1, s1)
        closing = s1 in before
        span = Span(sign * s, sign * s1, dt, sign * seen, sign * seen1, closing)
        attempt = stepper.step(span, y)
        spent = counter.spent()
        assert isinstance(spent, int)
        used += spent
        # One cheap reduction finds out whether anything at all went wrong.
        good = _finite(attempt.y)
        error = np.nan if attempt.error is None else attempt.error
        accepted = True if good is None else good
        log.record(sample, sign * s, dt, error, accepted, spent, attempt.order)
        stepper.accept(None)
        if recorder is not None:
            full = np.full(len(sample), s), np.full(len(sample), s1)
            rows = np.arange(len(sample)) if good is None else np.flatnonzero(good)
            recorder.step(sample, *full, attempt.y, attempt.dense, rows)
        if good is None:
            y = attempt.y
        else:
            leave(np.flatnonzero(~good), Status.non_finite, dt)
            keep = np.flatnonzero(good)
            y = attempt.y.index_select(0, index(keep, y))
            sample = sample[keep]
            if not len(sample):
                break
            stepper.select(keep)
            counter.select(keep)
        s, seen = s1, seen1
        if s1 in behind and s1 != ends[-1]:
            seen = behind[s1]
            stepper.restart(np.arange(len(sample)))
    leave(np.arange(len(sample)), Status.ok, 0.0)
    log.calls = counter.calls
    log.finish()
    return result


def _finite(y: Tensor) -> NDArray[np.bool_] | None:
    """Which samples are finite, (n,); None if all of them are."""
    if np.isfinite(y.sum().item()):
        return None
    good: NDArray[np.bool_] = flat(torch.isfinite(y)).all(1).cpu().numpy()
    return None if good.all() else good
