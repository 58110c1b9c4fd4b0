"""The figure and the files of `sdeflow budget`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots import AXES_OF_NOISE, LINES, STYLE, panel_rows, save, write_csv
from .budget import Budget

__all__ = ["budget_figure", "write_budget"]

Rows = list[dict[str, Any]]


def budget_figure(budget: Budget, predictions: Rows, caption: str = "") -> Figure:
    """Errors per interval, against time, noise level and log-SNR.

    First row: each cause's parts, in units of x. Second row, in units of the noise: the errors of
    the noise prediction, where there are any.

    Args:
        budget: what was measured.
        predictions: rows of an interval and its errors, from `Budget.predictions` or
            `sdeflow.instruments.noise_error.heldout_errors`; keys that hold None are left out.
        caption: text below the figure.
    """
    causes = list(dict.fromkeys(row["cause"] for row in budget.parts))
    rows = 2 if predictions else 1
    with rc_context(STYLE):
        figure, grid, _ = panel_rows(rows, 0.5 + 2.6 * rows, caption, head=0.35, gap=0.28)
        sums = {row["cause"]: row["rms"] for row in budget.causes}
        for index, cause in enumerate(causes):
            mine = [row for row in budget.parts if row["cause"] == cause]
            label = f"{cause}: {sums[cause]:.2g} on the whole"
            _draw(grid[0], mine, {"rms": label}, index, _lowest(budget))
        grid[0, 0].set_ylabel("error of a sample, rms in units of x")
        if predictions:
            # Several errors of one unit are roots of mean squares; a size is drawn beside them.
            names = {key: key for key in predictions[0] if key in KINDS}
            for index, key in enumerate(names):
                known = [row for row in predictions if row[key] is not None]
                if known:
                    _draw(grid[1], known, {key: KINDS[key]}, index, _lowest(budget))
            squares = "heldout" in predictions[0]
            unit = "mean square" if squares else "rms"
            grid[1, 0].set_ylabel(f"noise prediction, {unit} in noise units")
        for row in grid:
            row[0].set_yscale("log")
            row[0].legend(loc="best", fontsize=7)
        for axes, (_, label, scale) in zip(grid[-1], AXES_OF_NOISE, strict=True):
            axes.set(xscale=scale, xlabel=label)
    return figure


KINDS = {
    "rms": "against the exact one",
    "size": "size of the exact one",
    "heldout": "held-out data",
    "train": "training data",
    "linear": "best affine prediction",
}


def _lowest(budget: Budget) -> dict[str, float]:
    """Where an interval that reaches t = 0 is cut off in the figure: at the floor."""
    found = budget.settings
    return {
        "t": found["floor"],
        "sigma": found["floor_sigma"],
        "log_snr": found["floor_log_snr"],
    }


def _draw(
    panels: Any, rows: Rows, kinds: dict[str, str], index: int, lowest: dict[str, float]
) -> None:
    """Horizontal lines over intervals, joined where they meet."""
    colour, dash = LINES[index % len(LINES)]
    ((key, label),) = kinds.items()
    ordered = sorted(rows, key=lambda row: -row["t_high"])
    for axes, name in zip(panels, ("t", "sigma", "log_snr"), strict=True):
        where: list[float] = []
        value: list[float] = []
        for row in ordered:
            ends = [row[f"{name}_high"], row[f"{name}_low"]]
            if name == "log_snr":
                ends.reverse()
            if not row["t_low"]:
                if row["t_high"] <= lowest["t"] * (1 + 1e-9):
                    continue  # below the floor: in the table
                ends[1] = lowest[name]
            where += ends
            value += [row[key] or np.nan] * 2
        _line(axes, where, value, colour, dash, label)


def _line(
    axes: Axes, where: list[float], value: list[float], colour: str, dash: Any, label: str
) -> None:
    axes.plot(where, value, color=colour, linestyle=dash, label=label)


def write_budget(
    budget: Budget,
    directory: str | Path,
    about: str = "",
    predictions: Rows | None = None,
    svg: bool = False,
) -> dict[str, Path]:
    """Write a budget.

    * budget.png: errors per interval; budget.csv: a row per cause and interval;
    * predictions.csv: errors of the noise prediction, where there are any;
    * budget.json: all of it.

    Args:
        budget: what was measured.
        directory: where; made if need be.
        about: what the model is, for the caption.
        predictions: errors of the noise prediction in place of `budget.predictions`.
        svg: whether to write the figure as SVG, too.

    Returns:
        Name to path of what was written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    predictions = budget.predictions if predictions is None else predictions
    found = budget.settings
    how = f"tolerance {found['rtol']:g}" if found["times"] is None else f"{found['steps']} steps"
    caption = (
        f"{about}. {found['count']} samples by {found['solver']} in {found['chart']}, {how}, t "
        f"{found['t_max']:g} to {found['t_min']:g}, last operation: {found['final']}; seed "
        f"{found['seed']}. Each cause's part of an interval is what happens there, as it shows in "
        f"the finished sample; tight flows: {found['reference']} at tolerance "
        f"{found['reference_tolerance']:g}."
    )
    figure = budget_figure(budget, predictions, caption)
    files = {"figure": save(figure, directory / "budget.png", svg)}
    for name, rows in (("budget.csv", budget.parts), ("predictions.csv", predictions)):
        if rows:
            columns = {key: ["" if r[key] is None else r[key] for r in rows] for key in rows[0]}
            files[name] = write_csv(directory / name, columns)
    files["json"] = directory / "budget.json"
    content = {"about": about, **budget.to_dict(), "predictions": predictions}
    files["json"].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return files
