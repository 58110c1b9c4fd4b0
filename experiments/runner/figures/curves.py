"""Steepness in time: curves of each arm against time, noise and log-SNR, jumps as crosses."""

from __future__ import annotations

import math
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import AXES_OF_NOISE, STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import arms_of, band, legend_above, panels, pick, seeds_of, style

__all__ = ["steepness"]


def steepness(
    experiment: Experiment, records: Records, problem: str, arms: list[str], title: str
) -> Figure | None:
    """E||d eps/dt|| of some arms on one problem; None where there are not two to compare."""
    arms = [arm for arm in arms if arm in arms_of(records, problem, "lipschitz")]
    if len(arms) < 2:
        return None
    mine = [r for r in records if r["problem"] == problem and r["arm"] in arms]
    caption = (
        f"{title}. Lines: mean over {seeds_of(mine)} of E||d eps/dt||, bands: their range; "
        "crosses: what K(t, t + 0.001) makes of a jump of the condition."
    )
    figure, grid = panels(experiment, 1, 3, caption, height=3.0, sharey="row")
    lowest = [
        v for r in mine if r["evaluation"] == "lipschitz" for v in r["values"]["total"] if v > 0
    ]
    with rc_context(STYLE):
        for axes, (name, label, scale) in zip(grid[0], AXES_OF_NOISE, strict=True):
            for index, arm in enumerate(arms):
                found = pick(records, problem=problem, arm=arm, evaluation="lipschitz")
                values = [r["values"] for r in found]
                x = values[0]["t" if name == "time" else name]
                x, series = _broken(x, [v["total"] for v in values])
                band(axes, x, series, arm_words(arm), index, marks=False)
                _jumps(axes, values, name, index, arm)
            axes.set_xscale(scale)
            axes.set_xlabel(label)
        grid[0][0].set_yscale("log")
        if any(v == 0 for r in mine for v in r["values"].get("total", ())):
            least = min(lowest, default=1.0)
            grid[0][0].set_yscale("symlog", linthresh=least / 2)
            grid[0][0].set_ylim(bottom=-least / 10)  # a line at 0 stays clear of the axis
        grid[0][0].set_ylabel("E||d eps/dt||, per unit of t")
        legend_above(figure, grid[0][0])
    return figure


def _broken(x: list[float], series: list[list[float]]) -> tuple[list[float], list[list[float]]]:
    """Curves with a gap where all seeds go from 0 to more or back: no line leads across."""
    zero = [all(v == 0 for v in column) for column in zip(*series, strict=True)]
    for i in range(len(x) - 1, 0, -1):
        if zero[i] != zero[i - 1]:
            x = [*x[:i], x[i], *x[i:]]
            series = [[*one[:i], math.nan, *one[i:]] for one in series]
    return x, series


def _jumps(axes, values: list[Any], name: str, index: int, arm: str) -> None:  # type: ignore[no-untyped-def]
    """Crosses at the jumps, each divided by 1/1000; on the axes of noise by interpolation."""
    import numpy as np

    for v in values:
        if not v["jump_t"]:
            continue
        at = np.array(v["jump_t"])
        if name != "time":
            at = np.interp(np.log(at), np.log(v["t"]), v[name])
        label = f"{arm_words(arm)}: jump / 0.001" if v is values[0] else None
        axes.plot(
            at, np.array(v["jump"]) * 1000, "x", color=style(index)["color"], markersize=4,
            label=label,
        )  # fmt: skip
