"""Figure of `ablation`: the grid of n and t~, as changes from the baseline."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from .common import panels, pick, seeds_of

__all__ = ["draw"]

COUNTS, THRESHOLDS = (1, 2, 5, 10, 20), (0.02, 0.05, 0.1, 0.2, 0.5)
MEASURES = (
    ("dpmpp-20", "classifier_frechet", "Fréchet, DPM-Solver++ 20"),
    ("ddim-20", "classifier_frechet", "Fréchet, DDIM 20"),
    ("heldout", "early", "held-out error, t < 0.1"),
    ("lipschitz", "largest_k", "largest K, jumps included"),
)
COLOURS = LinearSegmentedColormap.from_list("change", ["#3b6ea5", "white", "#b0602a"])


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """The figure, once there are results."""
    maps = [_map(records, evaluation, metric) for evaluation, metric, _ in MEASURES]
    if not any(np.isfinite(m).any() for m in maps):
        return {}
    caption = (
        f"Digits, {seeds_of(records)}: change from the baseline in per cent, mean of paired logs; "
        "the default is framed. Orange: worse, blue: better, each map on a scale of its own; a "
        "cell without a number has not been run."
    )
    figure, grid = panels(experiment, 1, 4, caption, width=12, height=2.7, sharey=True)
    with rc_context({**STYLE, "axes.grid": False}):
        for axes, values, (_, _, title) in zip(grid[0], maps, MEASURES, strict=True):
            reach = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 1.0
            axes.imshow(values, cmap=COLOURS, vmin=-reach, vmax=reach, aspect="auto")
            for i, j in np.argwhere(np.isfinite(values)):
                change = 100 * math.expm1(values[i, j])
                dark = abs(values[i, j]) > 0.7 * reach
                axes.text(j, i, f"{change:+.0f}", ha="center", va="center", fontsize=7,
                          color="white" if dark else "black")  # fmt: skip
            axes.add_patch(_frame())
            axes.grid(False)
            axes.set_xticks(range(len(THRESHOLDS)), [f"{t:g}" for t in THRESHOLDS])
            axes.set_yticks(range(len(COUNTS)), COUNTS)
            axes.set(xlabel="threshold t~", title=title)
        grid[0][0].set_ylabel("sub-intervals n")
    return {"grid": (figure, "Change from the baseline for every n and t~.")}


def _frame():  # type: ignore[no-untyped-def]
    from matplotlib.patches import Rectangle

    return Rectangle((1.5, 1.5), 1, 1, fill=False, edgecolor="0.0", linewidth=1.6)


def _map(records: Records, evaluation: str, metric: str) -> np.ndarray:
    """Mean over seeds of log(arm / baseline), (n, t~)."""
    base = {
        r["seed"]: r["values"][metric]
        for r in pick(records, problem="digits", arm="baseline", evaluation=evaluation)
    }
    found = np.full((len(COUNTS), len(THRESHOLDS)), np.nan)
    for i, n in enumerate(COUNTS):
        for j, t in enumerate(THRESHOLDS):
            mine = pick(records, problem="digits", arm=f"n{n}-t{t:g}", evaluation=evaluation)
            logs = [
                math.log(r["values"][metric] / base[r["seed"]])
                for r in mine
                if base.get(r["seed"], 0) > 0 and r["values"][metric] > 0
            ]
            if logs:
                found[i, j] = np.mean(logs)
    return found
