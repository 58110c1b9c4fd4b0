"""One style for all figures, and how figures and the numbers beside them are written.

Lines are told apart by lightness and by dash; a caption below each figure says what it was made
with. Figures are `matplotlib.figure.Figure`; nothing here keeps state between calls.
"""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

__all__ = [
    "AXES_OF_NOISE",
    "CAPTION_INCHES",
    "LINES",
    "PIXELS",
    "STYLE",
    "captioned",
    "panel_rows",
    "save",
    "scale_axis",
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
MARGIN = 0.04  # inches that are kept free left of the label of a vertical axis
CAPTION_INCHES = 0.15  # height of a line of caption
AXES_OF_NOISE = (
    ("time", "time t", "log"),
    ("sigma", "noise level sigma", "log"),
    ("log_snr", "log-SNR  log(alpha/sigma), nats", "linear"),
)


def captioned(width: float, height: float, caption: str) -> tuple[Figure, float]:
    """A figure, in inches, with room for the caption below; the fraction that room takes."""
    lines = textwrap.wrap(caption, max(30, int(width * 16.5)))
    room = (len(lines) + 1) * CAPTION_INCHES if lines else 0.0
    figure = Figure(figsize=(width, height + room))
    if lines:
        figure.text(
            0.02, 0.06 / (height + room), "\n".join(lines), fontsize=7.5, color="0.3", va="bottom"
        )
    return figure, room / (height + room)


def panel_rows(
    rows: int,
    inches: float,
    caption: str,
    *,
    head: float = 0.6,
    foot: float = 0.0,
    gap: float = 0.22,
    between: float = 0.06,
    sharex: bool | Literal["none", "all", "row", "col"] = "col",
    sharey: bool | Literal["none", "all", "row", "col"] = "row",
) -> tuple[Figure, Any, float]:
    """A figure of rows of three panels: as a rule against time, sigma and log-SNR.

    Args:
        rows: how many.
        inches: height of all but the caption.
        caption: text below.
        head: room above the panels, in inches.
        foot: room between the panels and the caption, beside that of the axis labels, in inches.
        gap: between rows, as a share of a panel's height.
        between: between panels of a row, as a share of their width.
        sharex, sharey: as of `Figure.subplots`.

    Returns:
        The figure, its axes (rows, 3), and the fraction of its height that the caption takes.
    """
    figure, bottom = captioned(10.5, inches, caption)
    height = figure.get_size_inches()[1]
    grid = figure.subplots(rows, 3, sharex=sharex, sharey=sharey, squeeze=False)
    figure.subplots_adjust(
        left=0.075,
        right=0.985,
        top=1 - head / height,
        bottom=bottom + (foot + 0.45) / height,
        wspace=between,
        hspace=gap,
    )
    return figure, grid, bottom


def scale_axis(axes: Axes, scale: str, values: Iterable[float]) -> None:
    """Scale the horizontal axis; values that are all the same get room around them."""
    axes.set_xscale(scale)
    places = {float(value) for value in values}
    if len(places) == 1:
        (only,) = places
        axes.set_xlim(*((only / 10, only * 10) if scale == "log" else (only - 0.5, only + 0.5)))


def _fit_labels(figure: Figure) -> None:
    """Move the left ends of axes in where their labels are cut off, or run into a legend."""
    width, margin = figure.bbox.width, MARGIN * figure.dpi
    legends = {
        axes: legend.get_window_extent().x1
        for axes in figure.axes
        if (legend := axes.get_legend())
    }
    for axes in figure.axes:
        box, place = axes.yaxis.get_tightbbox(), axes.get_position()
        if box is None or not axes.axison:
            continue
        lefts = [end for other, end in legends.items() if other.get_position().x1 <= place.x0]
        short = (max([0.0, *lefts]) + margin - box.x0) / width
        if short <= 0:
            continue
        if axes.get_subplotspec():  # all panels of a grid move together
            figure.subplots_adjust(left=figure.subplotpars.left + short)
        else:
            axes.set_position((place.x0 + short, place.y0, place.width - short, place.height))


def save(figure: Figure, path: str | Path, svg: bool = False) -> Path:
    """Write a figure as PNG, and beside it as SVG when `svg`; returns the path of the PNG.

    Labels of vertical axes that would be cut off get the room that they need.
    """
    path = Path(path).with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    _fit_labels(figure)
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
