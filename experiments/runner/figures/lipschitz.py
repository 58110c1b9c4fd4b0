"""Figures of `lipschitz`: trained networks, exact models, schedules, and growth with training."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import arms_of, legend_above, panels, pick, plain, seeds_of, style
from .curves import steepness

__all__ = ["draw"]

TRAINED = ["baseline", "etsdm"]
LONGER = ["baseline", "etsdm", "smooth-0.1"]
EXACT = ["exact-mixture", "exact-smooth", "exact-finite", "exact-mixture-etsdm"]
CURED = [
    "exact-mixture",
    "exact-mixture-smooth-start",
    "exact-smooth",
    "exact-smooth-smooth-start",
    "exact-mixture-trig",
    "exact-finite",
    "exact-finite-smooth-start",
]
DIP = "where sigma passes the width of a mode, the derivative changes its sign"
LENGTHS = {
    "fashion-250": 250,
    "fashion-500": 500,
    "fashion-1000": 1000,
    "fashion": 2500,
    "fashion-9000": 9000,
}


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """The figures for which there are results."""
    made: dict[str, tuple[Figure | None, str]] = {}
    for problem in ("fashion", "fashion-9000", "digits"):
        made[problem] = (
            steepness(experiment, records, problem, TRAINED, f"Networks trained on {problem}"),
            f"Steepness in time of networks trained on {problem}.",
        )
    made["exact"] = (
        steepness(experiment, records, "plane", EXACT, f"Exact models; {DIP}"),
        "Steepness in time of exact models: narrow and wide mixtures, a finite set of digits.",
    )
    made["starts"] = (
        steepness(experiment, records, "plane", CURED, f"Exact models, other schedules; {DIP}"),
        "Exact models on schedules that start flat: bounded on smooth data, not on a finite set.",
    )
    made["schedules"] = (
        _schedules(experiment, records),
        "K(0.001) and the largest K on every schedule.",
    )
    made["training"] = (_training(experiment, records), "K(0.001) and the largest K by training.")
    return {name: (figure, text) for name, (figure, text) in made.items() if figure is not None}


def _schedules(experiment: Experiment, records: Records) -> Figure | None:
    arms = [a for a in arms_of(records, "digits", "lipschitz") if not a.endswith("-etsdm")]
    arms = [a for a in arms if a not in ("etsdm", "smooth-0.1")]
    if len(arms) < 2:
        return None
    mine = [r for r in records if r["problem"] == "digits"]
    caption = f"Digits, {seeds_of(mine)}; each mark a seed."
    figure, grid = panels(experiment, 1, 2, caption, height=0.3 * len(arms) + 1.2, sharey="row")
    names = (("k_0.001", "K(0.001)"), ("largest_k", "largest K of all, jumps included"))
    with rc_context(STYLE):
        for axes, (metric, label) in zip(grid[0], names, strict=True):
            for row, arm in enumerate(arms):
                shared = "etsdm" if arm == "baseline" else f"{arm}-etsdm"
                for other, mark, colour, shift in (
                    (arm, "o", "0.0", 0.12), (shared, "x", "#b0602a", -0.12),
                ):  # fmt: skip
                    found = pick(records, problem="digits", arm=other, evaluation="lipschitz")
                    values = [max(r["values"][metric], 1e-1) for r in found]
                    axes.plot(
                        values, [row + shift] * len(values), mark, color=colour, markersize=4,
                        markerfacecolor="none",
                        label={0: "own time" if mark == "o" else "E-TSDM"}.get(row),
                    )  # fmt: skip
            axes.set_xscale("log")
            plain(axes, "x")
            zero = any(r["values"].get(metric) == 0 for r in mine)
            axes.set_xlabel(f"{label} (0 at the left edge)" if zero else label)
        grid[0][0].set_yticks(range(len(arms)), ["linear" if a == "baseline" else a for a in arms])
        grid[0][0].invert_yaxis()
        legend_above(figure, grid[0][0])
        figure.subplots_adjust(left=0.12)
    return figure


def _training(experiment: Experiment, records: Records) -> Figure | None:
    done = [p for p in LENGTHS if arms_of(records, p, "lipschitz")]
    if len(done) < 2:
        return None
    mine = [r for r in records if r["problem"] in done]
    caption = f"Fashion-MNIST 16x16, {seeds_of(mine)}; each point is a training of that length."
    figure, grid = panels(experiment, 1, 2, caption, width=8, height=2.8, sharey="row")
    with rc_context(STYLE):
        for axes, (metric, label) in zip(
            grid[0], (("k_0.001", "K(0.001)"), ("early_max", "largest early K")), strict=True
        ):
            for index, arm in enumerate(LONGER):
                x, y = [], []
                for problem in done:
                    found = pick(records, problem=problem, arm=arm, evaluation="lipschitz")
                    if found:
                        x.append(LENGTHS[problem])
                        y.append(np.mean([max(r["values"][metric], 1.0) for r in found]))
                if x:
                    axes.plot(x, y, label=arm_words(arm), markersize=4, **style(index))
            axes.set(xscale="log", yscale="log", xlabel="training steps", title=label)
        grid[0][0].set_ylabel("per unit of t (1 or less at the edge)")
        legend_above(figure, grid[0][0])
    return figure
