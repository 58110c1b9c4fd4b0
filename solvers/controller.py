"""Step-size control per sample: error norms, I, PI and PID controllers, the first step.

The error of a step is measured in the user's units. With `w` the factor that turns the solver's
state `u` into the user's, and the root mean square taken over one sample's elements,

    r = rms( w_1 e / (atol + rtol * max(|w_0 u_0|, |w_1 u_1|)) ),        accepted if r <= 1.

A PID controller sets the next step, with `k` the local order of the estimate and `r_n`, `r_(n-1)`,
`r_(n-2)` the errors of the last accepted steps (Soderlind 2003), by

    dt_(n+1) = dt_n * safety * (r_n^-(p+i+d) * r_(n-1)^(p+2d) * r_(n-2)^-d) ^ (1/k),

limited to [min_factor, max_factor]; after a rejection only `r_n^(-1/k)` counts. Everything that
is not the state is a float64 NumPy array with one number per sample, and every operation acts on
samples apart: a sample's steps do not depend on the batch that it is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["PI", "PID", "Controller", "ErrorNorm", "I", "Weight", "first_step"]

Array = NDArray[np.float64]
Weight = Callable[[Array], Array]

_FOLDED = 8  # sums of so many numbers or fewer are cheaper on the host

# Error ratios count as no less than this, now and as the past of a later step: an exact step has
# 0, and steps that were far too short must not hold back those behind them.
_LEAST_NOW, _LOG_LEAST_PAST = 1e-16, math.log(1e-4)


@dataclass(frozen=True)
class PID:
    """Proportional-integral-derivative control of the step size.

    Attributes:
        p, i, d: the three gains; `p = d = 0`, `i = 1` is the classical controller.
        safety: factor on every step that the error suggests, in (0, 1].
        min_factor: the step shrinks to no less than this fraction at once, in (0, 1).
        max_factor: the step grows to no more than this multiple at once, above 1.
        shrink_accepted: whether an accepted step may be followed by a shorter one.
        grow_retried: whether a step that was accepted after a rejection may be followed by a
            longer one.
    """

    p: float = 0.3
    i: float = 0.3
    d: float = 0.05
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0
    shrink_accepted: bool = True
    grow_retried: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.safety <= 1:
            raise ValueError(f"safety={self.safety} must be in (0, 1]; 0.9 is usual")
        if not 0 < self.min_factor < 1:
            raise ValueError(f"min_factor={self.min_factor} must be in (0, 1); 0.2 is usual")
        if not self.max_factor > 1:
            raise ValueError(f"max_factor={self.max_factor} must be above 1; 10 is usual")
        if not self.p + self.i + self.d > 0:
            raise ValueError(
                f"gains p={self.p}, i={self.i}, d={self.d} must sum to more than 0, "
                "or the step would not react to its error"
            )

    @property
    def name(self) -> str:
        """Name for captions: i, pi or pid."""
        return "pid" if self.d else "pi" if self.p else "i"

    def factors(
        self, error: Array, accepted: NDArray[np.bool_], history: Array, order: float | Array
    ) -> Array:
        """Factors by which the steps of all samples change; `history` is brought up to date.

        Args:
            error: weighted error ratios of this attempt, (n,); not-a-number where it failed.
            accepted: which attempts were accepted, (n,).
            history: (3, n), changed in place: logarithms of the ratios of the last two accepted
                steps, and 1 where the last attempt was rejected. All 0 to begin with.
            order: local order `k` of the error estimate, one for all or (n,).

        Returns:
            The factors, (n,); `min_factor` where the error is not finite.
        """
        now = np.log(np.fmax(error, _LEAST_NOW))
        everywhere = np.count_nonzero(accepted) == len(accepted)
        power = -(self.p + self.i + self.d) * now
        if self.p or self.d:
            power += (self.p + 2 * self.d) * history[0]
            if self.d:
                power -= self.d * history[1]
            past = np.maximum(now, _LOG_LEAST_PAST)
            if everywhere:
                history[1] = history[0]
                history[0] = past
            else:
                history[1] = np.where(accepted, history[0], history[1])
                history[0] = np.where(accepted, past, history[0])
        if not everywhere:
            power = np.where(accepted, power, -now)
        power /= order
        factor = np.exp(power, out=power)
        factor *= self.safety
        low: float | Array = self.min_factor
        high: float | Array = self.max_factor
        if not (self.shrink_accepted or everywhere):
            low = np.where(accepted, 1.0, low)
        elif not self.shrink_accepted:
            low = 1.0
        retried = np.count_nonzero(history[2])
        if retried and not self.grow_retried:
            high = np.where(history[2], 1.0, high)
        np.minimum(np.maximum(factor, low, out=factor), high, out=factor)
        if retried or not everywhere:
            history[2] = ~accepted
        if everywhere:
            return factor
        failed = ~np.isfinite(error)
        return np.where(failed, self.min_factor, factor) if failed.any() else factor


@dataclass(frozen=True)
class PI(PID):
    """Proportional-integral control, the default.

    The gains were chosen on probability flows with a singular end: beside `I`, half as many to as
    many evaluations for the same error, 0.8 on average, and a tenth as many rejections where the
    steps must keep shrinking. What counts is the small integral gain.
    """

    p: float = 0.4
    i: float = 0.2
    d: float = 0.0


@dataclass(frozen=True)
class I(PID):  # noqa: E742 (the controller's usual name)
    """Integral control: the classical rule, which looks at the last error only."""

    p: float = 0.0
    i: float = 1.0
    d: float = 0.0


Controller = PID


class ErrorNorm:
    """Weighted root-mean-square norms of every sample, in the user's units.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance, in the user's units.
        weight: `weight(t)`, (n,) -> (n,), the factor that turns an error of the solver's state at
            time t into the user's units; None for 1.

    Example:
        >>> norm = ErrorNorm(rtol=0.0, atol=0.5)
        >>> zero = torch.zeros(1, 4)
        >>> norm(torch.ones(1, 4), zero, zero, np.zeros(1), np.zeros(1))
        array([2.])
    """

    def __init__(self, rtol: float, atol: float, weight: Weight | None = None) -> None:
        self.rtol = rtol
        self.atol = atol
        self.weight = weight
        self._atol = torch.tensor(atol)

    def __call__(self, error: Tensor, y0: Tensor, y1: Tensor, t0: Array, t1: Array) -> Array:
        """Error ratios (n,) of a step from `y0` at `t0` to `y1` at `t1`: one synchronisation.

        A sample whose error or new state is not finite has a ratio that is not finite.
        """
        if error.dtype in (torch.float16, torch.bfloat16):
            error, y0, y1 = error.float(), y0.float(), y1.float()
        if self.weight is None:
            size = torch.maximum(y0.abs(), y1.abs())
        else:
            w0, w1 = column(self.weight(t0), y0), column(self.weight(t1), y0)
            error = error * w1
            size = torch.maximum((y0 * w0).abs_(), (y1 * w1).abs_())
        # y1 - y1 is not 0 where y1 is not finite: an infinite y1 must not pass as a small error.
        ratio = (
            torch.sub(y1, y1).add_(error).div_(torch.add(self._floor(size), size, alpha=self.rtol))
        )
        return rms(ratio)

    def tolerance(self, y0: Any, y1: Any, w0: Any, w1: Any) -> Any:
        """The tolerance `atol + rtol max(|w0 y0|, |w1 y1|)` elementwise, in the user's units.

        Tensors or NumPy arrays alike: states of one shape, and the factors of their errors, or
        None for 1. In half precision the answer is float32.
        """
        arrays: Any = np if isinstance(y0, np.ndarray) else torch
        if y0.dtype in (torch.float16, torch.bfloat16):
            y0, y1 = y0.float(), y1.float()
        if w0 is not None:
            y0, y1 = y0 * w0, y1 * w1
        size = arrays.maximum(arrays.abs(y0), arrays.abs(y1))
        size *= self.rtol
        size += self.atol
        return size

    def scaled(self, value: Tensor, y: Tensor, t: Array) -> Array:
        """Size (n,) of `value`, a state or a derivative, relative to the tolerance at `y`."""
        if value.dtype in (torch.float16, torch.bfloat16):
            value, y = value.float(), y.float()
        if self.weight is not None:
            w = column(self.weight(t), y)
            value, y = value * w, y * w
        return rms(value / torch.add(self._floor(y), y.abs(), alpha=self.rtol))

    def _floor(self, like: Tensor) -> Tensor:
        """`atol` as a tensor (), which is cheaper to add than a number is."""
        if self._atol.dtype is not like.dtype or self._atol.device != like.device:
            self._atol = torch.tensor(self.atol, dtype=like.dtype, device=like.device)
        return self._atol


def column(values: Array, like: Tensor) -> Tensor:
    """Host numbers (n,) as a tensor (n, 1, ..., 1) with the dtype and device of `like`."""
    shape = (-1,) + (1,) * (like.ndim - 1)
    # NumPy casts faster, and the dtype must change before a device without float64 is reached.
    if like.dtype is torch.float32:
        return torch.from_numpy(values.astype(np.float32)).to(like.device).view(shape)
    return torch.from_numpy(values).to(like.dtype).to(like.device).view(shape)


def flat(y: Tensor) -> Tensor:
    """States (n, ...) as (n, number of elements)."""
    return y.flatten(1) if y.ndim > 1 else y.unsqueeze(1)


def rms(ratio: Any) -> Array:
    """Root mean square (n,) of each sample of `ratio`, which is overwritten.

    A reduction kernel may add in another order when the batch has another size, so the sums are
    folded in halves by elementwise additions, the same for every batch and device.

    Args:
        ratio: a tensor (n, ...), or a NumPy array (n, elements).
    """
    values: Any = ratio if isinstance(ratio, np.ndarray) else flat(ratio)
    width = size = values.shape[1]
    if size > _FOLDED:
        values *= values
        while width > _FOLDED:
            half = (width + 1) // 2
            values[:, : width - half] += values[:, half:width]
            width = half
    parts = values[:, :width]
    if not isinstance(parts, np.ndarray):
        parts = parts.cpu().numpy()
    parts = parts.astype(np.float64)
    if size <= _FOLDED:
        parts *= parts
    total: Array = parts[:, 0] if width else np.zeros(len(parts))
    for j in range(1, width):
        total = total + parts[:, j]
    total = np.sqrt(total / max(size, 1))
    return total


def first_step(
    norm: ErrorNorm,
    order: int,
    t: Array,
    limit: Array,
    y: Tensor,
    slope: Tensor,
    probe: Callable[[Array, Tensor], Tensor],
) -> Array:
    """Step sizes (n,) to begin with (Hairer, Norsett, Wanner, section II.4), one per sample.

    Args:
        norm: the norm that errors will be measured in.
        order: local order of the error estimate.
        t: starting times, (n,).
        limit: signed times to the first point that must not be passed, (n,).
        y: starting states.
        slope: the field at `(t, y)`.
        probe: the field; called once, at a point inside the limit.

    Returns:
        Sizes, positive, at most `|limit|`.
    """
    d0 = norm.scaled(y, y, t)
    d1 = norm.scaled(slope, y, t)
    far = np.abs(limit)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        h0 = np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        # A few ulps short of the limit: rounding must not carry the probe beyond it.
        h0 = np.minimum(h0, far * (1 - 4 * np.finfo(np.float64).eps))
        step = np.where(np.isfinite(h0), np.copysign(h0, limit), 0.0)
        change = probe(t + step, y + column(step, y) * slope) - slope
        d2 = norm.scaled(change, y, t) / h0
        largest = np.maximum(d1, d2)
        h1 = np.where(
            largest <= 1e-15, np.maximum(1e-6, h0 * 1e-3), (0.01 / largest) ** (1.0 / order)
        )
        dt = np.minimum(np.minimum(100 * h0, h1), far)
    # Where the slope is not finite any step will do: the attempt shows what is wrong.
    return np.where(np.isfinite(dt) & (dt > 0), dt, far * 1e-3)
