"""What `odeint` and `sdeint` return, and the error they raise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .controller import Array, Controller
from .dense import Interpolant
from .log import Status, StepLog
from .route import Outcome

__all__ = ["Solution", "SolverError"]


@dataclass
class Solution:
    """The end states of a batch, how they were reached, and under which settings.

    Attributes:
        y: (B, ...): the state at `t`; at the end for the samples that reached it, else the last
            accepted one.
        t: (B,) float64: the time each sample reached; exactly `t1` where its status is ok.
        status: (B,) int64: values of `Status`.
        dt: (B,) float64: the signed step that a sample was about to take where it stopped early.
        error: (B,) float64: error ratio of each sample's last attempt; NaN without estimates.
        log: every attempt.
        trajectory: (T, B, ...): states at the times asked for; NaN where a sample did not get
            there. None if none were asked for.
        interpolant: the solution as a function of time, if asked for.
        method, rtol, atol, controller, breaks, t0, t1: the settings, so that a figure can say
            what it shows. `controller` is None where steps were not controlled.
    """

    y: Tensor
    t: Array
    status: NDArray[np.int64]
    dt: Array
    error: Array
    log: StepLog
    method: str
    rtol: float
    atol: float
    controller: Controller | None
    breaks: tuple[float, ...]
    t0: float
    t1: float
    trajectory: Tensor | None = None
    interpolant: Interpolant | None = None

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which samples reached the end, (B,)."""
        good: NDArray[np.bool_] = self.status == Status.ok
        return good

    def caption(self) -> str:
        """The settings in one line."""
        if self.controller is None:
            control = "fixed steps"
        else:
            control = f"rtol {self.rtol:g}, atol {self.atol:g}, {self.controller.name} control"
        told = f", {len(self.breaks)} break points" if self.breaks else ""
        return f"{self.method}, {control}{told}"

    def failures(self, most: int = 3) -> str:
        """Which samples failed, where and how, in words; empty if none did."""
        bad = np.flatnonzero(~self.ok)
        if not len(bad):
            return ""
        words = [
            f"sample {i}: {Status(int(self.status[i])).name} at t={self.t[i]:.9g}, "
            f"dt={self.dt[i]:.3g}, error={self.error[i]:.3g}"
            for i in bad[:most]
        ]
        more = f"; and {len(bad) - most} more" if len(bad) > most else ""
        return f"{len(bad)} of {len(self.status)} samples failed: {'; '.join(words)}{more}"


class SolverError(RuntimeError):
    """Some samples did not reach the end; `solution` holds all that were and were not finished."""

    def __init__(self, solution: Solution) -> None:
        super().__init__(
            f"{solution.failures()} ({solution.caption()}). "
            "Use on_failure='return' to get the samples that succeeded"
        )
        self.solution = solution


def conclude(
    outcome: Outcome,
    log: StepLog,
    method: str,
    rtol: float,
    atol: float,
    controller: Controller | None,
    breaks: tuple[float, ...],
    t0: float,
    t1: float,
    on_failure: str,
    trajectory: Tensor | None = None,
    interpolant: Interpolant | None = None,
) -> Solution:
    """The solution of a run that ended as `outcome`; arguments as the attributes of `Solution`.

    Raises:
        SolverError: if a sample did not reach the end and `on_failure` is "raise".
    """
    solution = Solution(
        outcome.y, outcome.t, outcome.status, outcome.dt, outcome.error, log, method, rtol, atol,
        controller, breaks, t0, t1, trajectory, interpolant,
    )  # fmt: skip
    if on_failure == "raise" and not solution.ok.all():
        raise SolverError(solution)
    return solution
