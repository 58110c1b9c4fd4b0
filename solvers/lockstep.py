"""The loop of fixed grids, which all samples step along together.

It promises what `loop` promises, but for control: break points on the way are put into the grid.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .controller import Array, flat
from .log import Status
from .route import Outcome, Run
from .stepper import Rows, Span, index

__all__ = ["lockstep"]


def lockstep(run: Run, grid: Array) -> Outcome:
    """Integrate on a grid that all samples share, without control.

    Args:
        run: what; errors that its stepper may estimate are logged and otherwise ignored.
        grid: times from the start to the end; break points on the way are added to it.

    Returns:
        How every sample ended.
    """
    stepper, counter, y, route, log = run.stepper, run.counter, run.y, run.route, run.log
    sign = route.sign
    result = Outcome.at_start(y, route)
    sample = np.arange(y.shape[0])
    ends = route.grid(grid).tolist()
    before = dict(zip(route.stops.tolist(), route.seen_before.tolist(), strict=True))
    behind = dict(zip(route.stops.tolist(), route.seen_behind.tolist(), strict=True))
    used = 0  # the same for all: they leave the batch, but never step apart
    seen = route.seen_first
    s = ends[0]

    def leave(rows: Rows, status: Status, dt: float) -> None:
        result.leave(sample[rows], rows, y, sign * s, status, dt)
        log.evaluations[sample[rows]] = used

    for s1 in ends[1:]:
        dt = sign * (s1 - s)
        if used + stepper.cost() > run.max_evaluations:
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
        if run.recorder is not None:
            full = np.full(len(sample), s), np.full(len(sample), s1)
            rows = np.arange(len(sample)) if good is None else np.flatnonzero(good)
            run.recorder.step(sample, *full, attempt.y, attempt.dense, rows)
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
    run.close()
    return result


def _finite(y: Tensor) -> NDArray[np.bool_] | None:
    """Which samples are finite, (n,); None if all of them are."""
    if np.isfinite(y.sum().item()):
        return None
    good: NDArray[np.bool_] = flat(torch.isfinite(y)).all(1).cpu().numpy()
    return None if good.all() else good
