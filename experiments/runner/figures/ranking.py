"""Arms side by side: Fréchet distance, error and steepness of each, a mark per seed."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import panels, pick, plain, seeds_of

__all__ = ["ranking"]

MEASURES = (
    ("dpmpp-20", "classifier_frechet", "Fréchet, DPM-Solver++ 20"),
    ("ddim-10", "classifier_frechet", "Fréchet, DDIM 10"),
    ("ddim-20", "classifier_frechet", "Fréchet, DDIM 20"),
    ("dpmpp-20-guided", "classifier_frechet", "Fréchet, guidance 2"),
    ("dpmpp-20-super", "classifier_frechet", "Fréchet, twice the size"),
    ("dpmpp-20-super", "rms_to_image", "RMS distance to the image"),
    ("dpmpp-20-1e-05", "classifier_frechet", "Fréchet, t_min 1e-5"),
    ("dpmpp-20-denoise", "classifier_frechet", "Fréchet, denoised"),
    ("heldout", "early", "held-out error, t < 0.1"),
    ("lipschitz", "k_0.001", "K(0.001)"),
    ("lipschitz", "largest_k", "largest K, jumps included"),
)
LEAST = 1e-1  # where a 0 is drawn on a logarithmic axis


def ranking(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    """A row per arm, a column per measure; None without results."""
    mine = [r for r in records if r["problem"] == problem and r["kind"] != "train"]
    arms = list(dict.fromkeys(r["arm"] for r in mine))
    shown = [m for m in MEASURES if any(r["evaluation"] == m[0] for r in mine)]
    if len(arms) < 2 or not shown:
        return None
    caption = f"{problem}, {seeds_of(mine)}: dots are seeds, bars their mean; dotted: baseline."
    if any(r["values"].get(m[1]) == 0 for r in mine for m in shown if r["evaluation"] == m[0]):
        caption += f" A 0 is drawn at {LEAST:g}."
    width = 1.6 + 2.1 * len(shown)
    figure, grid = panels(
        experiment, 1, len(shown), caption, width=width, height=0.24 * len(arms) + 0.7, sharey=True
    )
    with rc_context(STYLE):
        for axes, (evaluation, metric, title) in zip(grid[0], shown, strict=True):
            for row, arm in enumerate(arms):
                found = pick(mine, arm=arm, evaluation=evaluation)
                values = [max(r["values"].get(metric, np.nan), LEAST) for r in found]
                if not values:
                    continue
                axes.plot(values, [row] * len(values), "o", color="0.5", markersize=3)
                axes.plot(np.mean(values), row, "|", color="0.0", markersize=9)
                if arm == "baseline":
                    axes.axvline(np.mean(values), color="0.3", linestyle=":", linewidth=0.8)
            axes.set_xscale("log")
            plain(axes, "x")
            axes.set_title(title, fontsize=8)
            axes.tick_params(axis="x", which="both", labelsize=6.5)
        grid[0][0].set_yticks(range(len(arms)), [arm_words(arm) for arm in arms])
        grid[0][0].set_ylim(len(arms) - 0.5, -0.5)
        figure.subplots_adjust(left=1.55 / width, wspace=0.12)
    return figure
