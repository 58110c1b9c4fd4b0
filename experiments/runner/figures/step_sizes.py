"""Figures of `step_sizes`: every attempt of the solvers, their cost, and the smallest steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from .common import panels, pick, seeds_of, style

__all__ = ["draw"]

CHARTS = {
    "x/time": "clock: time",
    "x/log-snr": "clock: log-SNR",
    "x/alpha/noise-ratio": "x/alpha, clock: sigma/alpha",
}
SHORT = {"x/time": "time", "x/log-snr": "log-SNR", "x/alpha/noise-ratio": "sigma/alpha", "own": ""}
# Title, arm, evaluation, and what is added to the ID of a variant.
ROWS = (
    ("a constant noise: the coefficients alone", "constant", "noise-steps", ""),
    ("baseline", "baseline", "steps", ""),
    ("E-TSDM, the solver not told of its jumps", "etsdm", "steps", " blind"),
    ("E-TSDM, the solver told", "etsdm", "steps", ""),
    ("smooth time", "smooth-0.1", "steps", ""),
)
RED = "#b03030"


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """The figures for which there are results."""
    made: dict[str, tuple[Figure | None, str]] = {}
    for problem in ("fashion", "digits", "smoke"):
        about = f"of the solvers on networks trained on {problem}"
        made[f"steps-{problem}"] = (
            _profiles(experiment, records, problem),
            f"Every attempted step {about}, down to t = 1e-5.",
        )
        made[f"cost-{problem}"] = (
            _costs(experiment, records, problem),
            f"Evaluations {about}: by tolerance, end time, control and kind of equation.",
        )
        made[f"smallest-{problem}"] = (
            _smallest(experiment, records, problem),
            f"The smallest steps {about}, and where they are.",
        )
    return {name: (figure, text) for name, (figure, text) in made.items() if figure is not None}


def _found(records: Records, problem: str, arm: str, evaluation: str) -> list[Any]:
    """Results of an arm; the constant noise is the same for all problems of one process."""
    found = pick(records, arm=arm, evaluation=evaluation)
    same = [r for r in found if r["problem"] == problem]
    return same or (found if arm == "constant" else [])


def _profiles(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    """Step against time on logarithmic axes: a row per model, a column per chart."""
    ends = ("1e-05", "0.001")
    rows = [row for row in ROWS if _found(records, problem, *row[1:3])]
    if not any(row[1] == "baseline" for row in rows):
        return None
    caption = (
        "dopri5, tolerance 0.001, PI control, 8 samples of the first seed, t from 1 to 1e-5. "
        "Dots: accepted steps, where they begin; crosses: rejected; line: median over samples; "
        "dotted: where the condition jumps. Both axes are time, so a line of slope 1 is a step in "
        "proportion to t. Numbers: means over all samples and seeds, at the tolerance of 0.001."
    )
    figure, grid = panels(
        experiment, len(rows), 3, caption, height=1.85, sharex=True, sharey=True, width=10.5
    )
    figure.subplots_adjust(wspace=0.06)
    with rc_context(STYLE):
        for (title, arm, evaluation, told), line in zip(rows, grid, strict=True):
            found = _found(records, problem, arm, evaluation)
            for (chart, name), axes in zip(CHARTS.items(), line, strict=True):
                ids = [f"dopri5 {chart} 0.001 {end} pi{told}" for end in ends]
                at = next((i for i in ids if f"evaluations {i}" in found[0]["values"]), None)
                if at is None:
                    continue
                _attempts(axes, found, at, told)
                head = f"{title}\n{name}: " if axes is line[0] else f"\n{name}: "
                mean = {
                    key: np.mean([r["values"][f"{key} {at}"] for r in found])
                    for key in ("evaluations", "rejected")
                }
                axes.set_title(
                    f"{head}{mean['evaluations']:.0f} evaluations, "
                    f"{mean['rejected']:.1f} rejected",
                    fontsize=8,
                )
                axes.set(xscale="log", yscale="log")
            line[0].set_ylabel("step in time")
        for axes in grid[-1]:
            axes.set_xlabel("time t")
        marks = [
            Line2D([], [], color="0.45", marker=".", linestyle="", label="accepted"),
            Line2D([], [], color=RED, marker="x", markersize=4, linestyle="", label="rejected"),
            Line2D([], [], color="0.0", label="median of samples"),
            Line2D([], [], color="0.35", linewidth=0.7, linestyle=":", label="condition jumps"),
        ]
        figure.legend(handles=marks, loc="upper right", ncols=4)
    return figure


def _attempts(axes: Axes, found: list[Any], at: str, told: str) -> None:
    """The attempts of the samples that were kept, and the median step at each time."""
    for edge in found[0]["values"]["edges"]:
        axes.axvline(edge, color="0.35", linewidth=0.7, linestyle=":")
    kept = next(
        (r["values"]["attempts"][at] for r in found if at in r["values"]["attempts"]), None
    )
    if kept is None:
        return
    begin, end = np.array(kept["time"]), np.array(kept["time_end"])
    size, good = np.abs(end - begin), np.array(kept["accepted"], dtype=bool)
    axes.plot(begin[good], size[good], ".", color="0.45", markersize=2.5, alpha=0.5)
    axes.plot(begin[~good], size[~good], "x", color=RED, markersize=4, alpha=0.8, zorder=3)
    times = np.geomspace(begin[good].max(), end[good].min(), 300)[1:-1]
    inside = (end[good][:, None] <= times) & (times < begin[good][:, None])
    steps = np.where(inside, size[good][:, None], np.nan)
    covered = inside.any(0)
    axes.plot(times[covered], np.nanmedian(steps[:, covered], 0), color="0.0", linewidth=1.1)


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
    mine = [r for r in records if r["problem"] == problem]
    caption = (
        f"Marks: mean over samples and {seeds_of(mine)}; bars: their range. Below a "
        "group: the clock. Crosses beside E-TSDM's marks: the solver is not told its jumps."
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
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.tick_params(axis="y", which="both", labelsize=6.5)
            axes.set_title(title, fontsize=8)
            axes.grid(axis="x", visible=False)
        grid[0][0].set_ylabel("evaluations a sample")
        handles, labels = grid[0][0].get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="upper right", ncols=len(once))
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
    for index, (title, arm, evaluation, told) in enumerate(ROWS):
        found = _found(records, problem, arm, evaluation)
        key = f"evaluations {name}{told}"
        values = [r["values"][key] for r in found if key in r["values"]]
        if not values:
            continue
        look = style(index)
        x = place + 0.14 * (index - 2)
        axes.plot([x, x], [min(values), max(values)], color=look["color"], linewidth=0.9)
        mark = "x" if told else look["marker"]
        label = title.replace("a constant noise: the coefficients alone", "constant noise")
        axes.plot(x, np.mean(values), mark, color=look["color"], markersize=4, label=label)


def _smallest(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    """Size of the smallest step against where it is, for three end times and charts."""
    base = pick(records, problem=problem, arm="baseline", evaluation="steps")
    if not any("smallest dopri5 x/time 0.001 1e-05 pi" in r["values"] for r in base):
        return None
    mine = [r for r in records if r["problem"] == problem]
    caption = (
        f"dopri5, tolerance 0.001, {seeds_of(mine)}: median over samples of the smallest accepted "
        "step begun below t = 0.5 and not cut short; a mark per seed and end time (lines)."
    )
    figure, grid = panels(experiment, 1, 3, caption, height=2.6, sharex=True, sharey=True)
    with rc_context(STYLE):
        for axes, (chart, label) in zip(grid[0], CHARTS.items(), strict=True):
            for index, (title, arm, evaluation, told) in enumerate(ROWS):
                x, y = [], []
                for end in ("0.001", "0.0001", "1e-05"):
                    name = f"dopri5 {chart} 0.001 {end} pi{told}"
                    for r in _found(records, problem, arm, evaluation):
                        if f"smallest {name}" in r["values"]:
                            x.append(r["values"][f"smallest_at {name}"])
                            y.append(r["values"][f"smallest {name}"])
                look = style(index)
                mark = "x" if told else look["marker"]
                axes.plot(x, y, mark, color=look["color"], markersize=4.5, alpha=0.8,
                          markerfacecolor="none", label=title.split(":")[0])  # fmt: skip
            for end in (1e-3, 1e-4, 1e-5):
                axes.axvline(end, color="0.6", linewidth=0.7)
            axes.set(xscale="log", yscale="log", xlabel="where it begins, time t", title=label)
        grid[0][0].set_ylabel("smallest step, in time")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=len(labels))
    return figure
