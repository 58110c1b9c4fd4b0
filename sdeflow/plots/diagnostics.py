"""What training does near t = 0, over its steps: steepness in time, and gradients per bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .style import STYLE, captioned

__all__ = ["training_diagnostics"]

MARKS = "os^Dv<>pXP"


def training_diagnostics(
    step: ArrayLike,
    k: Mapping[str, ArrayLike],
    jumps: Mapping[str, ArrayLike],
    variance: Mapping[str, ArrayLike],
    caption: str = "",
) -> Figure:
    """K and jumps, and the variance of the gradient's norm, against the training step.

    Colours run from the earliest time, dark, to the latest, light; marks tell lines apart, too.

    Args:
        step: (S,) optimiser steps.
        k: name of a time -> (S,) values of K there.
        jumps: name of a time -> (S,) mean jumps there, as K(t, t') with step 1/1000 has them.
        variance: name of a bin -> (S,) variances of the gradient's norm.
        caption: text below the figure.

    Raises:
        ValueError: a line without one value per step.
    """
    step = np.asarray(step, dtype=float)
    with rc_context(STYLE):
        figure, bottom = captioned(10.5, 3.6, caption)
        height = 0.92 - bottom - 0.12
        left = figure.add_axes((0.06, bottom + 0.12, 0.31, height))
        right = figure.add_axes((0.56, bottom + 0.12, 0.305, height))
        _lines(left, step, k, "-")
        _lines(left, step, jumps, ":", "x+1234"[: max(1, len(jumps))])
        left.set(
            ylabel="per unit of t", title="steepness in time: K(t, t + 0.001), and jumps / 0.001"
        )
        _lines(right, step, variance, "-")
        right.set(
            ylabel="variance of the norm", title="gradient of one sample's loss, for t in a bin"
        )
        for axes, lines in ((left, {**k, **jumps}), (right, variance)):
            axes.set_xlabel("step")
            values = np.concatenate([np.asarray(v, dtype=float) for v in lines.values()])
            positive = values[np.isfinite(values) & (values > 0)]
            axes.set_yscale("log")
            if len(positive) and (values == 0).any():
                axes.set_yscale("symlog", linthresh=positive.min() / 2)
                axes.set_ylim(bottom=-positive.min() / 20)
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _lines(
    axes: Axes,
    step: ArrayLike,
    lines: Mapping[str, ArrayLike],
    dash: str,
    marks: Sequence[str] = MARKS,
) -> None:
    for index, (name, values) in enumerate(lines.items()):
        values = np.asarray(values, dtype=float)
        if values.shape != np.shape(step):
            raise ValueError(f"{name!r} has {values.size} values for {np.size(step)} steps")
        # The lightest tenth of the map is hard to see on white.
        colour = colormaps["viridis"](0.9 * index / max(1, len(lines) - 1))
        mark = marks[index % len(marks)]
        axes.plot(
            step,
            values,
            dash,
            color=colour,
            linewidth=0.9,
            marker=mark,
            markersize=3.5,
            label=name,
        )
