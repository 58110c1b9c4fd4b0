"""Step sizes of several fields in the same charts, with what they cost, in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from .steps import StepPanel, edges_on, steps_passing
from .style import AXES_OF_NOISE, LINES, STYLE, panel_rows

__all__ = ["step_causes"]

# Colour, dash and width of a line, and the mark of its rejected attempts. (matplotlib names its
# dashes by a literal type.)
LOOKS: Any = tuple(
    (*line, *more) for line, more in zip(LINES, ((1.4, "x"), (1.1, "+"), (1.4, "1")), strict=False)
)
ROW, TABLE_ROW = 2.35, 0.18  # inches


def step_causes(
    rows: Sequence[tuple[str, Mapping[str, StepPanel]]],
    edges: Sequence[float],
    header: Sequence[str],
    table: Sequence[Sequence[str]],
    caption: str = "",
) -> Figure:
    """Step sizes against time, noise level and log-SNR: a row of plots a chart, a line a field.

    A line is the median over samples of the step being taken, the band around the first one its
    range; marks are rejected attempts; all rows share their vertical axis. Costs are tabled below.

    Args:
        rows: title -> name of a field -> its attempts, top to bottom.
        edges: times at which the first field jumps, drawn as dotted vertical lines.
        header: columns of the table.
        table: its lines.
        caption: text below the figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not rows:
        raise ValueError("rows is empty: give at least one setting to draw")
    with rc_context(STYLE):
        room = TABLE_ROW * (len(table) + 1) + 0.35
        inches = 0.75 + ROW * len(rows) + room
        figure, grid, bottom = panel_rows(
            len(rows), inches, caption, foot=room, gap=0.24, sharey="all"
        )
        for (title, panels), row in zip(rows, grid, strict=True):
            for axes, (on, _, scale) in zip(row, AXES_OF_NOISE, strict=True):
                axes.set_xscale(scale)
                for index, panel in enumerate(panels.values()):
                    _draw(axes, panel, on, index)
                first = {k: np.asarray(v) for k, v in next(iter(panels.values())).columns.items()}
                for edge in edges_on(on, edges, first):
                    axes.axvline(edge, color="0.35", linewidth=0.7, linestyle=(0, (1, 3)))
            row[0].set_yscale("log")
            row[0].set_ylabel("step in time t")
            row[0].set_title(title)
        for axes, (_, label, _) in zip(grid[-1], AXES_OF_NOISE, strict=True):
            axes.set_xlabel(label)
        _table(figure, header, table, bottom, room / figure.get_size_inches()[1])
        _legend(figure, list(rows[0][1]), bool(len(edges)))
    return figure


def _draw(axes: Axes, panel: StepPanel, on: str, index: int) -> None:
    columns = {name: np.asarray(values) for name, values in panel.columns.items()}
    colour, dash, width, mark = LOOKS[index % len(LOOKS)]
    accepted = columns["accepted"].astype(bool)
    size = np.abs(columns[panel.step])
    axes.plot(
        columns[on][~accepted], size[~accepted], mark, color=colour, markersize=4, alpha=0.5,
        markeredgewidth=0.7, zorder=3,
    )  # fmt: skip
    places, steps = steps_passing(
        columns["sample"][accepted], columns[on][accepted], columns[f"{on}_end"][accepted],
        size[accepted],
    )  # fmt: skip
    covered = np.asarray(np.isfinite(steps).any(0))
    if not covered.any():
        return
    low, middle, high = np.full((3, len(covered)), np.nan)
    low[covered] = np.nanmin(steps[:, covered], 0)
    middle[covered] = np.nanmedian(steps[:, covered], 0)
    high[covered] = np.nanmax(steps[:, covered], 0)
    if index == 0:
        axes.stairs(high, places, baseline=low, fill=True, color="0.85", linewidth=0, zorder=0)
    axes.stairs(
        middle, places, baseline=None, color=colour, linewidth=width, linestyle=dash, zorder=2
    )


def _table(
    figure: Figure, header: Sequence[str], table: Sequence[Sequence[str]], low: float, tall: float
) -> None:
    axes = figure.add_axes((0.03, low, 0.955, tall * 0.97))
    axes.set_axis_off()
    longest = [max(len(line[i]) for line in (header, *table)) for i in range(len(header))]
    widths = np.array([0.9 * letters + 3 for letters in longest])
    drawn = axes.table(
        cellText=[list(line) for line in table],
        colLabels=list(header),
        colWidths=list(widths / widths.sum()),
        cellLoc="left",
        colLoc="left",
        edges="horizontal",
        bbox=Bbox.from_bounds(0, 0, 1, 0.9),
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    for (row, _), cell in drawn.get_celld().items():
        cell.set_edgecolor("0.4" if row == 0 else "0.85")
        cell.set_linewidth(0.5)


def _legend(figure: Figure, names: Sequence[str], edges: bool) -> None:
    marks: list[Any] = []
    for index, name in enumerate(names):
        colour, dash, width, mark = LOOKS[index % len(LOOKS)]
        marks.append(
            Line2D([], [], color=colour, linestyle=dash, linewidth=width, label=f"{name}: median")
        )
        if index == 0:
            marks.append(Patch(color="0.85", linewidth=0, label="smallest to largest"))
        marks.append(
            Line2D([], [], color=colour, marker=mark, linestyle="", markersize=4, label="rejected")
        )
    if edges:
        dots = (0, (1, 3))
        marks.append(Line2D([], [], color="0.35", linewidth=0.7, linestyle=dots, label="jumps"))
    figure.legend(
        handles=marks, loc="upper right", bbox_to_anchor=(0.99, 1.0), ncols=len(marks),
        columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
