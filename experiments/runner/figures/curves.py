"""Steepness: in time, in sigma and in log-SNR, a curve for each arm, jumps in time as crosses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdeflow.plots import AXES_OF_NOISE, STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import (
    Array,
    arms_of,
    band,
    bands_of,
    legend_above,
    means_of,
    panels,
    pick,
    shared,
    style,
)

__all__ = ["steepness"]

UNITS = {"time": "t", "sigma": "sigma", "log_snr": "log-SNR"}


def steepness(
    experiment: Experiment, records: Records, problem: str, arms: list[str], title: str
) -> Figure | None:
    """Curves of some arms on one problem; None where there are not two to compare."""
    arms = [arm for arm in arms if arm in arms_of(records, problem, "lipschitz")]
    if len(arms) < 2:
        return None
    mine = shared(
        [r for r in pick(records, problem=problem, evaluation="lipschitz") if r["arm"] in arms]
    )
    arms = [arm for arm in arms if pick(mine, arm=arm)]
    if len(arms) < 2:
        return None
    caption = (
        f"{title}. Lines: {means_of(mine)} of the norm of the derivative of the noise "
        f"prediction, in time, in sigma and in log-SNR{bands_of(mine)}"
    )
    jumps = any(r["values"]["jump_t"] for r in mine)
    caption += "; crosses: what K(t, t + 0.001) makes of a jump." if jumps else "."
    figure, grid = panels(experiment, 1, 3, caption, height=3.0)
    with rc_context(STYLE):
        for axes, (name, label, scale) in zip(grid[0], AXES_OF_NOISE, strict=True):
            for index, arm in enumerate(arms):
                values = [r["values"] for r in pick(mine, arm=arm)]
                x = values[0]["t" if name == "time" else name]
                x, series = _broken(x, [_per(v, name) for v in values])
                band(axes, x, series, arm_words(arm), index, marks=False)
                if name == "time":
                    _jumps(axes, values, index, arm)
            axes.set(xscale=scale, xlabel=label, ylabel=f"E||d eps/d {UNITS[name]}||")
            lines = np.concatenate([line.get_ydata() for line in axes.lines]).astype(float)
            positive = lines[lines > 0]
            axes.set_yscale("log")
            if (lines == 0).any() and len(positive):
                # A line at 0 stays clear of the axis and of the smallest decade.
                axes.set_yscale("symlog", linthresh=positive.min() / 2, linscale=0.3)
                axes.set_ylim(bottom=-positive.min() / 8)
                ticks = [t for t in axes.get_yticks() if t == 0 or t > positive.min()]
                axes.set_yticks(ticks)
        legend_above(figure, grid[0][0])
    return figure


def _per(values: Any, name: str) -> Array:
    """The derivative along a curve, per unit of what an axis shows.

    d eps/d u = (d eps/dt) / (du/dt), with du/dt by differences along the curve, of log sigma over
    log t where u is sigma.
    """
    t, total = np.array(values["t"]), np.array(values["total"], dtype=float)
    if name == "time":
        return total
    u = np.array(values[name])
    if name == "sigma":
        return total / np.abs(u / t * np.gradient(np.log(u), np.log(t)))
    return total / np.abs(np.gradient(u, np.log(t)) / t)


def _broken(x: list[float], series: list[Any]) -> tuple[list[float], list[Any]]:
    """Curves with a gap where all seeds go from 0 to more or back: no line leads across."""
    zero = [all(v == 0 for v in column) for column in zip(*series, strict=True)]
    for i in range(len(x) - 1, 0, -1):
        if zero[i] != zero[i - 1]:
            x = [*x[:i], x[i], *x[i:]]
            series = [[*one[:i], math.nan, *one[i:]] for one in series]
    return x, series


def _jumps(axes: Axes, values: list[Any], index: int, arm: str) -> None:
    """Crosses at the jumps, each divided by 1/1000."""
    for v in values:
        if not v["jump_t"]:
            continue
        at = np.array(v["jump_t"])
        label = f"{arm_words(arm)}: jump / 0.001" if v is values[0] else None
        axes.plot(
            at, np.array(v["jump"]) * 1000, "x", color=style(index)["color"], markersize=4,
            label=label,
        )  # fmt: skip
