"""The figure to show of `step_sizes`: steps against time, sigma and log-SNR, and what they cost.

A column per chart. Above, the size in time of the step that begins at each moment, all models in
one panel, with a strip per model of where steps were rejected; below, evaluations by end time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdeflow.build import build_sde
from sdeflow.plots import AXES_OF_NOISE, STYLE
from sdeflow.sde import SDE

from ..spec import Experiment
from ..verdicts import Records
from .common import Array, legend_above, panels, seeds_of
from .step_models import CHARTS, ENDS, MODELS, Model, attempts, typical

__all__ = ["overview"]

BAR = 0.16


def overview(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    """The figure; None where steps down to 1e-5 were not run on the baseline."""
    shown = [
        m for m in MODELS if m.values(records, problem, "evaluations", _id("x/time", "1e-05"))
    ]
    if not any(model.arm == "baseline" for model in shown):
        return None
    sde = next(build_sde(s.config) for s in experiment.subjects if s.problem == problem)
    mine = [r for r in records if (r["problem"], r["evaluation"]) == (problem, "steps")]
    caption = (
        f"{problem}, dopri5, tolerance 0.001, PI control. Lines: size of the accepted step that "
        "begins at a moment, median over 8 samples of the first seed, t from 1 to 1e-5; ticks at "
        "the bottom, a strip per model: where steps were rejected; dotted: where E-TSDM's "
        f"condition jumps. Bars: mean evaluations a sample, points: {seeds_of(mine)}. Constant "
        "noise: what the equation's coefficients cost without any network."
    )
    figure, grid = panels(
        experiment,
        4,
        3,
        caption,
        height=2.2,
        sharey="row",
        gridspec_kw={"height_ratios": (1.7, 1, 1, 1.2)},
    )
    with rc_context(STYLE):
        for column, (chart, title) in enumerate(CHARTS.items()):
            for row, (name, label, scale) in enumerate(AXES_OF_NOISE):
                axes = grid[row][column]
                _lines(axes, shown, records, problem, chart, _axis(sde, name))
                axes.set(xscale=scale, yscale="log", xlabel=label)
            grid[0][column].set_title(title, weight="bold")
            _bars(grid[3][column], shown, records, problem, chart)
        for row in grid[:3]:
            row[0].set_ylabel("step, in time")
        for row in grid[:3]:  # room for the strips of rejections; a row has one axis
            low, high = row[0].get_ylim()
            row[0].set_ylim(low / (high / low) ** 0.3, high)
        grid[3][0].set_ylabel("evaluations a sample")
        legend_above(figure, grid[0][0])
        figure.subplots_adjust(wspace=0.06, hspace=0.48)
    return figure


def _id(chart: str, end: str) -> str:
    return f"dopri5 {chart} 0.001 {end} pi"


def _axis(sde: SDE, name: str) -> Callable[[Any], Array]:
    """From times to what an axis shows."""

    def at(times: Any) -> Array:
        t = torch.as_tensor(np.asarray(times, dtype=float))
        value = {"time": lambda t: t, "sigma": sde.sigma, "log_snr": sde.log_snr}[name](t)
        return np.asarray(value)

    return at


def _lines(
    axes: Axes, models: list[Model], records: Records, problem: str, chart: str,
    at: Callable[[Any], Array],
) -> None:  # fmt: skip
    """The median step of every model, its rejections, and E-TSDM's edges."""
    edges: dict[float, None] = {}
    for index, model in enumerate(models):
        found = model.found(records, problem)
        edges |= dict.fromkeys(found[0]["values"]["edges"])
        kept = attempts(found, f"{_id(chart, '1e-05')}{model.told}")
        if kept is None:
            continue
        times, steps = typical(kept)
        axes.plot(at(times), steps, color=model.colour, linestyle=model.dash, label=model.short,
                  linewidth=1.3)  # fmt: skip
        lost = kept.begin[~kept.good]
        axes.plot(
            at(lost), np.full(len(lost), 0.03 + 0.035 * (len(models) - 1 - index)), "|",
            color=model.colour, markersize=4, transform=axes.get_xaxis_transform(), alpha=0.8,
        )  # fmt: skip
    for edge in at(list(edges)):
        axes.axvline(edge, color="#b0602a", linewidth=0.6, linestyle=":", zorder=0)


def _bars(axes: Axes, models: list[Model], records: Records, problem: str, chart: str) -> None:
    """Evaluations by end time, a bar per model, a point per seed."""
    for place, end in enumerate(ENDS):
        for index, model in enumerate(models):
            values = model.values(records, problem, "evaluations", _id(chart, end))
            if not values:
                continue
            x, mean = place + BAR * (index - (len(models) - 1) / 2), float(np.mean(values))
            blind = bool(model.told)
            axes.bar(
                x, mean, 0.9 * BAR, color="white" if blind else model.colour,
                edgecolor=model.colour, hatch="/////" if blind else None, linewidth=0.8,
            )  # fmt: skip
            if len(values) > 1:
                axes.plot(
                    [x] * len(values), values, "o", color="0.2", markersize=2.2,
                    markerfacecolor="white", markeredgewidth=0.5,
                )  # fmt: skip
            axes.annotate(
                f"{mean:.0f}", (x, max(values)), xytext=(0, 2), textcoords="offset points",
                ha="center", va="bottom", fontsize=5.5,
            )  # fmt: skip
    axes.set_xticks(range(len(ENDS)), [f"{float(end):g}" for end in ENDS])
    axes.grid(axis="x", visible=False)
    axes.set_axisbelow(True)
    axes.set_xlabel("end time t_min")
