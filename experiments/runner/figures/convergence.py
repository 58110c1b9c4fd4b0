"""Figure of `convergence`: noise of the gradient by time, and K over training."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import arms_of, band, bands_of, legend_above, means_of, panels, pick, style

__all__ = ["draw"]


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """The figure, once there are results."""
    problems = [r["problem"] for r in records if r["evaluation"] == "history"]
    if not problems:
        return {}
    problem = problems[0]
    mine = [r for r in records if r["problem"] == problem]
    arms = arms_of(records, problem, "history")
    caption = f"{problem}, {means_of(mine)}{bands_of(mine)}."
    figure, grid = panels(experiment, 1, 3, caption, height=2.7)
    zero: list[str] = []
    with rc_context(STYLE):
        noise, steepness, loss = grid[0]
        for index, arm in enumerate(arms):
            values = [r["values"] for r in pick(mine, arm=arm, evaluation="history")]
            line = {k: v for k, v in style(index).items() if k != "marker"}
            last = np.mean([np.mean(v["noise"][len(v["noise"]) * 3 // 4 :], 0) for v in values], 0)
            noise.stairs(last, values[0]["edges"], baseline=None, label=arm_words(arm), **line)
            at = int(np.argmin(np.abs(np.array(values[0]["k_times"]) - 1e-3)))
            k = [[row[at] for row in v["k"]] for v in values]
            if np.any(k):  # on an axis of logarithms there is no 0
                band(steepness, values[0]["step"], k, arm, index)
            else:
                zero.append(arm_words(arm))
            band(loss, values[0]["heldout_step"], [v["heldout"] for v in values], arm, index)
        noise.set(xscale="log", yscale="log", xlabel="time t", ylabel="trace of the covariance",
                  title="gradient of one sample, last quarter")  # fmt: skip
        none = f" ({', '.join(zero)}: 0)" if zero else ""
        steepness.set(yscale="log", xlabel="training step", title=f"K(0.001){none}")
        loss.set(yscale="log", xlabel="training step", title="held-out loss")
        legend_above(figure, noise)
    return {"history": (figure, "Noise of the gradient by time; K and loss over training.")}
