"""`sdeflow train`: the options of `TrainConfig`, one flag per field."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from sdeflow.cli.options import common, emit, note, train_options
from sdeflow.config import TrainConfig, load_config
from sdeflow.memory import permanent

LONGEST = 120  # letters of a value in a dry run's summary


def _as_before(ctx: click.Context, values: dict[str, Any]) -> dict[str, Any]:
    """With `--resume RUN`, the run's own settings wherever the command line says nothing."""
    place = Path(values["resume"])
    if len(place.parts) == 1 and not place.is_dir():  # a name under --out
        place = Path(values["out"]) / place
    saved = place / "config.yaml"
    if values["resume"] in ("never", "auto") or not saved.is_file():
        return values
    before = load_config(saved).to_dict()
    silent = click.core.ParameterSource.DEFAULT
    keep = [
        n for n in before if ctx.get_parameter_source(n) is not silent or n in ("resume", "out")
    ]
    return {**before, **{name: values[name] for name in keep}}


def _unpenalised(ctx: click.Context, values: dict[str, Any]) -> dict[str, Any]:
    """A penalty that is switched off here takes along the threshold that was saved with it."""
    given = click.core.ParameterSource.COMMANDLINE
    off = ctx.get_parameter_source("lipschitz_weight") is given and not values["lipschitz_weight"]
    if off and ctx.get_parameter_source("lipschitz_below") is not given:
        return {**values, "lipschitz_below": None}
    return values


@click.command("train")
@train_options()
@click.option("--dry-run", is_flag=True, help="Check everything, print the settings, and stop.")
@common
@click.pass_context
def command(ctx: click.Context, /, dry_run: bool, as_json: bool, **values: Any) -> None:
    """Train a model; all about the run goes into one directory under --out.

    Examples: `sdeflow train --sde vp --etsdm`; `sdeflow train --data fashion-mnist --steps 2000`.
    """
    config = TrainConfig.from_dict(_unpenalised(ctx, _as_before(ctx, values)))
    if dry_run:
        from sdeflow.training import plan

        summary = plan(config, note).summary()
        emit(summary, as_json, _table(summary))
        return

    with permanent():
        from sdeflow.report import write_run_figures
        from sdeflow.run import run_info
        from sdeflow.training import train

    run = train(config, say=note, progress=False if as_json else None)
    if os.environ.get("RANK", "0") != "0":  # the first of a launcher's processes alone writes
        return
    figures = write_run_figures(run.path)
    info = run_info(run.path)
    result = {
        "run": run.path,
        "step": run.step,
        "loss": run.last_loss,
        "heldout": info.heldout,
        "seconds": info.record.get("seconds"),
        "figures": figures,
        "config": run.config.to_dict(),
    }
    losses = f"loss {_number(run.last_loss)}, held out {_number(info.heldout)}"
    lines = [
        f"run       {run.path}  ({run.step} steps, {losses})",
        *(f"figure    {path}" for path in figures),
        f"sample    sdeflow sample {run.path}",
    ]
    emit(result, as_json, "\n".join(lines))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(summary: dict[str, Any]) -> str:
    """A dry run's summary as lines of `name  value`."""
    values = {**summary, **summary["config"]}
    del values["config"]
    width = max(map(len, values))
    return "\n".join(f"{name:{width}}  {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    """A value in a line; of a long one the two ends."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 20]} … {text[-15:]}"
