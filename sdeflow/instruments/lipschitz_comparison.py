"""Several `LipschitzStudy`s in one figure: how steep models are in time, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots import AXES_OF_NOISE, LINES, STYLE, save, scale_axis, write_csv
from .lipschitz import JUMP_STEP, OF_SPACE, LipschitzStudy
from .lipschitz_report import NAMES, RATES, rate_panels, rates_on, scale_rates

__all__ = ["comparison_figure", "write_comparison"]

MARKS = "x+*12"  # of the jumps


def comparison_figure(studies: Mapping[str, LipschitzStudy], caption: str = "") -> Figure:
    """Rates in time of several models, a row of plots per prediction and quantity.

    Lines are means over samples with a band of one standard error; marks are what K(t, t + 0.001)
    makes of a jump; pairs of times that straddle a jump are left out of the lines. Where something
    is 0 the vertical axis is linear from the smallest positive value down to it.

    Args:
        studies: name -> what was measured, the same quantities of all.
        caption: text below the figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    keys = dict.fromkeys(
        (r["prediction"], r["quantity"], r["step"])
        for study in studies.values()
        for r in study.curve
        if r["quantity"] not in OF_SPACE and r["quantity"] != "condition"
    )
    if not keys:
        raise ValueError("the studies hold nothing to draw: measure a derivative or a step")
    with rc_context(STYLE):
        figure, grid, _ = rate_panels(len(keys), 2.5, caption)
        for (prediction, quantity, step), row in zip(keys, grid, strict=True):
            levels: dict[str, list[float]] = {on: [] for on in RATES}
            for index, (name, study) in enumerate(studies.items()):
                rows = [
                    r
                    for r in study.curve
                    if (r["prediction"], r["quantity"], r["step"]) == (prediction, quantity, step)
                    and not r["crosses"]
                ]
                jumps = [j for j in study.jumps if j["prediction"] == prediction]
                for axes, on, (*_, scale) in zip(row, RATES, AXES_OF_NOISE, strict=True):
                    scale_axis(axes, scale, (r[on] for r in rows))
                    _draw(axes, name, index, rows, jumps, on)
                    levels[on] += [*rates_on(rows, on)[0], *rates_on(jumps, on)[0]]
            for axes, (on, (_, unit)) in zip(row, RATES.items(), strict=True):
                scale_rates(axes, levels[on])
                axes.set_ylabel(unit)
            title = f"K(t, t + {step:g})" if step else NAMES[quantity]
            row[0].set_title(f"{prediction}: {title}")
        for axes, (_, label, _) in zip(grid[-1], AXES_OF_NOISE, strict=True):
            axes.set_xlabel(label)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper right", bbox_to_anchor=(0.99, 1.0), ncols=len(labels)
        )
    return figure


def _draw(
    axes: Axes,
    name: str,
    index: int,
    rows: list[dict[str, Any]],
    jumps: list[dict[str, Any]],
    on: str,
) -> None:
    where, (mean, error) = np.array([r[on] for r in rows]), rates_on(rows, on)
    colour, dash = LINES[index % len(LINES)]
    axes.plot(where, mean, color=colour, linestyle=dash, label=name)
    axes.fill_between(where, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    if jumps:
        axes.plot(
            [j[on] for j in jumps],
            rates_on(jumps, on)[0],
            MARKS[index % len(MARKS)],
            color=colour,
            markersize=6,
            label=f"{name}: jump / {JUMP_STEP:g}",
        )


def write_comparison(
    studies: Mapping[str, LipschitzStudy],
    directory: str | Path,
    about: str = "",
    svg: bool = False,
) -> dict[str, Path]:
    """Write several studies: comparison.png, and the table beside it as comparison.csv and .json.

    The table has a row per model, prediction and quantity: over times, mean, median and maximum
    of the mean over samples (pairs across a jump left out), and the largest jump.

    Args:
        studies: name -> what was measured.
        directory: where; made if need be.
        about: what the models are, for the caption.
        svg: whether to write the figure as SVG, too.

    Returns:
        Name to path of what was written.
    """
    directory = Path(directory)
    settings = next(iter(studies.values())).settings
    caption = (
        f"{about}. Means over {settings['count']} samples x drawn at each time, bands one "
        f"standard error; {settings['dtype']}, seed {settings['seed']}. Pairs of times on both "
        "sides of a jump are left out of the lines; the jumps are drawn beside them."
    )
    path = directory / "comparison.png"
    files = {"comparison": save(comparison_figure(studies, caption), path, svg)}
    rows = [{"model": name, **row} for name, study in studies.items() for row in study.summary()]
    columns = {key: ["" if r[key] is None else r[key] for r in rows] for key in rows[0]}
    files["csv"] = write_csv(path, columns)
    files["json"] = path.with_suffix(".json")
    content = {"about": about, "settings": settings, "summary": rows}
    files["json"].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return files
