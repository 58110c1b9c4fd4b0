"""Figures of `step_sizes`: the overview, every attempt, the cost, and the smallest steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from .common import legend_above, panels, pick, plain, seeds_of, shared
from .step_models import CHARTS, ENDS, MODELS, Model
from .step_overview import overview
from .step_profiles import profiles

__all__ = ["draw"]

SHORT = {"x/time": "time", "x/log-snr": "log-SNR", "x/alpha/noise-ratio": "sigma/alpha", "own": ""}


def draw(experiment: Experiment, all_records: Records) -> dict[str, tuple[Figure, str]]:
    """The figures for which there are results."""
    made: dict[str, tuple[Figure | None, str]] = {}
    for problem in ("fashion", "digits", "smoke"):
        trained = shared(pick(all_records, problem=problem, evaluation="steps"))
        records = [*trained, *pick(all_records, evaluation="noise-steps")]
        about = f"of the solvers on networks trained on {problem}"
        made[f"overview-{problem}"] = (
            overview(experiment, records, problem),
            f"Steps and cost {about}, against time, noise level and log-SNR.",
        )
        made[f"steps-{problem}"] = (
            profiles(experiment, records, problem),
            f"Every attempted step {about}, down to t = 1e-5.",
        )
        made[f"cost-{problem}"] = (
            _costs(experiment, records, problem),
            f"Evaluations {about}: by tolerance, end time, control and kind of equation.",
        )
        made[f"smallest-{problem}"] = (
            _smallest(experiment, records, problem),
            f"The smallest steps {about}, and where they are, by end time.",
        )
    return {name: (figure, text) for name, (figure, text) in made.items() if figure is not None}


COSTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], Callable[[str, str], str]], ...] = (
    ("tolerance (t_min 0.001)", ("x/time", "x/log-snr", "x/alpha/noise-ratio"),
     ("0.01", "0.001", "0.0001"), lambda c, v: f"dopri5 {c} {v} 0.001 pi"),
    ("end time t_min (tolerance 0.001)", ("x/time", "x/log-snr", "x/alpha/noise-ratio"),
     ("0.001", "0.0001", "1e-05"), lambda c, v: f"dopri5 {c} 0.001 {v} pi"),
    ("controller", ("x/time", "x/log-snr"), ("i", "pi", "pid"),
     lambda c, v: f"dopri5 {c} 0.001 0.001 {v}"),
    ("SDE, by tolerance", ("x/time", "x/log-snr"), ("0.05", "0.02"),
     lambda c, v: f"stochastic-heun {c} {v} 0.001 pi"),
    ("other solvers", ("own",), ("bosh3", "tsit5", "adams"),
     lambda c, v: f"{v} {c} 0.001 0.001 pi"),
)  # fmt: skip


def _costs(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    """Evaluations of every variant, a mark per model, a panel per question."""
    base = pick(records, problem=problem, arm="baseline", evaluation="steps")
    if not any("evaluations dopri5 x/time 0.001 0.001 pi" in r["values"] for r in base):
        return None
    mine = pick(records, problem=problem, evaluation="steps")
    caption = (
        f"{problem}. Marks: mean over samples and {seeds_of(mine)}; bars: the range over seeds. "
        "Below a group: the clock. Crosses: E-TSDM, the solver not told of its jumps."
    )
    figure, grid = panels(
        experiment, 1, len(COSTS), caption, width=13, height=3.2,
        gridspec_kw={"width_ratios": [len(c) * len(v) for _, c, v, _ in COSTS]},
    )  # fmt: skip
    with rc_context(STYLE):
        for axes, (title, charts, values, name) in zip(grid[0], COSTS, strict=True):
            place, ticks, names = 0.0, [], []
            for chart in charts:
                for value in values:
                    _mark(axes, records, problem, name(chart, value), place)
                    ticks.append(place)
                    names.append(_exponent(value))
                    place += 1
                axes.text(
                    place - len(values) / 2 - 0.5, -0.13, SHORT[chart], ha="center",
                    transform=axes.get_xaxis_transform(), fontsize=7.5,
                )  # fmt: skip
                place += 0.6
            axes.set_xticks(ticks, names, fontsize=6.5)
            axes.set_yscale("log")
            plain(axes, "y")
            axes.tick_params(axis="y", which="both", labelsize=6.5)
            axes.set_title(title, fontsize=8)
            axes.grid(axis="x", visible=False)
        grid[0][0].set_ylabel("evaluations a sample")
        legend_above(figure, grid[0][0])
    return figure


def _exponent(value: str) -> str:
    """A power of ten as short as it gets; other values as they are."""
    try:
        power = np.log10(float(value))
    except ValueError:
        return value
    return f"1e{power:.0f}" if abs(power - round(power)) < 1e-9 else value


def _mark(axes: Axes, records: Records, problem: str, name: str, place: float) -> None:
    """One variant: a mark per model, side by side."""
    for index, model in enumerate(MODELS):
        values = model.values(records, problem, "evaluations", name)
        if not values:
            continue
        x = place + 0.14 * (index - 2)
        axes.plot([x, x], [min(values), max(values)], color=model.colour, linewidth=0.9)
        axes.plot(
            x, np.mean(values), model.mark, color=model.colour, markersize=4, label=model.short
        )


def _smallest(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    """Size of the smallest step and where it begins, by end time, a column per chart."""
    base = pick(records, problem=problem, arm="baseline", evaluation="steps")
    if not any("smallest dopri5 x/time 0.001 1e-05 pi" in r["values"] for r in base):
        return None
    mine = pick(records, problem=problem, evaluation="steps")
    caption = (
        f"{problem}, dopri5, tolerance 0.001: the smallest accepted step begun below t = 0.5 "
        "and not cut short at a jump or at t_min, median over samples. "
        f"Lines: mean over {seeds_of(mine)}; marks: seeds. "
        "Grey: begins at the end time itself."
    )
    figure, grid = panels(
        experiment, 2, 3, caption, height=2.1, sharex=True, sharey="row",
        gridspec_kw={"hspace": 0.2},
    )  # fmt: skip
    ends = [float(end) for end in ENDS]
    with rc_context(STYLE):
        for column, (chart, label) in enumerate(CHARTS.items()):
            for axes, metric in zip(grid[:, column], ("smallest", "smallest_at"), strict=True):
                for model in MODELS:
                    _by_end(axes, [
                        model.values(records, problem, metric, f"dopri5 {chart} 0.001 {end} pi")
                        for end in ENDS
                    ], model)  # fmt: skip
                axes.set(xscale="log", yscale="log")
            grid[1][column].plot(ends, ends, color="0.8", linewidth=2.5, zorder=0)
            grid[0][column].set_title(label)
            grid[1][column].set_xlabel("end time t_min")
        grid[0][0].set_ylabel("smallest step, in time")
        grid[1][0].set_ylabel("where it begins, time t")
        legend_above(figure, grid[0][0])
        figure.subplots_adjust(hspace=0.15, wspace=0.06)
    return figure


def _by_end(axes: Axes, values: list[list[float]], model: Model) -> None:
    """One model's values for every end time: means as a line, seeds as marks."""
    shown = [(float(end), v) for end, v in zip(ENDS, values, strict=True) if v]
    if not shown:
        return
    axes.plot(
        [end for end, _ in shown], [np.exp(np.mean(np.log(v))) for _, v in shown],
        color=model.colour, linestyle=model.dash, marker=model.mark, markersize=4,
        markerfacecolor="none", label=model.short,
    )  # fmt: skip
    for end, v in shown:
        axes.plot([end] * len(v), v, ".", color=model.colour, markersize=2.5, alpha=0.6)
