"""Every attempted step of the solvers, a row per model and a column per chart."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from .common import panels
from .step_models import CHARTS, MODELS, Model, attempts, typical

__all__ = ["profiles"]

RED = "#b03030"


def profiles(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    """Step against time on logarithmic axes; None without results of the baseline."""
    rows = [model for model in MODELS if model.found(records, problem)]
    base = next((model for model in rows if model.arm == "baseline"), None)
    if base is None:
        return None
    caption = (
        "dopri5, tolerance 0.001, PI control, 8 samples of the first seed, t from 1 to 1e-5. "
        "Dots: accepted steps, where they begin; crosses: rejected; black line: the step that "
        "begins at t, median over samples, and blue the baseline's; dotted: where the condition "
        "jumps. Shaded: a step longer than t would pass 0. Numbers: means over all samples and "
        "seeds."
    )
    figure, grid = panels(
        experiment, len(rows), 3, caption, height=1.85, sharex=True, sharey=True, width=10.5
    )
    figure.subplots_adjust(wspace=0.06)
    with rc_context(STYLE):
        for model, line in zip(rows, grid, strict=True):
            found = model.found(records, problem)
            for (chart, name), axes in zip(CHARTS.items(), line, strict=True):
                at = _variant(found, chart, model)
                axes.set(xscale="log", yscale="log")
                if at is None:
                    continue
                reference = None if model is base else base.found(records, problem)
                _draw(axes, found, at, reference, _variant(reference or found, chart, base))
                head = f"{model.title}\n{name}: " if axes is line[0] else f"\n{name}: "
                mean = [
                    np.mean([r["values"][f"{key} {at}"] for r in found])
                    for key in ("evaluations", "rejected")
                ]
                axes.set_title(
                    f"{head}{mean[0]:.0f} evaluations, {mean[1]:.1f} rejected", fontsize=8
                )
            line[0].set_ylabel("step in time")
        low, high = grid[0][0].get_xlim()
        bottom, top = grid[0][0].get_ylim()
        for axes in grid.flat:
            axes.fill_between([low, high], [low, high], 10 * high, color="0.93", zorder=0, lw=0)
            axes.set(xlim=(low, high), ylim=(bottom, top))
        for axes in grid[-1]:
            axes.set_xlabel("time t")
        marks = [
            Line2D([], [], color="0.45", marker=".", linestyle="", label="accepted"),
            Line2D([], [], color=RED, marker="x", markersize=4, linestyle="", label="rejected"),
            Line2D([], [], color="0.0", label="median of samples"),
            Line2D([], [], color="#3b6ea5", linewidth=0.9, label="the baseline's"),
            Line2D([], [], color="0.35", linewidth=0.7, linestyle=":", label="condition jumps"),
        ]
        figure.legend(handles=marks, loc="upper right", ncols=len(marks))
    return figure


def _variant(found: list[Any], chart: str, model: Model) -> str | None:
    """The ID of what is drawn: down to 1e-5, or to 1e-3 where nothing else was run."""
    for end in ("1e-05", "0.001"):
        name = f"dopri5 {chart} 0.001 {end} pi{model.told}"
        if any(f"evaluations {name}" in r["values"] for r in found):
            return name
    return None


def _draw(
    axes: Axes, found: list[Any], at: str, reference: list[Any] | None, other: str | None
) -> None:
    """The attempts of the samples that were kept, and the median step at each time."""
    for edge in found[0]["values"]["edges"]:
        axes.axvline(edge, color="0.35", linewidth=0.7, linestyle=":")
    if reference and other and (kept := attempts(reference, other)):
        axes.plot(*typical(kept), color="#3b6ea5", linewidth=0.9)
    kept = attempts(found, at)
    if kept is None:
        return
    begin, size, good = kept.begin, kept.size, kept.good
    axes.plot(begin[good], size[good], ".", color="0.45", markersize=2.5, alpha=0.5)
    axes.plot(begin[~good], size[~good], "x", color=RED, markersize=4, alpha=0.8, zorder=3)
    axes.plot(*typical(kept), color="0.0", linewidth=1.1)
