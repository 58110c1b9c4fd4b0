"""`sdeflow lipschitz`: how steep a model is in time, where its singularity is, and in x."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.models import PROCESS, exact_model, foreign_model, only_with, run_model
from sdeflow.cli.options import common, emit, progress_bar, train_options, write_config
from sdeflow.config import TrainConfig

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from sdeflow.denoiser import Predictor

__all__ = ["command"]

FOREIGN = ("condition", "smooth_scale", "predict", "data", "data_dir", "image_size")
FITTED = (1e-8, 1e-5)  # times between which the exponent is fitted


@dataclass(frozen=True)
class Measured:
    """A model to measure, with data to measure it on (an exact one draws its own)."""

    model: Predictor
    about: str
    source: dict[str, str]
    place: Path
    t_min: float
    x_0: Tensor | None = None
    label: Tensor | None = None
    exact: bool = False


@click.command("lipschitz")
@click.argument("run", required=False)
@click.option(
    "--oracle",
    metavar="SPEC",
    help="An exact model in place of RUN: gaussian, mixture, mixture:width=0.02, finite, classes. "
    "[default: none]",
)
@click.option(
    "--model",
    metavar="MODULE:FACTORY",
    help="In place of RUN, what a function of yours gives: a torch module F(x, c), read by --sde, "
    "--condition and --predict and measured on --data. [default: none]",
)
@click.option(
    "--shared",
    type=click.Choice(["ideal", "plug-in"]),
    default="ideal",
    help="What an oracle answers with --etsdm, as in `steps`. [default: ideal]",
)
@train_options((*PROCESS, *FOREIGN))
@click.option(
    "--measure",
    multiple=True,
    type=click.Choice(["noise", "data", "score", "velocity"]),
    default=("noise",),
    help="Prediction to measure; may be given several times. [default: noise]",
)
@click.option(
    "--step",
    "steps",
    multiple=True,
    type=float,
    default=(1e-3,),
    help="Difference t' - t of the finite quotient; may be given several times. [default: 0.001]",
)
@click.option(
    "--derivative/--no-derivative",
    default=True,
    help="Take the exact derivative, too. [default: yes]",
)
@click.option(
    "--in-x/--no-in-x",
    default=False,
    help="Measure the largest singular value of the derivative in x and the curvature of the "
    "flow, too; slow. [default: no]",
)
@click.option(
    "--t-min",
    type=float,
    help="First time. [default: that of the run's training, 1e-05; 1e-08 for an oracle]",
)
@click.option("--t-max", type=float, help="Last time. [default: 1; 0.999 where alpha(1) = 0]")
@click.option(
    "--points", type=int, default=41, help="How many times, in equal ratios. [default: 41]"
)
@click.option("--count", type=int, default=256, help="Samples at each time. [default: 256]")
@click.option(
    "--batch-size", type=int, default=256, help="Samples measured at once. [default: 256]"
)
@click.option("--seed", type=int, default=0, help="Seed of the samples. [default: 0]")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps. [default: auto]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write. [default: a new directory RUN/lipschitz, or lipschitz/NAME]",
)
@click.option("--svg", is_flag=True, help="Write the figures as SVG, too.")
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
    """Measure how steep RUN (default: the latest run) is in time, as its noise goes to zero.

    Writes lipschitz.png, lipschitz.csv, lipschitz.json, jumps.csv where the condition jumps, and
    config.yaml. For an oracle, also fits the power of t with which E||d noise/dt|| grows between
    1e-8 and 1e-5.

    Example: `sdeflow lipschitz --oracle mixture --schedule trig`.
    """
    given = [name for name in (run, oracle, model) if name is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)}: give one of RUN, --oracle and --model")
    found = _find(ctx, run, oracle, model, values)
    from sdeflow.instruments.lipschitz import lipschitz_study, singular_exponent, time_grid
    from sdeflow.instruments.lipschitz_report import write_lipschitz
    from sdeflow.report import new_directory

    t_min = found.t_min if values["t_min"] is None else values["t_min"]
    t_max = values["t_max"]
    if t_max is None:
        t_max = 1.0 if found.model.sde.has_signal_at(1.0) else 0.999
    sampling = {name: values[name] for name in ("count", "batch_size", "seed")}
    with progress_bar("measuring") as progress:
        study = lipschitz_study(
            found.model,
            found.x_0,
            time_grid(t_min, t_max, values["points"]),
            steps=values["steps"],
            measure=values["measure"],
            derivative=values["derivative"],
            in_x=values["in_x"],
            label=found.label,
            progress=progress,
            **sampling,
        )
    exponent = None
    # With shared time there is no growth to fit: the derivative is 0 down there.
    if found.exact and values["derivative"] and not found.model.breaks:
        exponent = singular_exponent(found.model, low=FITTED[0], high=FITTED[1], **sampling)
    out = values.pop("out") or new_directory(found.place)
    files = write_lipschitz(study, out, found.about, exponent, values["svg"])
    write_config(out / "config.yaml", {**found.source, **values})
    result = {
        "model": found.about,
        "out": out,
        "exponent": None if exponent is None else asdict(exponent),
        "summary": study.summary(),
        "curve": study.curve,
        "jumps": study.jumps,
        "settings": study.settings,
        "files": files,
    }
    emit(result, as_json, _table(study.summary()))
    if exponent is not None:
        click.echo(
            f"exponent      {exponent.value:.4f} +- {exponent.error:.1g}: power of t with which "
            f"E||d noise/dt|| grows, from {exponent.low:g} to {exponent.high:g}",
            err=as_json,
        )
    for name, path in files.items():
        click.echo(f"{name:13} {path}", err=as_json)


def _find(
    ctx: click.Context,
    run: str | None,
    oracle: str | None,
    model: str | None,
    values: dict[str, Any],
) -> Measured:
    """The model that was asked for."""
    from sdeflow.data import load_data
    from sdeflow.report import describe

    if oracle is not None:
        only_with(ctx, FOREIGN, "belongs to --model: an oracle brings its own")
        made, about = exact_model(oracle, values)
        place = Path("lipschitz", oracle.split(":")[0])
        return Measured(made, about, {"oracle": oracle}, place, FITTED[0], exact=True)
    if model is not None:
        only_with(ctx, ("shared",), "belongs to --oracle")
        config = TrainConfig.from_dict({name: values[name] for name in (*PROCESS, *FOREIGN)})
        made, about = foreign_model(model, config, values["device"])
        x_0 = load_data(config.data, config.data_dir, config.image_size).heldout
        _try(made, x_0, model)
        place = Path("lipschitz", model.replace(":", "."))
        return Measured(made, about, {"model": model}, place, 1e-5, x_0)
    only_with(ctx, FOREIGN, "belongs to --model: a run brings its own")
    loaded = run_model(ctx, run, values["device"])
    config = loaded.config
    data = load_data(config.data, config.data_dir, config.image_size)
    return Measured(
        loaded.denoiser,
        f"{loaded.path.name}, {loaded.step} steps: {describe(config)}",
        {"run": str(loaded.path)},
        loaded.path / "lipschitz",
        config.t_min,
        data.heldout,
        data.heldout_labels if config.class_condition else None,
    )


def _try(made: Predictor, x_0: Tensor, spec: str) -> None:
    """Ask a strange model once, so that one that does not fit its data is refused in a line."""
    import torch

    from sdeflow.instruments.derivative import state_of

    dtype, device = state_of(made)
    x = x_0[:2].to(device, dtype)
    shape = tuple(x.shape)
    try:
        with torch.no_grad():
            answer = made.noise(x, 0.5)
    except Exception as error:  # whatever a stranger's code raises is bad input to us
        raise ValueError(
            f"--model {spec}: fails on x of shape {shape} and c of shape (2,), "
            f"{type(error).__name__}: {error}"
        ) from error
    if tuple(answer.shape) != shape:
        raise ValueError(
            f"--model {spec}: answers shape {tuple(answer.shape)} to x of shape {shape}"
        )


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="norms averaged over samples; mean, median and maximum over times, pairs that "
        "straddle a jump left out",
    )
    for name in ("prediction", "quantity"):
        table.add_column(name)
    for name in ("mean", "median", "maximum", "at t", "jumps", "largest jump"):
        table.add_column(name, justify="right")
    for row in rows:
        step = row["step"]
        numbers = [
            "-" if row[name] is None else f"{row[name]:.4g}"
            for name in ("mean", "median", "maximum", "maximum_at")
        ]
        largest = "-" if row["largest_jump"] is None else f"{row['largest_jump']:.4g}"
        name = row["quantity"] if step is None else f"K(t, t + {step:g})"
        table.add_row(row["prediction"], name, *numbers, str(row["jumps"]), largest)
    return table
