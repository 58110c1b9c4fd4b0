"""Where an integration goes, and where its samples ended.

The loops run on the clock `s = sign * t`, which increases. A break point is where the field may
jump: the step before it sees the last float before it, the step behind it starts from the first
float behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .controller import Array
from .dense import Recorder
from .log import Status, StepLog
from .stepper import Counter, Rows, Stepper, index

__all__ = ["NEAR", "Outcome", "Route", "Run"]

NEAR = 0.01  # of a step


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

    @classmethod
    def at_start(cls, y: Tensor, route: Route) -> Outcome:
        """All samples still where the route begins."""
        batch = y.shape[0]
        return cls(
            y.clone(),
            np.full(batch, route.t0),
            np.full(batch, Status.ok, np.int64),
            np.zeros(batch),
            np.full(batch, np.nan),
        )

    def leave(
        self,
        who: Rows,
        rows: Rows,
        y: Tensor,
        t: float | Array,
        status: NDArray[np.int64] | Status,
        dt: float | Array,
        error: float | Array = np.nan,
    ) -> None:
        """The samples `who` end, whose states are the rows `rows` of y (n, ...)."""
        self.y.index_copy_(0, index(who, y), y.index_select(0, index(rows, y)))
        self.t[who], self.status[who], self.dt[who], self.error[who] = t, status, dt, error


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
        """The grid `times`, on the clock and with the break points put in.

        A point that is nearer to a break point than `NEAR` times the steps beside it gives way to
        it: polynomials through both would divide rounding errors by their distance.
        """
        points = self.sign * times
        inner = points[1:-1]
        steps = np.diff(points)
        apart = np.abs(inner[:, None] - self.stops).min(1)
        inner = inner[apart >= NEAR * np.minimum(steps[:-1], steps[1:])]
        return np.union1d(np.r_[points[0], inner, points[-1]], self.stops)


@dataclass
class Run:
    """What a loop integrates.

    Attributes:
        stepper: the method.
        counter: counts the field's evaluations.
        y: initial states (B, ...).
        route: where to go.
        log: is written.
        recorder: is told of accepted steps; None if nobody is interested.
        max_evaluations: per sample; not exceeded.
    """

    stepper: Stepper
    counter: Counter
    y: Tensor
    route: Route
    log: StepLog
    recorder: Recorder | None
    max_evaluations: int

    def close(self) -> None:
        """All samples have ended."""
        self.log.calls = self.counter.calls
        self.log.finish()
