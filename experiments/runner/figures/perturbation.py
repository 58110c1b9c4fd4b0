"""Figure of `perturbation`: relative change of samples and predictions against time."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import (
    arms_of,
    band,
    bands_of,
    legend_above,
    panels,
    pick,
    plain,
    seeds_of,
    shared,
)

__all__ = ["draw"]

COLUMNS = (
    ("x", "0.1", "x perturbed by a tenth"),
    ("condition", "0.01", "condition, by 1 % of its range"),
    ("features", "0.1", "embedding, by a tenth"),
)


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """A figure per problem, once there are results."""
    made = {p: _one(experiment, records, p) for p in ("fashion", "digits")}
    return {
        problem: (figure, f"Change of predictions and samples on {problem}.")
        for problem, figure in made.items()
        if figure is not None
    }


def _one(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    arms = arms_of(records, problem, "sensitivity")
    if not arms:
        return None
    mine = shared(pick(records, problem=problem, evaluation="sensitivity"))
    arms = [arm for arm in arms if pick(mine, arm=arm)]
    caption = (
        f"{problem}: mean over samples and {seeds_of(mine)} of ||change|| / ||answer||"
        f"{bands_of(mine)}."
    )
    figure, grid = panels(experiment, 2, 3, caption, height=2.0, sharex=True)
    with rc_context(STYLE):
        for answer, row in zip(("prediction", "sample"), grid, strict=True):
            for (what, scale, title), axes in zip(COLUMNS, row, strict=True):
                for index, arm in enumerate(arms):
                    found = pick(mine, arm=arm, evaluation="sensitivity")
                    times = found[0]["values"]["times"]
                    keys = [f"{what} {answer} {t:g} {scale}" for t in times]
                    series = [[r["values"].get(key) for key in keys] for r in found]
                    band(axes, times, series, arm_words(arm), index)
                axes.set(xscale="log", yscale="log")
                plain(axes, "y")
                axes.set_title(f"{answer}, {title}", fontsize=8)
            row[0].set_ylabel("relative change")
        for axes in grid[-1]:
            axes.set_xlabel("time t")
        legend_above(figure, grid[0][0])
    return figure
