"""`sdeflow budget`: what solver, cut at t_min and model add to the error of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.models import Measured, find_measured, measured_options
from sdeflow.cli.options import (
    batch_option,
    common,
    emit,
    output_options,
    progress_bar,
    write_config,
)
from sdeflow.files import moved, together

if TYPE_CHECKING:
    from rich.table import Table

    from sdeflow.denoiser import Predictor

__all__ = ["command"]


@click.command("budget")
@measured_options()
@click.option(
    "--against",
    metavar="SPEC",
    help="The exact model of the data that RUN was trained on, such as mixture for --data "
    "mixture. [default: none; for an oracle with --etsdm, the same without]",
)
@click.option(
    "--solver", default="dopri5", metavar="NAME", help="As in `sample`. [default: dopri5]"
)
@click.option("--steps", type=int, help="As in `sample`. [unit: steps; default: by tolerances]")
@click.option("--rtol", type=float, help="As in `sample`. [default: the solver's own]")
@click.option(
    "--atol",
    type=float,
    help="As in `sample`. [unit: that of the data; default: the solver's own]",
)
@click.option(
    "--controller",
    default="pi",
    metavar="[i|pi|pid]",
    help="Control of the step size. [default: pi]",
)
@click.option("--chart", metavar="SCALE/CLOCK", help="As in `sample`. [default: the solver's own]")
@click.option("--grid", metavar="SPEC", help="As in `sample`. [default: the solver's own]")
@click.option(
    "--breaks/--no-breaks",
    default=None,
    help="As in `sample`. [default: yes, unless steps are fixed]",
)
@click.option("--t-min", type=float, default=1e-3, help="Time at which to stop. [default: 0.001]")
@click.option("--t-max", type=float, help="Time at which to start. [default: as in `sample`]")
@click.option(
    "--final",
    default="none",
    type=click.Choice(["none", "denoise"]),
    help="At the end: none; denoise, give E[x_0 | x] instead of x. [default: none]",
)
@click.option("--label", type=int, help="Class to sample. [default: any]")
@click.option("--guidance", type=float, default=1.0, help="As in `sample`. [default: 1]")
@click.option(
    "--bins", type=int, default=8, help="Intervals of t, about equal in log-SNR. [default: 8]"
)
@click.option(
    "--floor",
    type=float,
    help="Time that stands for 0. [default: the smallest training time; 1e-08 for an exact model]",
)
@click.option("--count", type=int, default=64, help="How many. [unit: samples; default: 64]")
@batch_option
@click.option("--seed", type=int, default=0, help="Seed of the starts. [default: 0]")
@click.option(
    "--reference-tolerance",
    type=float,
    help="Tolerance of the tight flows. [default: a thousandth of the sampler's, at most 1e-06]",
)
@output_options("a new directory RUN/budget, or budget/NAME", figures="figure")
@common
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: str | None,
    oracle: str | None,
    model: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Say how much of a sample's error comes from the solver, the cut at t_min and the model.

    Each per interval of t, for RUN (default: the latest run). Against an exact model all three are
    errors of samples and sum to the whole; without one, RUN or a module of --model is measured by
    its error on held-out data, in a unit of its own. Writes budget.png, budget.csv,
    predictions.csv, budget.json and config.yaml.

    Example: `sdeflow budget --oracle mixture --etsdm --solver ddim --steps 20`.
    """
    found = find_measured(ctx, "budget", run, oracle, model, values)
    exact = _exact(found, oracle, values["against"])
    from rich.console import Group

    from sdeflow.instruments.budget import FLOOR, error_budget
    from sdeflow.instruments.budget_report import write_budget
    from sdeflow.report import new_directory

    names = (
        "solver", "steps", "rtol", "atol", "controller", "chart", "grid", "breaks", "t_min",
        "t_max", "final", "label", "guidance", "bins", "count", "batch_size", "seed",
        "reference_tolerance",
    )  # fmt: skip
    floor = values["floor"]
    if floor is None:
        floor = FLOOR if found.exact or exact is not None else found.t_min
    with progress_bar("measuring") as progress:
        budget = error_budget(
            found.model,
            found.shape,
            exact=exact,
            floor=floor,
            progress=progress,
            **{name: values[name] for name in names},
        )
    predictions = budget.predictions
    if not predictions and not found.exact:
        predictions = _heldout(found, values)
    out = values.pop("out") or new_directory(found.place)
    with together(out) as place:
        made = write_budget(budget, place, found.about, predictions, values["svg"])
        write_config(place / "config.yaml", {**found.source, **values})
    files = moved(made, place, out)
    result = {
        "model": found.about,
        "out": out,
        **budget.to_dict(),
        "predictions": predictions,
        "files": files,
    }
    tables = [_table(budget.causes, budget.parts)]
    if predictions:
        tables.append(_predictions(predictions))
    emit(result, as_json, Group(*tables))
    none, denoise = (row["rms"] for row in budget.endings)
    click.echo(f"cut           {none:.3g} as it is, {denoise:.3g} if denoised", err=as_json)
    for name, path in files.items():
        click.echo(f"{name:13} {path}", err=as_json)


def _exact(found: Measured, oracle: str | None, against: str | None) -> Predictor | None:
    """The exact model to compare with."""
    from sdeflow.oracle import make_oracle

    if oracle is None:
        return None if against is None else make_oracle(against, found.model.sde)
    if against is not None:
        raise click.UsageError("--against belongs to RUN and --model: an oracle is exact")
    return make_oracle(oracle, found.model.sde) if found.model.breaks else None


def _heldout(found: Measured, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Errors on held-out and training data of a run, or of a module with --data."""
    from sdeflow.config import TrainConfig
    from sdeflow.data import load_data
    from sdeflow.denoiser import Denoiser
    from sdeflow.instruments.noise_error import heldout_errors
    from sdeflow.run import load_run

    model: Any = found.model
    if "run" in found.source:
        config = load_run(found.source["run"]).config
    elif isinstance(model, Denoiser):
        named = {name: values[name] for name in ("data", "data_dir", "image_size")}
        t_max = 1.0 if model.sde.has_signal_at(1.0) else 0.999
        config = TrainConfig(**named, t_min=found.t_min, t_max=t_max)
    else:  # a predictor of one's own has no network to ask
        return []
    return heldout_errors(
        model,
        load_data(config.data, config.data_dir, config.image_size),
        t_min=config.t_min,
        t_max=1.0 if config.t_max is None else config.t_max,
        labels=config.class_condition,
        batch_size=values["batch_size"] or 128,
    )


def _table(causes: list[dict[str, Any]], parts: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="root mean square per number of a sample, in units of x; shares: of the cause "
        "(intervals), of the total (whole)",
        caption_justify="left",
    )
    table.add_column("cause")
    for name in ("from t", "to t", "error", "share"):
        table.add_column(name, justify="right")
    for cause in causes:
        for row in [*(p for p in parts if p["cause"] == cause["cause"]), cause]:
            ends = [f"{row[name]:.3g}" if name in row else "" for name in ("t_high", "t_low")]
            share = "-" if row["share"] is None else f"{100 * row['share']:.1f} %"
            name = "" if "t_low" in row else row["cause"]
            table.add_row(name, *ends, f"{row['rms']:.3g} +- {row['error']:.1g}", share)
    return table


def _predictions(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    kinds = {
        "rms": "error", "size": "size", "heldout": "held out", "train": "train",
        "linear": "affine",
    }  # fmt: skip
    squares = "heldout" in rows[0]
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"noise prediction, {'mean' if squares else 'root mean'} square per number, in "
        "units of the noise; affine: the best affine prediction on held-out data",
        caption_justify="left",
    )
    names = [name for name in kinds if name in rows[0]]
    for name in ("from t", "to t", *(kinds[name] for name in names)):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = ["-" if row[name] is None else f"{row[name]:.4g}" for name in names]
        table.add_row(f"{row['t_high']:.3g}", f"{row['t_low']:.3g}", *numbers)
    return table
