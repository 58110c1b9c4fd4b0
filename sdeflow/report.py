"""What is written about a run for people to look at: figures, each with its numbers as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import TrainConfig

__all__ = ["describe", "write_run_figures"]


def describe(config: TrainConfig) -> str:
    """The settings of a run that matter most, in a line: data, process, condition, prediction."""
    process = config.sde
    if config.sde in ("vp", "subvp"):
        process += f" {config.schedule}"
    if config.smooth_start is not None:
        process += f" with smooth start {config.smooth_start:g}"
    told = f"condition {config.condition}"
    if config.etsdm:
        told += (
            f" shared in {config.etsdm_intervals} intervals (E-TSDM, edges {config.etsdm_edges})"
        )
    return f"{config.data}, {process}, {told}, predicts {config.predict}"


def write_run_figures(run: str | Path, svg: bool = False) -> list[Path]:
    """Draw a run's losses, from its record: over the steps, and held out per interval of time.

    Args:
        run: the run directory.
        svg: whether to write SVG files beside the PNG ones.

    Returns:
        The PNG files written, under ``RUN/figures``; none while there is nothing to draw.
    """
    from . import plots
    from .config import load_config
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
    return written
