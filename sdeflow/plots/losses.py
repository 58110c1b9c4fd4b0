"""Losses: over the steps of a training, and held out, per bin of time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .style import LINES, STYLE, captioned

__all__ = ["binned_loss", "loss_curves"]


def loss_curves(
    step: ArrayLike,
    loss: ArrayLike,
    heldout_step: ArrayLike = (),
    heldout_loss: ArrayLike = (),
    caption: str = "",
) -> Figure:
    """Training loss, raw and smoothed over a fiftieth of the run, and held-out loss."""
    step, loss = np.asarray(step, dtype=float), np.asarray(loss, dtype=float)
    with rc_context(STYLE):
        figure, bottom = captioned(6.0, 3.4, caption)
        axes = figure.add_axes((0.11, bottom + 0.13, 0.86, 0.94 - bottom - 0.13))
        axes.plot(step, loss, color="0.75", linewidth=0.6, label="training, each logged step")
        width = max(1, len(loss) // 50)
        if width > 1:
            smooth = np.convolve(loss, np.full(width, 1 / width), mode="valid")
            axes.plot(step[width - 1 :], smooth, color="0.0", label=f"training, mean of {width}")
        if len(np.asarray(heldout_step)):
            axes.plot(
                heldout_step, heldout_loss, "o--", color="#3b6ea5", markersize=3, label="held out"
            )
        axes.set(xlabel="step", ylabel="weighted loss per element", yscale="log")
        axes.legend(loc="upper right")
    return figure


def binned_loss(edges: ArrayLike, losses: Mapping[str, ArrayLike], caption: str = "") -> Figure:
    """Held-out loss in each bin of time, one stepped line per name.

    Args:
        edges: (bins + 1,) increasing times.
        losses: name -> (bins,) mean loss in the bin.
        caption: text below the figure.

    Raises:
        ValueError: if a line does not have one value per bin.
    """
    edges = np.asarray(edges, dtype=float)
    with rc_context(STYLE):
        figure, bottom = captioned(6.0, 3.4, caption)
        axes = figure.add_axes((0.11, bottom + 0.13, 0.86, 0.94 - bottom - 0.13))
        for index, (name, values) in enumerate(losses.items()):
            values = np.asarray(values, dtype=float)
            if len(values) != len(edges) - 1:
                raise ValueError(
                    f"{name!r} has {len(values)} values for {len(edges) - 1} bins of time"
                )
            colour, dash = LINES[index % len(LINES)]
            axes.stairs(
                values,
                edges,
                color=colour,
                linestyle=dash,
                linewidth=1.2,
                label=name,
                baseline=None,
            )
        axes.set(xlabel="time t", ylabel="held-out loss per element", yscale="log")
        if edges[0] > 0:
            axes.set_xscale("log")
        axes.legend(loc="best")
    return figure
