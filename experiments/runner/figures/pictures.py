"""Samples of each arm side by side, from the same noise."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE, captioned

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words, evaluation_words
from .common import arms_of, pick

__all__ = ["pictures"]

SIDE = 0.55  # of a picture, in inches
NAMES = 2.0  # inches left of the pictures


def _lines(evaluation: str) -> str:
    """How they were made, a piece a line."""
    return evaluation_words(evaluation).replace(", ", ",\n")


def pictures(
    experiment: Experiment, records: Records, problem: str, evaluations: tuple[str, ...]
) -> Figure | None:
    """A row of pictures per sampler and arm; None without results."""
    rows = []
    for evaluation in evaluations:
        for arm in arms_of(records, problem, evaluation):
            found = pick(records, problem=problem, arm=arm, evaluation=evaluation)
            tiles = next((r["values"]["tiles"] for r in found if "tiles" in r["values"]), None)
            if tiles is not None:
                rows.append((f"{_lines(evaluation)}\n{arm_words(arm)}", np.array(tiles)))
    if not rows:
        return None
    count = len(rows[0][1])
    caption = f"{experiment.title}: {problem}, first seed. A column starts from the same noise."
    width = NAMES + 0.1 + count * SIDE
    with rc_context({**STYLE, "axes.grid": False}):
        figure, _ = captioned(width, 0.15 + len(rows) * SIDE, caption)
        tall = figure.get_size_inches()[1]
        for row, (name, tiles) in enumerate(rows):
            top = 1 - (0.1 + (row + 1) * SIDE) / tall
            figure.text(0.02, top + SIDE / 2 / tall, name, fontsize=7.5, va="center")
            for column, tile in enumerate(tiles):
                left, side = (NAMES + column * SIDE) / width, 0.95 * SIDE
                axes = figure.add_axes((left, top, side / width, side / tall))
                axes.imshow(tile, cmap="gray", vmin=0, vmax=255)
                axes.set_axis_off()
    return figure
