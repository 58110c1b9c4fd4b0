r"""Measure and interpolation clock of a chart as functions of its own clock, without the process.

All clocks but time and log-time are functions of rho = sigma/alpha alone, and so are the measures:

    x/alpha  mu = rho        x/sigma  mu = 1/rho        x/std  mu = atan(rho / sqrt v) / sqrt v

so that integrals over a step need rho(tau) and d rho/d tau only, in NumPy, and no schedule. The
same holds of the step from x/std to x/sigma, and so from N to the data:

    x/sigma = g x/std,    data = p N + q x/std
    g = sqrt(v + rho^2) / rho,    p = -rho / sqrt(v + rho^2),    q = v / sqrt(v + rho^2)

The data is the form to predict where rho is large beside the data's local width, as near a
manifold; N where it is not. And a network's errors at high noise make the flow rougher than its
exact form, where it is all but linear: no step is longer than 1.15 in log-SNR there, and 1 below.

Polynomials that reach over several steps need a clock in which those steps are alike:

    banded-linear  log((rho + r)/(1 + rho)) + rho/R

is the banded clock where rho is below the root of R, and linear in rho above. The banded clock
alone ends at rho = infinity, in 1/rho; an exact model is smooth in that, but a network's data
prediction there is the data plus rho times the error of its noise prediction.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from solvers import Gauge, Measure

from .chart import Chart

__all__ = ["chart_measure"]

Array = NDArray[np.float64]
# The longest step in log-SNR, and the longest where rho is above the edge.
_LONGEST, _LONGEST_HIGH, _HIGH = 1.0, 1.15, 10.0
_FAR = 50.0  # R of the clock banded-linear


def _ratio(chart: Chart, tau: Array) -> tuple[Array, Array]:
    """rho and d rho / d tau."""
    clock = chart.clock
    if clock == "log-snr":
        rho = np.exp(-tau)
        return rho, -rho
    if clock == "noise-ratio":
        return tau, np.ones_like(tau)
    if clock == "signal-ratio":
        return 1 / tau, -1 / (tau * tau)
    if clock in ("angle", "log-angle"):
        angle = tau if clock == "angle" else np.exp(tau)
        rho = np.tan(angle)
        turn = 1 + rho * rho
        return rho, turn if clock == "angle" else turn * angle
    share = np.exp(tau)
    if clock == "mixed":
        rho = share / -np.expm1(tau)
        return rho, rho * (1 + rho)
    if clock == "banded":
        rho = (share - chart.knee) / -np.expm1(tau)
        return rho, (rho + chart.knee) * (1 + rho) / (1 - chart.knee)
    if clock == "log-linear":
        rho = np.exp(-chart.log_snr(torch.from_numpy(tau)).numpy())
        return rho, 1 / (1 / (rho + chart.knee) + 1 / chart.elbow)
    t = chart.time(torch.from_numpy(tau))
    rho = np.exp(-chart.sde.log_snr(t).numpy())
    return rho, np.asarray(chart.sde.wronskian(t) / chart.sde.alpha(t) ** 2 / _speed(chart, t))


def _tau(chart: Chart, rho: Array) -> Array:
    """The clock at rho; inverse of `_ratio`."""
    clock = chart.clock
    if clock == "log-snr":
        return np.asarray(-np.log(rho))
    if clock == "noise-ratio":
        return rho
    if clock == "signal-ratio":
        return np.asarray(1 / rho)
    if clock in ("angle", "log-angle"):
        angle = np.arctan(rho)
        return np.asarray(angle if clock == "angle" else np.log(angle))
    if clock == "mixed":
        return np.asarray(-np.log1p(1 / rho))
    if clock == "banded":
        return np.asarray(np.log((rho + chart.knee) / (1 + rho)))
    if clock == "log-linear":
        return np.asarray(np.log(rho + chart.knee) + rho / chart.elbow)
    t = chart.sde.time_of_log_snr(torch.from_numpy(-np.log(rho)))
    return np.asarray(chart.tau(t).numpy())


def _speed(chart: Chart, t: torch.Tensor) -> torch.Tensor:
    """d tau / dt."""
    return chart.rate(t) * chart.sde.wronskian(t)


def chart_measure(chart: Chart, interpolate: str | None = None, falling: bool = True) -> Measure:
    """The measure of `chart`, and the clock in which its prediction is interpolated.

    Of the scale x/std it has the data's form too.

    Args:
        chart: the coordinates of integration; its scale is not x.
        interpolate: banded, banded-linear, log-linear or log-snr: a clock that is a function of
            rho; the chart's own clock by default.
        falling: whether the noise falls on the way, as in sampling; for the longest step.

    Raises:
        ValueError: the scale is x, or the interpolation clock is none of these.
    """
    root = math.sqrt(chart.variance)
    knee, elbow = chart.knee, chart.elbow
    chart.refuse_two_terms()
    clocks = {
        "banded": lambda rho: np.log((rho + knee) / (1 + rho)),
        "banded-linear": lambda rho: np.log((rho + knee) / (1 + rho)) + rho / _FAR,
        "log-linear": lambda rho: np.log(rho + knee) + rho / elbow,
        "log-snr": lambda rho: -np.log(rho),
    }
    if interpolate is not None and interpolate not in clocks:
        raise ValueError(f"interpolate={interpolate!r}: choose one of {', '.join(clocks)}")

    def mu(tau: Array) -> Array:
        rho, _ = _ratio(chart, tau)
        if chart.scale == "x/std":
            return np.asarray(np.arctan(rho / root) / root)
        return rho if chart.scale == "x/alpha" else 1 / rho

    def density(tau: Array) -> Array:
        rho, speed = _ratio(chart, tau)
        if chart.scale == "x/std":
            return speed / (chart.variance + rho * rho)
        return speed if chart.scale == "x/alpha" else -speed / (rho * rho)

    def clock(tau: Array) -> Array:
        return tau if interpolate is None else clocks[interpolate](_ratio(chart, tau)[0])

    def longest(tau: Array) -> Array:
        rho, _ = _ratio(chart, tau)
        steps = np.where(rho > _HIGH, _LONGEST_HIGH, _LONGEST)
        factor = np.exp(-steps if falling else steps)
        return np.asarray(np.abs(_tau(chart, rho * factor) - tau))

    gauge = _data_form(chart) if chart.scale == "x/std" else None
    return Measure(mu, density, clock, gauge, longest)


def _data_form(chart: Chart) -> Gauge:
    """From x/std and N to x/sigma and the data."""
    v = chart.variance

    def size(tau: Array) -> tuple[Array, Array]:
        rho, _ = _ratio(chart, tau)
        return rho, np.sqrt(v + rho * rho)

    def scale(tau: Array) -> Array:
        rho, norm = size(tau)
        return norm / rho

    def field(tau: Array) -> Array:
        rho, norm = size(tau)
        return -rho / norm

    def density(tau: Array) -> Array:
        rho, speed = _ratio(chart, tau)
        return -speed / (rho * rho)

    return Gauge(scale, field, lambda tau: v / size(tau)[1], density)
