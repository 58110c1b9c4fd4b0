"""What is written about a run for people to look at: figures, each with its numbers as CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import TrainConfig, load_config, shape_name

if TYPE_CHECKING:
    from .instruments.step_causes import CauseStudy
    from .instruments.step_sizes import StepStudy
    from .samples import Samples

__all__ = [
    "describe",
    "describe_process",
    "new_directory",
    "write_run_figures",
    "write_samples",
    "write_step_study",
]

TILES = 100  # samples in a picture, at most
POINTS = 5000
STEPPED = 1000  # samples whose steps are drawn, at most


def describe_process(config: TrainConfig) -> str:
    """The forward process in a few words."""
    process = config.sde
    if config.sde in ("vp", "subvp"):
        process += f" {config.schedule}"
    if config.smooth_start is not None:
        process += f" with smooth start {config.smooth_start:g}"
    if config.sigma_floor is not None:
        process += f" with sigma at least {config.sigma_floor:g}"
    return process


def describe(config: TrainConfig) -> str:
    """The settings of a run that matter most, in a line: data, process, condition, prediction."""
    told = f"condition {config.condition}"
    if config.smooth_shape != "hyperbola":
        told += f" ({shape_name(config)})"
    edges = config.etsdm_edges
    intervals = edges.count(",") + 1 if edges.startswith("[") else config.etsdm_intervals
    if config.etsdm:
        told += f" shared in {intervals} intervals (E-TSDM, edges {edges})"
    if config.super_resolution:
        told += f", image x{config.super_resolution} smaller"
    if config.shared_noise:
        told += f", noise shared in {intervals} levels (edges {edges})"
    return f"{config.data}, {describe_process(config)}, {told}, predicts {config.predict}"


def write_run_figures(run: str | Path, svg: bool = False) -> list[Path]:
    """Draw a run from its record: losses over the steps and per interval of time, diagnostics.

    Args:
        run: the run directory.
        svg: whether to write SVG files beside the PNG ones.

    Returns:
        The PNG files written, under ``RUN/figures``; none while there is nothing to draw.
    """
    from . import plots
    from .training.journal import read_metrics

    run = Path(run)
    lines = read_metrics(run / "metrics.jsonl")
    train = [line for line in lines if line.get("loss") is not None]
    heldout = [line for line in lines if line.get("heldout") is not None]
    caption = f"{run.name}: {describe(load_config(run / 'config.yaml'))}"
    written = []
    if train:
        path = run / "figures" / "loss.png"
        figure = plots.loss_curves(
            [line["step"] for line in train],
            [line["loss"] for line in train],
            [line["step"] for line in heldout],
            [line["heldout"] for line in heldout],
            caption,
        )
        written.append(plots.save(figure, path, svg))
        names = ("step", "loss", "lr", "grad_norm", "steps_per_second")
        plots.write_csv(path, {name: [line[name] for line in train] for name in names})
    if heldout:
        path = run / "figures" / "heldout.png"
        first, last = heldout[0], heldout[-1]
        bins = {f"step {line['step']}": line["heldout_bins"] for line in (first, last)}
        figure = plots.binned_loss(last["bin_edges"], bins, caption)
        written.append(plots.save(figure, path, svg))
        edges = last["bin_edges"]
        columns = {f"step_{line['step']}": line["heldout_bins"] for line in heldout}
        plots.write_csv(path, {"t_low": edges[:-1], "t_high": edges[1:], **columns})
    diagnosed = [line for line in lines if "grad_noise_bins" in line]
    if diagnosed:
        written.append(_write_diagnostics(diagnosed, run, caption, svg))
    return written


def _write_diagnostics(lines: list[dict[str, Any]], run: Path, caption: str, svg: bool) -> Path:
    """Steepness and gradients over the steps of a run, from its lines of diagnostics."""
    from . import plots
    from .instruments.lipschitz import JUMP_STEP

    last, path = lines[-1], run / "figures" / "diagnostics.png"
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(last["bin_edges"])]

    def columns(key: str, names: list[str], scale: float = 1.0) -> dict[str, list[float]]:
        values = [[math.nan if v is None else v / scale for v in line[key]] for line in lines]
        return dict(zip(names, map(list, zip(*values, strict=True)), strict=True))

    step = [line["step"] for line in lines]
    k = columns("k", [f"K, t = {t:g}" for t in last["k_times"]])
    jumps = columns("jumps", [f"jump, t = {t:g}" for t in last["jump_times"]], JUMP_STEP)
    variance = columns("grad_norm_variance_bins", bins)
    caption += (
        ". K and jumps of the averaged weights, gradients of the weights being trained, both on "
        "held-out samples that stay the same."
    )
    figure = plots.training_diagnostics(step, k, jumps, variance, caption)
    table: dict[str, list[float]] = {"step": step, **k, **jumps}
    for key in ("grad_norm", "grad_norm_variance", "grad_noise"):
        table |= columns(f"{key}_bins", [f"{key}, t {name}" for name in bins])
    plots.write_csv(path, table)
    return plots.save(figure, path, svg)


def new_directory(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, … that does not exist; nothing is made."""
    names = (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in count(1))
    return next(name for name in names if not name.exists())


def write_samples(
    samples: Samples,
    directory: str | Path,
    about: str = "",
    edges: Sequence[float] = (),
    svg: bool = False,
) -> dict[str, Path]:
    """Write samples with their picture, the log of their steps and its figure, and the costs.

    * samples.npz: `x`, the samples that succeeded; `index`, their numbers in the batch; `status`
      (`solvers.Status`) and `t`, the time reached, of all;
    * grid.png: up to 100 images, or 5,000 points;
    * steps.csv: every attempt of every sample; steps.png: the step sizes of the first 1,000;
    * summary.json: settings, evaluations, calls, accepted, rejected, statuses, seconds.

    Args:
        samples: what `sdeflow.sampling.sample` gave.
        directory: where; made if need be.
        about: what the samples are of, for the captions.
        edges: times at which the condition jumps, to be marked.
        svg: whether to write the step-size figure as SVG, too.

    Returns:
        Name to path of what was written; no "grid" where no sample succeeded.
    """
    import numpy as np
    import torch

    from . import plots
    from .instruments.step_sizes import step_panels

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    kept = samples.x if samples.ok.all() else samples.x[torch.from_numpy(samples.ok)]
    x = kept.detach().cpu().numpy()
    files = {"samples": directory / "samples.npz"}
    index = np.flatnonzero(samples.ok)
    np.savez_compressed(files["samples"], x=x, index=index, status=samples.status, t=samples.t)
    costs = samples.summary()
    caption = f"{about}. {samples.caption()}, seed {costs['seed']}."
    if len(x):
        shown = x[: TILES if x.ndim == 4 else POINTS]
        picture = plots.sample_grid(
            shown if x.ndim == 4 else shown.reshape(len(shown), -1), caption=caption
        )
        files["grid"] = plots.save(picture, directory / "grid.png")
    files["log"] = directory / "steps.csv"
    samples.log.save_csv(files["log"])
    mean = costs["evaluations"]["mean"]
    spent = (
        f" {len(samples.x)} samples, {mean:.1f} evaluations each on average, "
        f"{costs['accepted']} steps accepted, {costs['rejected']} rejected."
    )
    if len(samples.log):
        few = samples.log.of_first(STEPPED)
        if len(samples.x) > STEPPED:
            spent += f" Drawn: the first {STEPPED}."
        figure = plots.step_sizes(step_panels(replace(samples, log=few)), edges, caption + spent)
        files["steps"] = plots.save(figure, directory / "steps.png", svg)
    files["summary"] = directory / "summary.json"
    text = json.dumps({"about": about, **costs}, indent=2)
    files["summary"].write_text(text + "\n", encoding="utf-8")
    return files


def write_step_study(
    study: StepStudy,
    directory: str | Path,
    about: str = "",
    svg: bool = False,
    causes: CauseStudy | None = None,
    exact: str = "",
) -> dict[str, Path]:
    """Write a comparison of step sizes.

    * causes.png: the same settings on the model, the exact one and constant noise, with a table of
      costs, and that table as causes.csv; where `causes` is given;
    * steps.png: steps in time, a row of plots per setting; variable.png: steps in the variable
      that each solver ran in;
    * steps.csv: every attempt of every sample; table.csv and summary.json: cost and error.

    Args:
        study: what `sdeflow.instruments.step_sizes.step_study` gave.
        directory: where; made if need be.
        about: what the model is, for the captions.
        svg: whether to write the figures as SVG, too.
        causes: the same settings on other fields, or None.
        exact: what the exact model is, for the caption.

    Returns:
        Name to path of what was written.
    """
    from . import plots

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    reference = study.reference
    times = f"t {reference.settings['t_max']:g} to {reference.settings['t_min']:g}"
    caption = (
        f"{about}. {len(reference.x)} samples, {times}, seed {reference.settings['seed']}. Errors "
        f"are root mean squares against {reference.settings['solver']} at tolerance "
        f"{reference.settings['rtol']:g}."
    )
    files: dict[str, Path] = {}
    if causes is not None:
        files |= _write_causes(causes, directory, caption, svg, exact)
    for name, in_time in (("steps", True), ("variable", False)):
        figure = plots.step_sizes(study.panels(in_time), study.edges, caption)
        files[name] = plots.save(figure, directory / f"{name}.png", svg)
    files["log"] = plots.write_csv(directory / "steps.csv", study.attempts())
    rows = study.table()
    columns = {name: ["" if r[name] is None else r[name] for r in rows] for name in rows[0]}
    files["table"] = plots.write_csv(directory / "table.csv", columns)
    files["summary"] = directory / "summary.json"
    content = {"about": about, "reference": reference.summary(), "table": rows}
    if causes is not None:
        content |= {"exact": exact, "causes": causes.table()}
    files["summary"].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return files


def _write_causes(
    causes: CauseStudy, directory: Path, caption: str, svg: bool, exact: str
) -> dict[str, Path]:
    """The figure of the causes of small steps, and its table."""
    from . import plots
    from .instruments.step_sizes import step_panels

    rows, lines = [], []
    table = causes.table()
    entries = iter(table)
    for number, outcome in enumerate(causes.studies["model"].outcomes):
        row = outcome.row()
        how = f"tolerance {row['tolerance']:g}"
        if row["tolerance"] is None:
            how = f"{row['steps']} steps, {row['grid']} grid"
        told = ", told the jumps" if row["told_breaks"] else ""
        title = f"{row['solver']} in {row['chart']}, {how}{told}"
        panels = {
            name: step_panels(causes.studies[name].outcomes[number].samples)[-1]
            for name in causes.fields(number)
        }
        rows.append((title, panels))
        for name, found in zip(panels, entries, strict=False):
            least, most = found["evaluations_min"], found["evaluations_max"]
            cost = f"{found['evaluations_mean']:.1f} ({least} to {most})"
            share = found["rejected"] / max(1, found["accepted"] + found["rejected"])
            error = "-" if found["error"] is None else f"{found['error']:.1e}"
            rejected = f"{found['rejected']} ({share:.0%})"
            shown = title if name == "model" else ""
            lines.append([shown, name, cost, str(found["accepted"]), rejected, error])
    header = ["", "field", "evaluations a sample", "accepted", "rejected", "error"]
    if exact:
        caption += f" Exact: {exact}."
    caption += " Constant noise: the start's own at all x and t, the coefficients alone."
    edges = causes.studies["model"].edges
    figure = plots.step_causes(rows, edges, header, lines, caption)
    columns = {name: ["" if r[name] is None else r[name] for r in table] for name in table[0]}
    return {
        "causes": plots.save(figure, directory / "causes.png", svg),
        "costs": plots.write_csv(directory / "causes.csv", columns),
    }
