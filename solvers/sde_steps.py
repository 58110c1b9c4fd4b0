r"""One step of `dy = f(t, y) dt + g dW`: Euler-Maruyama, stochastic Heun, Rößler's SRA methods.

The main case is **additive** noise, g = g(t), one number per sample; there the Itô and the
Stratonovich equation are the same. With `h = |dt|`, `W` and `Z` the Brownian increment of the step
and its time integral (`brownian`), `f_0 = f(t_0, y_0)`, `g_0 = g(t_0)` and `g_1 = g(t_1)`:

    euler-maruyama     y_1 = y_0 + dt f_0 + g_0 W
    stochastic-heun    y_1 = y_0 + dt (f_0 + f(t_1, y_em)) / 2 + (g_0 W + g_1 W) / 2,
                       y_em the Euler-Maruyama result
    sra1, sra3         y_1 = y_0 + dt sum_i alpha_i f(t_0 + c_i dt, H_i) + g_1 W + (g_0 - g_1) Z/h,
                       H_i = y_0 + dt sum_(j<i) a_ij f_j + (b_i1 g_1 + b_i0 g_0) Z/h

The last line holds Rößler's methods (2010, *Runge-Kutta methods for the strong approximation of
solutions of stochastic differential equations*). Strong orders for additive noise: 1, 1, 3/2, 3/2.
**Diagonal** noise g(t, y), elementwise, is for the first two: Euler-Maruyama then solves the Itô
equation (strong order 1/2), stochastic Heun the Stratonovich equation (strong order 1).

**Error.** Every method with a second stage holds Euler-Maruyama's result, and the difference to it
is the estimate: it costs no evaluation, unlike step doubling, which takes three steps' worth to
judge one. What it leaves out, f' g Z and g' (h W - Z), is of size h^(3/2), in the drift and in the
noise both, and this is the local order that control uses. The global error of sra1 and sra3, also
of order h^(3/2), is therefore in proportion to the tolerance. (Rackauckas & Nie 2017 and
Jolicoeur-Martineau et al. 2021 estimate likewise.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .brownian import Brownian
from .controller import Array, ErrorNorm, column, first_step
from .stepper import (
    Attempt,
    Evaluator,
    Field,
    FirstStage,
    Mask,
    Rows,
    Span,
    Time,
    step_factor,
    times,
)

__all__ = [
    "SRA",
    "SRA1",
    "SRA3",
    "Additive",
    "Diagonal",
    "Diffusion",
    "EulerMaruyama",
    "SDEStepper",
    "StochasticHeun",
]

Diffusion = Callable[..., Any]
"""g(t) -> (n,) numbers on the host (tensor, array or float), or g(t, y, *args) -> (n, ...)."""

# How the distance to Euler-Maruyama's result scales with the step.
_LOCAL_ORDER = 1.5


class Additive:
    """g(t): the same factor for all elements of a sample."""

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        """g as a factor (n, 1, ..., 1) of states."""
        batch = len(y)
        value = self.diffusion(times(t, batch))
        host = np.asarray(value.cpu() if isinstance(value, Tensor) else value, np.float64)
        if host.shape not in ((), (1,), (batch,)):
            raise ValueError(
                f"diffusion returned shape {host.shape} for {batch} samples; it must return one "
                "number per sample, or take the state too and be used with noise='diagonal'"
            )
        return column(np.array(np.broadcast_to(host, (batch,))), y)

    def select(self, rows: Rows) -> None:
        """Nothing to drop."""


class Diagonal:
    """g(t, y): a factor for every element."""

    def __init__(self, diffusion: Field, args: Sequence[Tensor], batch: int) -> None:
        self._evaluate = Evaluator(diffusion, args, batch)

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        """g (n, ...) like the states."""
        return self._evaluate(t, y)

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""
        self._evaluate.select(rows)


class SDEStepper:
    """What the methods share: the path, and the drift at a step's start, kept over rejections.

    Attributes:
        stages: evaluations of the drift per step.
        order: order without noise, which is what the log shows.
    """

    stages: int
    order: int

    def __init__(
        self,
        drift: Evaluator,
        diffusion: Additive | Diagonal,
        path: Brownian,
        sign: float,
        norm: ErrorNorm | None,
    ) -> None:
        self.drift = drift
        self.diffusion = diffusion
        self.path = path
        self.sign = sign
        self.norm = norm
        self._first = FirstStage(drift)

    def first_steps(self, t: Array, y: Tensor, limit: Array) -> Array:
        """Choose first steps from the drift's size and change along itself."""
        assert self.norm is not None
        self._first.value = slope = self.drift(t, y)
        return first_step(self.norm, 2, t, limit, y, slope, self.drift)

    def cost(self) -> int:
        """Evaluations of an attempt that begins with a fresh first stage."""
        return self.stages

    def accept(self, mask: Mask | None) -> None:
        """Move along the path; the drift at the start is void for the samples that moved."""
        assert self._first.value is not None
        moved = np.ones(self._first.value.shape[0], np.bool_) if mask is None else mask.copy()
        self._first.forget(moved)
        self.path.advance(moved)

    def restart(self, rows: Rows) -> None:
        """Nothing beyond a step's start is remembered, and that is evaluated anew anyway."""

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""
        self.path.keep(rows)
        self.diffusion.select(rows)
        self._first.select(rows)

    def _begin(
        self, span: Span, y: Tensor
    ) -> tuple[Tensor, float | Tensor, Tensor, Tensor | None]:
        """f_0, dt as a factor, W and Z of a step."""
        slope = self._first.at(span, y)
        end = np.broadcast_to(self.sign * np.asarray(span.t1), (len(y),))
        w, z = self.path.increment(end)
        return slope, step_factor(span.dt, y), w, z

    def _attempt(self, y: Tensor, y1: Tensor, embedded: Tensor, span: Span) -> Attempt:
        """The step to `y1`, judged by its distance from the Euler-Maruyama result `embedded`."""
        if self.norm is None:
            return Attempt(y1, None, self.order, _LOCAL_ORDER)
        error = self.norm(y1 - embedded, y, y1, *span.ends())
        return Attempt(y1, error, self.order, _LOCAL_ORDER)


class EulerMaruyama(SDEStepper):
    """Euler-Maruyama, which estimates no error."""

    stages = 1
    order = 1

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Propose a step over `span` from the states `y` (n, ...)."""
        slope, dt, w, _ = self._begin(span, y)
        y1 = y + slope * dt + self.diffusion(span.start, y) * w
        return Attempt(y1, None, self.order, _LOCAL_ORDER)


class StochasticHeun(SDEStepper):
    """The trapezoidal rule, with Euler-Maruyama's result as its predictor and its estimate."""

    stages = 2
    order = 2

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Propose a step over `span` from the states `y` (n, ...)."""
        slope, dt, w, _ = self._begin(span, y)
        kick = self.diffusion(span.start, y) * w
        euler = y + slope * dt + kick
        drift = (slope + self.drift(span.stop, euler)) * dt
        y1 = y + 0.5 * (drift + kick + self.diffusion(span.stop, euler) * w)
        return self._attempt(y, y1, euler, span)


@dataclass(frozen=True)
class SRATableau:
    """Coefficients of a method for additive noise; rows are stages.

    Attributes:
        c: where in the step the drift is evaluated.
        a: weights of the earlier drifts in a stage.
        b: weights of g_1 Z/h and g_0 Z/h in a stage.
        alpha: weights of the drifts in the result.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[tuple[float, float], ...]
    alpha: tuple[float, ...]


class SRA(SDEStepper):
    """Rößler's methods for additive noise, from their tableaus."""

    tableau: SRATableau

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Propose a step over `span` from the states `y` (n, ...)."""
        tableau = self.tableau
        slope, dt, w, z = self._begin(span, y)
        if z is None:
            raise ValueError("path has no time integrals; make it with area=True for this method")
        before, behind = self.diffusion(span.start, y), self.diffusion(span.stop, y)
        mean = z / (dt.abs() if isinstance(dt, Tensor) else abs(dt))
        slopes = [slope * dt]
        for c, row, (b1, b0) in zip(tableau.c[1:], tableau.a[1:], tableau.b[1:], strict=True):
            stage = y
            for a, earlier in zip(row, slopes, strict=True):
                stage = torch.add(stage, earlier, alpha=a)
            if b1 or b0:
                stage = torch.addcmul(stage, behind * b1 + before * b0, mean)
            slopes.append(self.drift(span.at(c), stage) * dt)
        y1 = y + behind * w + (before - behind) * mean
        for alpha, earlier in zip(tableau.alpha, slopes, strict=True):
            y1.add_(earlier, alpha=alpha)
        if self.norm is None:
            return Attempt(y1, None, self.order, _LOCAL_ORDER)
        return self._attempt(y, y1, y + slopes[0] + before * w, span)


class SRA1(SRA):
    """Rößler's SRA1: two stages."""

    stages = 2
    order = 2
    tableau = SRATableau(
        c=(0, 3 / 4),
        a=((), (3 / 4,)),
        b=((0, 0), (3 / 2, 0)),
        alpha=(1 / 3, 2 / 3),
    )


class SRA3(SRA):
    """Rößler's SRA3: three stages."""

    stages = 3
    order = 3
    tableau = SRATableau(
        c=(0, 1, 1 / 2),
        a=((), (1,), (1 / 4, 1 / 4)),
        b=((0, 0), (0, 0), (1, 1 / 2)),
        alpha=(1 / 6, 1 / 6, 2 / 3),
    )
