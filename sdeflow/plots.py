"""Figures of samples, step sizes and losses, in one style that survives a black-and-white printer.

A step-size figure shows, for every sample i, the step it was taking when it passed a point: with
accepted steps [t_k, t_k + dt_k] the function dt_i(t) = |dt_k| on its own step. The line is the
median over samples of dt_i at that point, the band the range from the smallest to the largest, so
the band is the spread between samples and has zero width for a fixed grid.

Nothing here keeps state between calls: figures are built with `matplotlib.figure.Figure`, never
with pyplot. Every function takes NumPy arrays (or anything `numpy.asarray` takes, so CPU tensors
too) and returns a `Figure`, which `save` writes as PNG, and as SVG when asked.
"""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "StepPanel",
    "binned_loss",
    "loss_curves",
    "sample_grid",
    "save",
    "step_sizes",
    "write_csv",
]

STYLE: Any = {  # matplotlib names its settings by an unwritable literal type
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.dpi": 120,
    "font.size": 8,
    "grid.alpha": 0.6,
    "grid.color": "0.85",
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "savefig.dpi": 120,
    "svg.fonttype": "none",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# Told apart by lightness and by dash, so neither colour nor a colour printer is needed.
LINES = (
    ("0.0", "-"),
    ("#3b6ea5", "--"),
    ("#b0602a", "-."),
    ("0.55", ":"),
    ("#6a994e", (0, (5, 1, 1, 1, 1, 1))),
)
PIXELS = 120  # of a figure, per inch
CAPTION_INCHES = 0.15  # height of a line of caption
AXES_OF_NOISE = (
    ("time", "time t", "log"),
    ("sigma", "noise level sigma", "log"),
    ("log_snr", "log-SNR  log(alpha/sigma), nats", "linear"),
)


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


def save(figure: Figure, path: str | Path, svg: bool = False) -> Path:
    """Write a figure as PNG, and beside it as SVG when `svg`; returns the path of the PNG."""
    path = Path(path).with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PIXELS)
    if svg:
        with rc_context(STYLE):
            figure.savefig(path.with_suffix(".svg"))
    return path


def write_csv(path: str | Path, columns: Mapping[str, ArrayLike]) -> Path:
    """Write columns of equal length as CSV, floats with all their digits; returns the path.

    Raises:
        ValueError: if the columns differ in length.
    """
    arrays = {name: np.asarray(values).reshape(-1) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must have equal lengths, got {lengths}")
    path = Path(path).with_suffix(".csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(arrays)
        writer.writerows(zip(*(values.tolist() for values in arrays.values()), strict=True))
    return path


def sample_grid(x: ArrayLike, columns: int | None = None, caption: str = "") -> Figure:
    """Samples side by side: images as tiles, vectors as points.

    Args:
        x: images (N, C, H, W) with values in [-1, 1], grey (C = 1) or colour (C = 3; of any other
            number of channels the first is shown in grey); or vectors (N, D), whose first two
            coordinates are drawn as points (D = 1: a histogram).
        columns: tiles in a row; default makes the grid about square.
        caption: text below the picture.

    Raises:
        ValueError: if x has another number of dimensions or no samples.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim not in (2, 4) or x.shape[0] == 0:
        raise ValueError(
            f"x must be images (N, C, H, W) or vectors (N, D) with N > 0, got shape {x.shape}"
        )
    return _tiles(x, columns, caption) if x.ndim == 4 else _points(x, caption)


def _tiles(x: NDArray[np.float64], columns: int | None, caption: str) -> Figure:
    count, channels, height, width = x.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    zoom = max(1, round(48 / max(height, width)))
    shown = 3 if channels == 3 else 1
    gap = 1 if zoom > 1 else 2  # white pixels between tiles, before zooming
    canvas = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap, shown))
    for index, image in enumerate(np.clip(x[:, :shown] / 2 + 0.5, 0, 1)):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    canvas = np.nan_to_num(canvas, nan=0.5)  # a failed sample is a grey tile
    canvas = canvas.repeat(zoom, axis=0).repeat(zoom, axis=1)
    size = (canvas.shape[1] / PIXELS, canvas.shape[0] / PIXELS)
    with rc_context(STYLE):
        figure, bottom = _figure(max(size[0], 2.5), size[1], caption)
        total = figure.get_size_inches()
        area = (
            (total[0] - size[0]) / 2 / total[0],
            bottom,
            size[0] / total[0],
            size[1] / total[1],
        )
        axes = figure.add_axes(area)
        axes.imshow(canvas.squeeze(-1) if shown == 1 else canvas, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    return figure


def _points(x: NDArray[np.float64], caption: str) -> Figure:
    with rc_context(STYLE):
        figure, bottom = _figure(4.0, 4.0, caption)
        axes = figure.add_axes((0.14, bottom + 0.12 * (1 - bottom), 0.82, 0.84 * (1 - bottom)))
        if x.shape[1] == 1:
            axes.hist(x[np.isfinite(x)], bins=60, color="0.4")
            axes.set(xlabel="x", ylabel="samples")
        else:
            axes.plot(x[:, 0], x[:, 1], ".", color="0.15", markersize=2.5, alpha=0.6)
            axes.set(xlabel="x[0]", ylabel="x[1]", aspect="equal")
            axes.set_adjustable("datalim")
    return figure


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
        figure, bottom = _figure(10.5, 0.6 + 2.35 * len(panels), caption)
        alike = len({panel.unit for panel in panels}) == 1
        grid = figure.subplots(
            len(panels), 3, sharex="col", sharey="all" if alike else "row", squeeze=False
        )
        height = figure.get_size_inches()[1]
        figure.subplots_adjust(
            left=0.075,
            right=0.985,
            top=1 - 0.6 / height,
            bottom=bottom + 0.45 / height,
            wspace=0.06,
            hspace=0.22,
        )
        for panel, row in zip(panels, grid, strict=True):
            columns = {name: np.asarray(values) for name, values in panel.columns.items()}
            if len(columns["sample"]) == 0:
                raise ValueError(f"panel {panel.label!r} has no attempts to draw")
            for axes, (name, _, scale) in zip(row, AXES_OF_NOISE, strict=True):
                axes.set_xscale(scale)
                axes.use_sticky_edges = False
                _draw_steps(axes, columns, panel.step, name)
                for edge in _edges_on(name, edges, columns):
                    axes.axvline(edge, color="0.35", linewidth=0.7, linestyle=":")
            row[0].set_yscale("log")
            row[0].set_ylabel(panel.unit)
            row[0].set_title(panel.label)
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
    edges, steps = _steps_passing(
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


def _steps_passing(
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
    samples = np.unique(sample)
    steps = np.full((len(samples), len(middle)), np.nan)
    for row, number in enumerate(samples):
        mine = sample == number
        low = np.minimum(begin[mine], end[mine])
        order = np.argsort(low)
        index = np.searchsorted(low[order], middle, side="right") - 1
        inside = (index >= 0) & (middle <= np.maximum(begin[mine], end[mine]).max(initial=-np.inf))
        steps[row, inside] = size[mine][order][index[inside]]
    return edges, steps


def _edges_on(
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
        figure, bottom = _figure(6.0, 3.4, caption)
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
        figure, bottom = _figure(6.0, 3.4, caption)
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


def _figure(width: float, height: float, caption: str) -> tuple[Figure, float]:
    """A figure, in inches, with room for the caption below; the fraction that room takes."""
    lines = textwrap.wrap(caption, max(30, int(width * 16.5)))
    room = (len(lines) + 1) * CAPTION_INCHES if lines else 0.0
    figure = Figure(figsize=(width, height + room))
    if lines:
        figure.text(
            0.02, 0.06 / (height + room), "\n".join(lines), fontsize=7.5, color="0.3", va="bottom"
        )
    return figure, room / (height + room)
