"""The figures and files of `sdeflow partition`: proposed edges, and what sharing time costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..files import write_text
from ..plots import AXES_OF_NOISE, LINES, STYLE, panel_rows, save, write_csv
from .partition_study import PartitionStudy
from .shared_bias import PREDICTORS, BiasStudy

__all__ = ["bias_figure", "partition_figure", "write_bias", "write_partition"]

MARKS = "oxsd^"


def partition_figure(study: PartitionStudy, caption: str = "") -> Figure:
    """The jump at every edge, against time, noise level and log-SNR, a line per spacing.

    Marks are jumps; a thin bar reaches up to the largest departure in the interval that ends
    there, where it is larger than the jump.
    """
    with rc_context(STYLE):
        figure, (panels,), _ = panel_rows(1, 3.2, caption, head=0.4)
        for axes, (name, label, scale) in zip(panels, AXES_OF_NOISE, strict=True):
            key = "t" if name == "time" else name
            for index, way in enumerate(study.spacings):
                mine = [row for row in study.jumps if row["spacing"] == way["spacing"]]
                where = [row[key] for row in mine]
                mean, within = ([row[kind] for row in mine] for kind in ("mean", "within"))
                colour, dash = LINES[index]
                axes.plot(
                    where, mean, color=colour, linestyle=dash, marker=MARKS[index], markersize=4,
                    label=f"{way['spacing']}: at most {way['largest']:.3g}",
                )  # fmt: skip
                axes.vlines(where, mean, within, color=colour, linewidth=0.8)
            axes.set(xscale=scale, xlabel=label)
        panels[0].set_ylabel("jump at the edge, E||.||")
        panels[0].set_ylim(bottom=0)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.99, 1.0), ncols=4)
    return figure


def bias_figure(study: BiasStudy, intervals: int, caption: str = "") -> Figure:
    """Bias against time for one number of intervals, and the largest against their number.

    A row per threshold: the ideal predictor, the left end, and for every number of intervals the
    largest bias of the ideal one with the bound, thin, above it.
    """
    thresholds = list(dict.fromkeys(row["threshold"] for row in study.rows))
    spacings = list(dict.fromkeys(row["spacing"] for row in study.rows))
    with rc_context(STYLE):
        figure, grid, _ = panel_rows(
            len(thresholds), 0.6 + 2.6 * len(thresholds), caption, gap=0.42, sharex=False
        )
        for threshold, row in zip(thresholds, grid, strict=True):
            for index, spacing in enumerate(spacings):
                colour, dash = LINES[index % len(LINES)]
                style: dict[str, Any] = {"color": colour, "linestyle": dash}
                for axes, predictor in zip(row, PREDICTORS, strict=False):
                    key = (threshold, intervals, spacing, predictor)
                    names = ("threshold", "intervals", "spacing", "predictor")
                    mine = [r for r in study.curve if tuple(r[n] for n in names) == key]
                    axes.plot([r["t"] for r in mine], [r["bias"] for r in mine], **style)
                ideal = [
                    r
                    for r in study.rows
                    if (r["threshold"], r["spacing"], r["predictor"])
                    == (threshold, spacing, PREDICTORS[0])
                ]
                number = [r["intervals"] for r in ideal]
                largest = [r["largest"] for r in ideal]
                mark = MARKS[index % len(MARKS)]
                row[2].plot(number, largest, marker=mark, markersize=4, label=spacing, **style)
                row[2].plot(number, [r["bound"] for r in ideal], linewidth=0.5, **style)
            sizes = {r["t"]: r["size"] for r in study.curve if r["threshold"] == threshold}
            for axes, predictor in zip(row, PREDICTORS, strict=False):
                where = sorted(sizes)
                axes.plot(where, [sizes[t] for t in where], color="0.8", linewidth=2.5, zorder=0)
                axes.set(xscale="log", yscale="log", xlabel="time t")
                axes.set_title(f"{predictor}, {intervals} intervals below {threshold:g}")
            row[2].set(xscale="log", yscale="log", xlabel="number of intervals")
            row[2].set_title(f"{PREDICTORS[0]}: largest; thin: bound")
            row[2].set_xticks(number, [str(n) for n in number])
            row[2].minorticks_off()
            row[0].set_ylabel("bias in L2(p_t), noise units")
        handles, labels = grid[0, 2].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.99, 1.0), ncols=5)
    return figure


def write_partition(
    study: PartitionStudy,
    directory: str | Path,
    about: str = "",
    edges: str | Path | None = None,
    svg: bool = False,
) -> dict[str, Path]:
    """Write a proposal.

    * edges.json: what `sdeflow train --etsdm-edges` takes, with how it was found;
    * partition.png: the jumps of every spacing; partition.csv: a row per jump;
    * partition.json: all of it.

    Args:
        study: what was measured.
        directory: where; made if need be.
        about: what the model is, for the caption.
        edges: where to write the edges in place of edges.json.
        svg: whether to write the figure as SVG, too.

    Returns:
        Name to path of what was written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found = study.settings
    caption = (
        f"{about}. {found['intervals']} intervals below t = {found['threshold']:.4g}, from "
        f"{found['t_min']:g}. Means over {found['count']} samples x drawn at each edge, "
        f"{found['dtype']}, seed {found['seed']}; in the legend, the largest departure of the "
        "model told the left end from itself inside an interval, whose value at its end is the "
        "jump."
    )
    files = {"edges": Path(edges or directory / "edges.json")}
    files["edges"].parent.mkdir(parents=True, exist_ok=True)
    proposal = {"edges": list(study.edges), "about": about, "settings": found}
    write_text(files["edges"], json.dumps(proposal, indent=2) + "\n")
    figure = partition_figure(study, caption)
    files["figure"] = save(figure, directory / "partition.png", svg)
    names = study.jumps[0]
    columns = {name: [row[name] for row in study.jumps] for name in names}
    files["jumps"] = write_csv(directory / "partition.csv", columns)
    files["json"] = directory / "partition.json"
    content = {"about": about, **study.to_dict()}
    files["json"].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return files


def write_bias(
    study: BiasStudy, directory: str | Path, about: str = "", intervals: int = 5, svg: bool = False
) -> dict[str, Path]:
    """Write what sharing time costs: bias.png, bias.csv (a row per way to share), bias.json.

    Args:
        study: what was measured.
        directory: where; made if need be.
        about: what the model is, for the caption.
        intervals: the number of intervals whose biases are drawn against time.
        svg: whether to write the figure as SVG, too.

    Returns:
        Name to path of what was written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    found = study.settings
    caption = (
        f"{about}. Bias of a prediction that knows the sub-interval alone; ideal: the posterior "
        "mean over times in it; left end: the exact one asked there. Root mean squares over "
        f"{found['count']} samples, seed {found['seed']}; grey: the size of the noise prediction; "
        "bound: sigma(t~) K_s Delta_t + B Delta_sigma."
    )
    figure = bias_figure(study, intervals, caption)
    files = {"bias figure": save(figure, directory / "bias.png", svg)}
    flat = [{**row, "edges": " ".join(f"{e:.17g}" for e in row["edges"])} for row in study.rows]
    columns = {name: np.array([row[name] for row in flat]) for name in flat[0]}
    files["bias table"] = write_csv(directory / "bias.csv", columns)
    files["bias json"] = directory / "bias.json"
    content = {"about": about, **study.to_dict()}
    files["bias json"].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return files
