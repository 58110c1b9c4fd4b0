"""Step sizes against time, noise level and log-SNR.

For every sample i the figure shows the step it was taking when it passed a point: with accepted
steps [t_k, t_k + dt_k] the function dt_i(t) = |dt_k| on its own step. The line is the median over
samples of dt_i at that point, the band the range from the smallest to the largest, so the band is
the spread between samples and has zero width for a fixed grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike, NDArray

from .style import AXES_OF_NOISE, STYLE, panel_rows

__all__ = ["StepPanel", "edges_on", "step_sizes", "steps_passing"]


@dataclass(frozen=True)
class StepPanel:
    """One row of a step-size figure: the attempts of one run, and which step size to draw.

    Attributes:
        columns: arrays of equal length, one entry per attempt: `sample`, `time`, `sigma`,
            `log_snr` where the attempt began; `time_end`, `sigma_end`, `log_snr_end` where it
            would have ended; `accepted`, and the step size named by `step`.
        label: what the row shows, its title.
        step: name of the column of step sizes; signs are ignored.
        unit: label of the vertical axis.
    """

    columns: Mapping[str, ArrayLike]
    label: str = ""
    step: str = "dt"
    unit: str = "step |dt|"


def step_sizes(
    panels: Sequence[StepPanel], edges: Sequence[float] = (), caption: str = ""
) -> Figure:
    """Step sizes against time, noise level and log-SNR: one row of three plots per panel.

    Dots are accepted attempts, crosses rejected ones; the line is the median over samples of the
    step being taken, the band its range (see the module's text).

    Args:
        panels: what to draw, top to bottom.
        edges: times at which the condition jumps, drawn as dotted vertical lines.
        caption: text below the figure.

    Raises:
        ValueError: if there is no panel, or a panel without attempts.
    """
    if not panels:
        raise ValueError("panels is empty: give at least one run to draw")
    with rc_context(STYLE):
        alike = len({panel.unit for panel in panels}) == 1
        figure, grid, _ = panel_rows(
            len(panels), 0.6 + 2.35 * len(panels), caption, sharey="all" if alike else "row"
        )
        for panel, row in zip(panels, grid, strict=True):
            columns = {name: np.asarray(values) for name, values in panel.columns.items()}
            if len(columns["sample"]) == 0:
                raise ValueError(f"panel {panel.label!r} has no attempts to draw")
            for axes, (name, _, scale) in zip(row, AXES_OF_NOISE, strict=True):
                axes.set_xscale(scale)
                axes.use_sticky_edges = False
                _draw_steps(axes, columns, panel.step, name)
                for edge in edges_on(name, edges, columns):
                    axes.axvline(edge, color="0.35", linewidth=0.7, linestyle=":")
            row[0].set_yscale("log")
            row[0].set_ylabel(panel.unit)
            row[0].set_title(panel.label)
            for axes in row:  # minor ticks of logarithmic axes take as long to draw as all else
                axes.minorticks_off()
            low, high = row[0].get_ylim()
            if high < 100 * low:  # a power of ten alone would not give the scale
                row[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                row[0].yaxis.set_major_formatter("{x:g}")
        for axes, (_, label, _) in zip(grid[-1], AXES_OF_NOISE, strict=True):
            axes.set_xlabel(label)
        _step_legend(figure, bool(len(edges)))
    return figure


def _draw_steps(axes: Axes, columns: Mapping[str, NDArray[Any]], step: str, against: str) -> None:
    """The attempts as marks, and the median and range over samples of the step being taken."""
    where, size = columns[against], np.abs(columns[step])
    accepted = columns["accepted"].astype(bool)
    # Dots fade as they become thousands, when only their cloud can be seen.
    fade = float(np.clip(300 / max(1, int(accepted.sum())), 0.08, 0.6))
    axes.plot(
        where[accepted], size[accepted], ".", color="0.45", markersize=3, alpha=fade, zorder=1
    )
    axes.plot(
        where[~accepted], size[~accepted], "x", color="#b03030", markersize=4, alpha=0.7, zorder=3
    )
    edges, steps = steps_passing(
        columns["sample"][accepted], where[accepted], columns[f"{against}_end"][accepted],
        size[accepted],
    )  # fmt: skip
    covered = np.asarray(np.isfinite(steps).any(0))
    if covered.any():
        low, middle, high = np.full((3, len(covered)), np.nan)
        low[covered] = np.nanmin(steps[:, covered], 0)
        middle[covered] = np.nanmedian(steps[:, covered], 0)
        high[covered] = np.nanmax(steps[:, covered], 0)
        axes.stairs(high, edges, baseline=low, fill=True, color="0.8", linewidth=0, zorder=0)
        axes.stairs(middle, edges, baseline=None, color="0.0", linewidth=1.1, zorder=2)


def steps_passing(
    sample: NDArray[Any],
    begin: NDArray[Any],
    end: NDArray[Any],
    size: NDArray[Any],
    count: int = 400,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges on an axis (P + 1,), and the step each sample takes in between (samples, P).

    Step k of a sample reaches over the axis from `begin` to `end`, in either direction.
    """
    # Edges are ends of steps, as dense as the steps are; those that many samples share come first.
    ends = np.concatenate([begin, end]).astype(np.float64)
    edges = ends
    if len(ends):
        edges = np.unique(np.quantile(ends, np.linspace(0, 1, count), method="nearest"))
    middle = (edges[1:] + edges[:-1]) / 2
    low, high = np.minimum(begin, end), np.maximum(begin, end)
    order = np.lexsort((low, sample))
    firsts = np.flatnonzero(np.diff(sample[order], prepend=np.nan))
    steps = np.full((len(firsts), len(middle)), np.nan)
    for row, mine in enumerate(np.split(order, firsts[1:]) if len(firsts) else ()):
        index = np.searchsorted(low[mine], middle, side="right") - 1
        inside = (index >= 0) & (middle <= high[mine].max())
        steps[row, inside] = size[mine][index[inside]]
    return edges, steps


def edges_on(
    name: str, edges: Sequence[float], columns: Mapping[str, NDArray[Any]]
) -> NDArray[np.float64]:
    """Edges given in time, on the axis `name`: read off the log, which has time beside it."""
    inside = np.asarray(
        [e for e in edges if columns["time"].min() <= e <= columns["time"].max()], dtype=float
    )
    if name == "time" or len(inside) == 0:
        return inside
    time, order = np.unique(columns["time"], return_index=True)
    # sigma and 1/SNR are nearly powers of t near 0: straight lines in these coordinates.
    values = np.log(columns[name][order]) if name == "sigma" else columns[name][order]
    at = np.asarray(np.interp(np.log(inside), np.log(time), values), dtype=np.float64)
    return np.exp(at) if name == "sigma" else at


def _step_legend(figure: Figure, edges: bool) -> None:
    marks: list[Any] = [
        Line2D([], [], color="0.45", marker=".", linestyle="", label="accepted"),
        Line2D([], [], color="#b03030", marker="x", markersize=4, linestyle="", label="rejected"),
        Line2D([], [], color="0.0", linewidth=1.1, label="median of samples"),
        Patch(color="0.8", linewidth=0, label="smallest to largest"),
    ]
    if edges:
        jump = Line2D(
            [], [], color="0.35", linewidth=0.7, linestyle=":", label="the condition jumps"
        )
        marks.append(jump)
    figure.legend(handles=marks, loc="upper right", bbox_to_anchor=(0.99, 1.0), ncols=len(marks))
