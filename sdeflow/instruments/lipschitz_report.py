"""The figure and the files of a `sdeflow.instruments.lipschitz.LipschitzStudy`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..plots import AXES_OF_NOISE, LINES, STYLE, panel_rows, save, scale_axis, write_csv
from .lipschitz import JUMP_STEP, OF_SPACE, LipschitzStudy
from .power_law import Exponent

__all__ = ["lipschitz_figure", "write_lipschitz"]

NAMES = {
    "total": "derivative, all of it",
    "condition": "derivative, through the condition",
    "in x": "largest singular value of d/dx",
    "curvature": "curvature of the flow",
}
RATES = {  # axis -> key of a rate in its variable, what a rate on it is
    "t": ("mean", "per unit of t"),
    "sigma": ("per_sigma", "per unit of sigma"),
    "log_snr": ("per_log_snr", "per nat of log-SNR"),
}


def lipschitz_figure(study: LipschitzStudy, caption: str = "", space: bool = False) -> Figure:
    """Mean steepness against time, noise level and log-SNR, a row of plots per prediction.

    Each as a rate in the variable of its own axis; slopes in x are the same on all three.

    Bands are one standard error; crosses are what K(t, t + 0.001) makes of a jump; pairs of times
    that straddle a jump are left out of the lines. The vertical axis is logarithmic, and
    where something is 0, linear from the smallest positive value down to it.

    Args:
        study: what to draw.
        caption: text below the figure.
        space: draw the slope in x and the curvature in place of the rates in time.

    Raises:
        ValueError: there is nothing to draw.
    """
    rows = [r for r in study.curve if (r["quantity"] in OF_SPACE) == space and not r["crosses"]]
    predictions = list(dict.fromkeys(r["prediction"] for r in rows))
    if not predictions:
        raise ValueError("the study holds nothing to draw: measure a derivative or a step")
    with rc_context(STYLE):
        figure, grid, _ = rate_panels(len(predictions), 2.35, caption, space)
        for prediction, row in zip(predictions, grid, strict=True):
            mine = [r for r in rows if r["prediction"] == prediction]
            jumps = [] if space else [j for j in study.jumps if j["prediction"] == prediction]
            for axes, (on, (_, unit)), (*_, scale) in zip(
                row, RATES.items(), AXES_OF_NOISE, strict=True
            ):
                scale_axis(axes, scale, (r[on] for r in rows))
                _draw(axes, mine, jumps, on)
                if not space:
                    axes.set_ylabel(unit)
                scale_rates(axes, [*rates_on(mine, on)[0], *rates_on(jumps, on)[0]])
            if space:
                row[0].set_ylabel("per unit of x")
            row[0].set_title(prediction)
        for axes, (_, label, _) in zip(grid[-1], AXES_OF_NOISE, strict=True):
            axes.set_xlabel(label)
        named: dict[str, Any] = {}
        for axes in grid[:, 0]:
            handles, labels = axes.get_legend_handles_labels()
            named |= dict(zip(labels, handles, strict=True))
        figure.legend(
            named.values(),
            named.keys(),
            loc="upper right",
            bbox_to_anchor=(0.99, 1.0),
            ncols=max(1, len(named)),
        )
    return figure


def rate_panels(
    rows: int, inches: float, caption: str, space: bool = False
) -> tuple[Figure, Any, float]:
    """`panel_rows` of the given height each, with a vertical axis a panel unless for `space`."""
    apart: dict[str, Any] = {} if space else {"sharey": False, "between": 0.26}
    return panel_rows(rows, 0.6 + inches * rows, caption, **apart)


def rates_on(
    rows: Sequence[dict[str, Any]], on: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of rows, or jumps, as rates in the variable `on`, and their errors; NaN where none."""
    key = "per_step" if on == "t" and rows and "per_step" in rows[0] else RATES[on][0]
    mean, error = (np.array([r[name] for r in rows], dtype=float) for name in ("mean", "error"))
    if all(r.get("quantity") in OF_SPACE for r in rows):
        return mean, error
    rate = np.array([np.nan if r[key] is None else r[key] for r in rows])
    return rate, error * np.divide(rate, mean, out=np.zeros_like(rate), where=mean > 0)


def scale_rates(axes: Axes, levels: Sequence[float]) -> None:
    """A logarithmic vertical axis; where a level is 0, linear below the smallest positive one."""
    axes.set_yscale("log")
    if 0.0 in levels:
        smallest = min((v for v in levels if v > 0), default=1.0)
        axes.set_yscale("symlog", linthresh=smallest / 2)
        axes.set_ylim(bottom=-smallest / 10)  # a line at 0 stays clear of the axis


def _draw(axes: Axes, rows: list[dict[str, Any]], jumps: list[dict[str, Any]], on: str) -> None:
    keys = dict.fromkeys((r["quantity"], r["step"]) for r in rows)
    for index, (quantity, step) in enumerate(keys):
        mine = [r for r in rows if (r["quantity"], r["step"]) == (quantity, step)]
        where, (mean, error) = np.array([r[on] for r in mine]), rates_on(mine, on)
        colour, dash = LINES[index % len(LINES)]
        label = NAMES.get(quantity, f"K(t, t + {step:g})" if step else quantity)
        axes.plot(where, mean, color=colour, linestyle=dash, label=label)
        axes.fill_between(where, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    if jumps:
        label = f"jump / {JUMP_STEP:g}"
        size, _ = rates_on(jumps, on)
        axes.plot([j[on] for j in jumps], size, "x", color="#b03030", markersize=5, label=label)


def write_lipschitz(
    study: LipschitzStudy,
    directory: str | Path,
    about: str = "",
    exponent: Exponent | None = None,
    svg: bool = False,
) -> dict[str, Path]:
    """Write a study.

    * lipschitz.png: rates in time; space.png: slope in x and curvature, where measured;
    * lipschitz.csv: the curve; jumps.csv: the jumps, where there are any;
    * lipschitz.json: all of it, with the summary, the exponent and the settings.

    Args:
        study: what was measured.
        directory: where; made if need be.
        about: what the model is, for the captions.
        exponent: the fitted power of t, or None.
        svg: whether to write the figures as SVG, too.

    Returns:
        Name to path of what was written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    settings = study.settings
    caption = (
        f"{about}. Means over {settings['count']} samples x drawn at each time, bands one "
        f"standard error; {settings['dtype']}, seed {settings['seed']}."
    )
    if exponent is not None:
        caption += (
            f" E||d noise/dt|| grows as t to the power {exponent.value:.3f} +- "
            f"{exponent.error:.1g} for t from {exponent.low:g} to {exponent.high:g}."
        )
    files = {}
    for name, space in (("lipschitz", False), ("space", True)):
        if any((row["quantity"] in OF_SPACE) == space for row in study.curve):
            figure = lipschitz_figure(study, caption, space)
            files[name] = save(figure, directory / f"{name}.png", svg)
    for name, rows in (("lipschitz.csv", study.curve), ("jumps.csv", study.jumps)):
        if rows:
            columns = {key: ["" if r[key] is None else r[key] for r in rows] for key in rows[0]}
            files[name] = write_csv(directory / name, columns)
    files["json"] = directory / "lipschitz.json"
    content = {
        "about": about,
        "exponent": None if exponent is None else asdict(exponent),
        "summary": study.summary(),
        "curve": study.curve,
        "jumps": study.jumps,
        "settings": settings,
    }
    files["json"].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return files
