"""The loop of steps that are controlled, for every sample by its own errors.

It runs on the clock `s = sign * t`, which increases, and promises for any stepper:

* the end and every break point are hit exactly, and no step crosses them. Behind a break point
  nothing is remembered from before but the step size that was planned before it cut a step short;
* a sample is controlled by its own errors, leaves the batch when it is done, and every attempt of
  it is logged;
* a step is accepted because its error is small enough, and for no other reason.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .controller import Array, Controller
from .log import Status
from .route import Outcome, Run
from .stepper import Rows, Span, index, select

__all__ = ["adaptive"]

# An attempt that is not finite is repeated this often with a tenth of the step, since a step that
# is too long can overflow; what is left after that did not overflow because of its length.
_STRIKES = 10
_STRIKE_FACTOR = 0.1
# A last step is stretched by this much rather than leaving a sliver behind.
_STRETCH = 1.01
# A step shorter than this many spacings of the floats at t has no stages to speak of.
_UNDERFLOW_ULPS = 16.0


def adaptive(run: Run, controller: Controller, first_step: Array | None, dt_min: float) -> Outcome:
    """Integrate with steps controlled per sample.

    Args:
        run: what; the attempts of its stepper carry errors.
        controller: sets the step sizes.
        first_step: sizes of the first steps (B,); None to let the stepper suggest them.
        dt_min: a step that would have to be shorter than this ends as `step_underflow`.

    Returns:
        How every sample ended.
    """
    stepper, counter, y, route, log = run.stepper, run.counter, run.y, run.route, run.log
    batch, sign = y.shape[0], route.sign
    result = Outcome.at_start(y, route)
    sample = np.arange(batch)
    s = np.full(batch, route.begin)
    seen = np.full(batch, route.seen_first)
    stretch = np.zeros(batch, np.int64)
    stop = np.full(batch, route.stops[0])
    seen_stop = np.full(batch, route.seen_before[0])
    last = len(route.stops) - 1
    history = np.zeros((3, batch))
    strikes, striking = np.zeros(batch, np.int64), False
    if first_step is None:
        first_step = stepper.first_steps(sign * seen, y, sign * (stop - s))
    dt = np.array(first_step)
    error = result.error.copy()
    begun = counter.spent()  # belongs to the first attempt
    # Evaluations: of every sample, and since then of all alike.
    used, shared = np.zeros(batch, np.int64) + begun, 0
    # Cheap bounds: as long as they hold, no sample can be short of steps or of evaluations.
    resolution = _UNDERFLOW_ULPS * np.spacing(max(abs(route.t0), abs(route.t1)))
    floor = max(dt_min, float(resolution))
    most = int(used.max(initial=0))

    def leave(rows: Rows, status: NDArray[np.int64] | Status) -> None:
        who = sample[rows]
        left = np.where(s[rows] == route.stops[-1], 0.0, sign * dt[rows])
        result.leave(who, rows, y, sign * s[rows], status, left, error[rows])
        log.evaluations[who] = used[rows] + shared

    while len(sample):
        failed = None
        if np.minimum.reduce(dt) <= floor or most + stepper.cost() > run.max_evaluations:
            over = used + (shared + stepper.cost()) > run.max_evaluations
            short = dt <= np.maximum(dt_min, _UNDERFLOW_ULPS * np.spacing(np.abs(s)))
            short &= dt < stop - s  # being cut short by a stop is no underflow
            failed = over | short
            most = int(used.max()) + shared
        if failed is not None and failed.any():
            status = np.where(over, Status.max_evaluations, Status.step_underflow)
            status = np.where(short & (strikes > 0), Status.non_finite, status)
            gone = np.flatnonzero(failed)
            leave(gone, status[gone])
            keep = np.flatnonzero(~failed)
        else:
            hit = stop - s <= dt * _STRETCH
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
            if isinstance(spent, int):
                shared += spent
                most += spent
            else:
                used = used + spent
                most += int(spent.max())
            log.record(sample, t, dt_signed, error, accepted, begun + spent, attempt.order)
            begun = 0
            planned = dt
            ruling = error if attempt.control is None else attempt.control
            dt = step * controller.factors(ruling, accepted, history, attempt.local_order)
            if attempt.longest is not None:
                np.minimum(dt, attempt.longest, out=dt)
            if run.recorder is not None:
                rows = np.flatnonzero(accepted)
                run.recorder.step(sample, s, s1, attempt.y, attempt.dense, rows)
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
            if hits:
                arrived = hit & accepted
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
        sample, stretch, strikes = sample.take(keep), stretch.take(keep), strikes.take(keep)
        s, seen, dt, error = s.take(keep), seen.take(keep), dt.take(keep), error.take(keep)
        stop, seen_stop = stop.take(keep), seen_stop.take(keep)
        history, used = history.take(keep, 1), used.take(keep)
        if len(keep):
            y = y.index_select(0, index(keep, y))
            stepper.select(keep)
            counter.select(keep)
    run.close()
    return result
