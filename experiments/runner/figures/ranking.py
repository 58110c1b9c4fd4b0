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
LEAST = 1e-2  # where a 0 is drawn on a logarithmic axis
NEAR = 1.1  # factor to both sides of 1 that is shown at least


def ranking(experiment: Experiment, records: Records, problem: str) -> Figure | None:
    """A row per arm, a column per measure, each over the baseline's of the same seed.

    None without results of the baseline and another arm.
    """
    mine = [r for r in records if r["problem"] == problem and r["kind"] != "train"]
    arms = list(dict.fromkeys(r["arm"] for r in mine))
    shown = [m for m in MEASURES if len(_ratios(mine, arms, m)) > 1]
    if not shown:
        return None
    ratios = {measure: _ratios(mine, arms, measure) for measure in shown}
    caption = (
        f"{problem}: each measure over the baseline's of the same seed; dots are seeds "
        f"({seeds_of(mine)}), bars their geometric mean; arms without dots have not been measured."
    )
    if any(0 in values for found in ratios.values() for values in found.values()):
        caption += f" A 0 is drawn at {LEAST:g}."
    width = 1.6 + 2.1 * len(shown)
    figure, grid = panels(
        experiment, 1, len(shown), caption, width=width, height=0.24 * len(arms) + 0.7, sharey=True
    )
    with rc_context(STYLE):
        for axes, measure in zip(grid[0], shown, strict=True):
            edges = [1 / NEAR, NEAR]
            for arm, found in ratios[measure].items():
                values = np.maximum(found, LEAST)
                row = arms.index(arm)
                axes.plot(values, [row] * len(values), "o", color="0.5", markersize=3)
                axes.plot(np.exp(np.log(values).mean()), row, "|", color="0.0", markersize=9)
                edges += values.tolist()
            axes.axvline(1, color="0.3", linestyle=":", linewidth=0.8)
            axes.set_xscale("log")
            axes.set_xlim(min(edges) / 1.03, max(edges) * 1.03)
            plain(axes, "x")
            axes.set_title(measure[2], fontsize=8)
            axes.tick_params(axis="x", which="both", labelsize=6.5)
        grid[0][0].set_yticks(range(len(arms)), [arm_words(arm) for arm in arms])
        grid[0][0].set_ylim(len(arms) - 0.5, -0.5)
        figure.subplots_adjust(left=1.55 / width, wspace=0.12)
    return figure


def _ratios(
    records: Records, arms: list[str], measure: tuple[str, str, str]
) -> dict[str, list[float]]:
    """Arm -> its measure over the baseline's, seed by seed; arms that have it."""
    evaluation, metric, _ = measure
    values = {
        arm: {
            r["seed"]: r["values"][metric]
            for r in pick(records, arm=arm, evaluation=evaluation)
            if metric in r["values"]
        }
        for arm in arms
    }
    base = {seed: value for seed, value in values.get("baseline", {}).items() if value > 0}
    found = {
        arm: [v / base[s] for s, v in own.items() if s in base] for arm, own in values.items()
    }
    return {arm: ratios for arm, ratios in found.items() if ratios}
