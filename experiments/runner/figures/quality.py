"""Figure of `quality`: held-out error by time, as a ratio to the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import arms_of, legend_above, panels, pick, seeds_of, shared, style

__all__ = ["draw", "error_by_time"]


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """The figure, once there are results."""
    made = error_by_time(experiment, records)
    if made is None:
        return {}
    return {
        "error": (made, "Held-out error of the noise prediction by time, over the baseline's.")
    }


def error_by_time(
    experiment: Experiment, records: Records, arms: Sequence[str] | None = None
) -> Figure | None:
    """A panel per problem, a line per arm: error in each bin of t over that of the baseline.

    Args:
        experiment, records: what was measured.
        arms: which; all of them by default.
    """
    problems = list(
        dict.fromkeys(
            r["problem"]
            for r in records
            if r["evaluation"] == "heldout" and r["arm"] == "baseline"
        )
    )
    if not problems:
        return None
    mine = [r for r in records if r["evaluation"] == "heldout" and r["problem"] in problems]
    mine = [r for r in mine if arms is None or r["arm"] in (*arms, "baseline")]
    mine = [r for p in problems for r in shared(pick(mine, problem=p))]
    of = "; ".join(f"{p}, {seeds_of(pick(mine, problem=p))}" for p in problems)
    caption = f"Above 1: worse than the baseline. Steps: mean over seeds ({of}); dots: seeds."
    figure, grid = panels(experiment, 1, len(problems), caption, width=4.2 * len(problems) + 1)
    with rc_context(STYLE):
        for axes, problem in zip(grid[0], problems, strict=True):
            base = {r["seed"]: r["values"] for r in pick(mine, problem=problem, arm="baseline")}
            for index, arm in enumerate(arms_of(mine, problem, "heldout")):
                found = pick(mine, problem=problem, arm=arm)
                pairs = [(r["values"], base[r["seed"]]) for r in found]
                if arm == "baseline":
                    continue
                edges = pairs[0][0]["edges"]
                ratios = np.array([np.divide(v["bins"], b["bins"]) for v, b in pairs])
                look = style(index)
                line = {"color": look["color"], "linestyle": look["linestyle"]}
                axes.stairs(
                    ratios.mean(0),
                    edges,
                    baseline=None,
                    label=arm_words(arm),
                    linewidth=1.3,
                    **line,
                )
                middle = np.sqrt(np.multiply(edges[1:], edges[:-1]))
                for ratio in ratios:
                    axes.plot(middle, ratio, ".", color=look["color"], markersize=2.5)
            axes.axhline(1, color="0.4", linewidth=0.6)
            axes.set(xscale="log", xlabel="time t", title=problem)
        grid[0][0].set_ylabel("error / baseline's")
        legend_above(figure, grid[0][0])
    return figure
