"""Differential equations with exact answers.

Each is a field `f(t, y)` on a batch `y` (B, D) with times `t` (B,), and its solution through
`(t0, y0)` in closed form. They are elementwise in the batch, and all but `rotation` in D too, and
use only operations that round alike wherever an element stands, so that results can be compared
bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """A field with the solution at `t1` of the problem that starts from `y0` at `t0`."""

    name: str
    field: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[float, Tensor, float], Tensor]


def column(t: Tensor, y: Tensor) -> Tensor:
    """Times (B,) as a factor for states (B, ...)."""
    return t.to(y.dtype).to(y.device).view((-1,) + (1,) * (y.ndim - 1))


def _turn(y: Tensor, angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack([c * y[:, 0] - s * y[:, 1], s * y[:, 0] + c * y[:, 1]], dim=1)


DECAY = Problem("decay", lambda t, y: -y, lambda t0, y0, t1: y0 * math.exp(t0 - t1))
RICCATI = Problem(
    "riccati",
    lambda t, y: -2 * column(t, y) * y * y,
    lambda t0, y0, t1: 1 / (1 / y0 + (t1 * t1 - t0 * t0)),
)
ROTATION = Problem(
    "rotation",
    lambda t, y: 2 * column(t, y) * torch.stack([-y[:, 1], y[:, 0]], dim=1),
    lambda t0, y0, t1: _turn(y0, t1 * t1 - t0 * t0),
)
ZERO = Problem("zero", lambda t, y: torch.zeros_like(y), lambda t0, y0, t1: y0)
CONSTANT = Problem(
    "constant", lambda t, y: torch.full_like(y, 3.0), lambda t0, y0, t1: y0 + 3 * (t1 - t0)
)


def stiff(rate: float = 1000.0) -> Problem:
    """Relaxation towards t^2 at a high rate; it forgets where it began."""

    def exact(t0: float, y0: Tensor, t1: float) -> Tensor:
        def slow(t: float) -> float:
            return t * t - 2 * t / rate + 2 / rate**2

        return (y0 - slow(t0)) * math.exp(-rate * (t1 - t0)) + slow(t1)

    return Problem("stiff", lambda t, y: -rate * (y - column(t * t, y)), exact)


def jump(at: float, before: float = 1.0, behind: float = -2.0) -> Problem:
    """A slope that jumps: `before` for t < at, `behind` for t >= at."""

    def exact(t0: float, y0: Tensor, t1: float) -> Tensor:
        def area(t: float) -> float:
            return before * min(t - at, 0.0) + behind * max(t - at, 0.0)

        return y0 + (area(t1) - area(t0))

    def field(t: Tensor, y: Tensor) -> Tensor:
        slope = torch.where(t < at, before, behind)
        return column(slope, y).expand_as(y).clone()

    return Problem("jump", field, exact)
