"""The figure and the files of a `sdeflow.instruments.sensitivity.SensitivityStudy`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots import AXES_OF_NOISE, LINES, STYLE, panel_rows, save, scale_axis, write_csv
from .sensitivity import SensitivityStudy

__all__ = ["sensitivity_figure", "write_sensitivity"]

MARKS = "os^Dv"
NAMES = {"x": "x perturbed", "condition": "condition perturbed", "features": "features perturbed"}


def sensitivity_figure(
    study: SensitivityStudy, edges: tuple[float, ...] = (), caption: str = ""
) -> Figure:
    """Relative change of the answer against time, noise level and log-SNR.

    A row of plots per perturbed thing and answer, a line per scale: means over samples, with bars
    of one standard error. Dotted horizontal lines are the scales themselves, where an answer
    changes as much as what was perturbed.

    Args:
        study: what to draw.
        edges: times at which the condition jumps, drawn as dotted vertical lines in time.
        caption: text below the figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    keys = dict.fromkeys((row["perturbed"], row["answer"]) for row in study.rows)
    if not keys:
        raise ValueError("the study holds nothing to draw")
    with rc_context(STYLE):
        figure, grid, _ = panel_rows(len(keys), 0.6 + 2.2 * len(keys), caption, gap=0.25)
        for (perturbed, answer), row in zip(keys, grid, strict=True):
            mine = [r for r in study.rows if (r["perturbed"], r["answer"]) == (perturbed, answer)]
            for axes, (on, _, scale) in zip(row, AXES_OF_NOISE, strict=True):
                key = "t" if on == "time" else on
                scale_axis(axes, scale, (r[key] for r in study.rows))
                _draw(axes, mine, key)
            for edge in edges:
                if min(r["t"] for r in mine) <= edge <= max(r["t"] for r in mine):
                    row[0].axvline(edge, color="0.35", linewidth=0.7, linestyle=":")
            positive = [r["mean"] for r in mine if np.isfinite(r["mean"]) and r["mean"] > 0]
            row[0].set_yscale("log")
            if any(r["mean"] == 0 for r in mine):
                row[0].set_yscale("symlog", linthresh=min(positive, default=1.0) / 2)
                row[0].set_ylim(bottom=-min(positive, default=1.0) / 10)
            row[0].set_ylabel("relative change")
            row[0].set_title(f"{NAMES[perturbed]}: {answer}")
        for axes, (_, label, _) in zip(grid[-1], AXES_OF_NOISE, strict=True):
            axes.set_xlabel(label)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="upper right", bbox_to_anchor=(0.99, 1.0), ncols=len(labels)
        )
    return figure


def _draw(axes: Axes, rows: list[dict[str, Any]], on: str) -> None:
    for index, scale in enumerate(dict.fromkeys(row["scale"] for row in rows)):
        mine = sorted((r for r in rows if r["scale"] == scale), key=lambda r: float(r[on]))
        where, mean, error = ([r[key] for r in mine] for key in (on, "mean", "error"))
        colour, dash = LINES[index % len(LINES)]
        axes.errorbar(
            where,
            mean,
            error,
            color=colour,
            linestyle=dash,
            marker=MARKS[index % len(MARKS)],
            markersize=4,
            capsize=2,
            label=f"scale {scale:g}",
        )
        axes.axhline(scale, color=colour, linewidth=0.6, linestyle=":", zorder=0)


def write_sensitivity(
    study: SensitivityStudy,
    directory: str | Path,
    about: str = "",
    edges: tuple[float, ...] = (),
    svg: bool = False,
) -> dict[str, Path]:
    """Write a study: sensitivity.png, and its rows as sensitivity.csv and sensitivity.json.

    Args:
        study: what was measured.
        directory: where; made if need be.
        about: what the model is, for the caption.
        edges: times at which the condition jumps.
        svg: whether to write the figure as SVG, too.

    Returns:
        Name to path of what was written.
    """
    directory = Path(directory)
    settings = study.settings
    caption = (
        f"{about}. Relative change of the {settings['prediction']} prediction, for normal noise "
        f"of the given scale: means over {settings['count']} samples x drawn at each time, bars "
        f"one standard error; {settings['dtype']}, seed {settings['seed']}. Dotted level lines: a "
        "change as large as the perturbation."
    )
    if settings["steps"] is not None:
        caption += (
            f" Samples by {settings['steps']} steps of DDIM from t to {settings['t_min']:g}."
        )
    if edges:
        caption += " Dotted lines across the axis of time: where the condition jumps."
    path = directory / "sensitivity.png"
    files = {"figure": save(sensitivity_figure(study, edges, caption), path, svg)}
    columns = {key: [row[key] for row in study.rows] for key in study.rows[0]}
    files["csv"] = write_csv(path, columns)
    files["json"] = path.with_suffix(".json")
    content = {"about": about, "rows": study.rows, "settings": settings}
    files["json"].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return files
