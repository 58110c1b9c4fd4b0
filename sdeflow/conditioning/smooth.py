r"""Smooth time: c(t) with c'(0) = 0 and no jumps.

The derivative of a network through its condition is (dF/dc) c'(t), so it goes to 0 with t as long
as dF/dc stays bounded. All shapes are about t, up to a constant, far above a scale s:

    hyperbola    h(t) = sqrt(t^2 + s^2) - s                  ~ t^2 / (2 s)         near 0
    power p      c(t) = (t^p + s^p)^(1/p) - s                ~ t^p / (p s^(p-1))   near 0
    equalised    c(t) = G(h(t)),   G'(h(t)) = A D(max(t, s))

The hyperbola is the power 2. A larger p hides more of t below s and bends more sharply at s; as
p -> 1, c -> t. Of both c' = (t / (t^p + s^p)^(1/p))^(p-1), below 1 and growing with t.

The equalised shape takes a measured steepness D(t) = E||d eps/dt||. Alone, c' = A D would make
the derivative by what the network is told, E||d eps/dc|| = D / c', the same 1/A at all times; but
D grows as t -> 0, so that c would be steepest there: as log-SNR is, which is this c for data on a
manifold, where D is about 1/t. That is the opposite of c'(0) = 0: nothing is hidden, and the
derivative in time stays what it was. So both are done, each on its own side of s. For t >= s,

    D / c'  =  sqrt(1 + (s/t)^2) / A,     between 1/A and 1.42/A,

the target has the same slope everywhere; below s, where D is held at D(s), c' = A D(s) h'(t) goes
to 0 with t and hides what is there as the hyperbola does. With s small, it is the remap that
equalises; with D constant, it is the hyperbola.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Conditioning
from .tables import read_steepness

__all__ = ["EqualisedTime", "SmoothTime", "make_smooth"]

LARGEST_POWER = 16.0
NEAR = 1 + 1e-9  # times less apart than this factor are one


class SmoothTime(Conditioning):
    """c = (t^p + s^p)^(1/p) - s; for p = 2, sqrt(t^2 + s^2) - s.

    About t - s far from 0, about t^p / (p s^(p-1)) near it. Written without the difference of
    nearly equal numbers, so that c is accurate to a few ulp however small t is.

    Args:
        s: time scale of the smoothing, in units of t.
        power: p, in (1, 16].
    """

    def __init__(self, s: float = 0.1, power: float = 2.0) -> None:
        if not 0 < s < math.inf:
            raise ValueError(f"smooth_scale={s}: need a positive time scale, e.g. 0.1")
        if not 1 < power <= LARGEST_POWER:
            raise ValueError(
                f"smooth_shape=power:{power:g}: need a power above 1, where c'(0) = 0, and at "
                f"most {LARGEST_POWER:g}, e.g. power:3"
            )
        self.s, self.power = s, power

    def __call__(self, t: Tensor) -> Tensor:
        if self.power == 2:
            return t * t / (torch.sqrt(t * t + self.s**2) + self.s)
        s = torch.full_like(t, self.s)
        small, large = torch.minimum(t, s), torch.maximum(t, s)
        ratio = (small / large) ** self.power
        return large * torch.expm1(torch.log1p(ratio) / self.power) + (large - s)

    def __repr__(self) -> str:
        shape = "" if self.power == 2 else f", power={self.power:g}"
        return f"SmoothTime(s={self.s:g}{shape})"


class EqualisedTime(Conditioning):
    """c = G(h(t)), h the hyperbola of scale s and G' proportional to a measured steepness.

    G' is linear in h between the times of the table and constant outside and below s, so that G
    is piecewise quadratic, monotone and once continuously differentiable, without rounding that
    matters near 0. A is such that c(1) = h(1).

    Args:
        table: pairs (t, D), t ascending in (0, 1], D positive: the steepness at these times.
        s: time scale of the smoothing, in (0, 1).

    Raises:
        ValueError: a table or a scale that makes no monotone condition.
    """

    def __init__(self, table: Sequence[tuple[float, float]], s: float = 0.1) -> None:
        if not 0 < s < 1:
            raise ValueError(f"smooth_scale={s}: the equalised shape needs a scale in (0, 1)")
        times, steepness = [float(t) for t, _ in table], [float(d) for _, d in table]
        ascending = all(a * NEAR < b for a, b in zip([0.0, *times], times, strict=False))
        if not (times and ascending and times[-1] <= 1 and min(steepness) > 0):
            raise ValueError(
                f"smooth_shape: a table of {len(times)} times must ascend in (0, 1], with "
                "positive derivatives; measure them with `sdeflow lipschitz`"
            )
        if not math.isfinite(sum(steepness)):
            raise ValueError("smooth_shape: the table holds an infinite derivative; leave it out")
        self.s, self.size = s, len(times)
        self._h = SmoothTime(s)
        t, d = (torch.tensor(v, dtype=torch.float64) for v in (times, steepness))
        own, h = t[(t > s * NEAR) & (t * NEAR < 1)], self._h(t)
        nodes = self._h(torch.tensor([0.0, s, *own.tolist(), 1.0], dtype=torch.float64))
        slopes = _linear(nodes, h, d)
        slopes[0] = slopes[1]  # held at D(s) below s
        widths = nodes.diff()
        values = torch.cat([nodes[:1], (0.5 * (slopes[1:] + slopes[:-1]) * widths).cumsum(0)])
        slopes = slopes * (nodes[-1] / values[-1])
        values = values * (nodes[-1] / values[-1])
        self._pieces = (nodes, values, slopes, slopes.diff() / widths)

    def __call__(self, t: Tensor) -> Tensor:
        nodes, values, slopes, bends = (piece.to(t.device) for piece in self._pieces)
        h = self._h(t)
        index = (torch.bucketize(h.detach(), nodes, right=True) - 1).clamp(0, len(bends) - 1)
        past = h - nodes[index]
        return values[index] + past * (slopes[index] + 0.5 * bends[index] * past)

    def __repr__(self) -> str:
        return f"EqualisedTime(table of {self.size}, s={self.s:g})"


def _linear(x: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear interpolation, constant outside."""
    if len(known) == 1:
        return values.expand(len(x)).clone()
    right = torch.bucketize(x, known).clamp(1, len(known) - 1)
    share = (x - known[right - 1]) / (known[right] - known[right - 1])
    return torch.lerp(values[right - 1], values[right], share.clamp(0, 1))


def make_smooth(shape: str = "hyperbola", s: float = 0.1) -> SmoothTime | EqualisedTime:
    """Smooth time from plain settings.

    Args:
        shape: "hyperbola", "power:P", or what `read_steepness` takes: the equalised shape.
        s: time scale of the smoothing.

    Raises:
        ValueError: a shape that is none of these, or a scale that it cannot have.
    """
    if shape == "hyperbola":
        return SmoothTime(s)
    if shape.startswith("power:"):
        given = shape.removeprefix("power:")
        try:
            power = float(given)
        except ValueError:
            raise ValueError(
                f"smooth_shape={shape!r}: {given!r} is not a number; write e.g. power:3"
            ) from None
        return SmoothTime(s, power)
    return EqualisedTime(read_steepness(shape), s)
