"""`sdeflow lipschitz`: how steep a model is in time, where its singularity is, and in x."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.models import Measured, find_measured, measured_options
from sdeflow.cli.options import common, emit, output_options, progress_bar, write_config
from sdeflow.files import check_place, moved, together

if TYPE_CHECKING:
    from rich.table import Table

    from sdeflow.instruments.lipschitz import LipschitzStudy

__all__ = ["command"]

FITTED = (1e-8, 1e-5)  # times between which the exponent is fitted


@click.command("lipschitz")
@measured_options(several=True)
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
@output_options(
    "a new directory RUN/lipschitz, or lipschitz/NAME; of several runs, lipschitz/NAMES"
)
@common
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: tuple[str, ...],
    oracle: str | None,
    model: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure how steep RUN (default: the latest run) is in time, as its noise goes to zero.

    Writes lipschitz.png, lipschitz.csv, lipschitz.json, jumps.csv where the condition jumps, and
    config.yaml. Of several runs, writes these for each into a directory of its name, and
    comparison.png, .csv and .json. For an oracle, also fits the power of t with which
    E||d noise/dt|| grows between 1e-8 and 1e-5.

    Examples: `sdeflow lipschitz --oracle mixture --schedule trig`; `sdeflow lipschitz runs/one
    runs/other`.
    """
    found = [
        find_measured(ctx, "lipschitz", name, oracle, model, values) for name in run or (None,)
    ]
    from sdeflow.instruments.lipschitz_comparison import write_comparison
    from sdeflow.instruments.power_law import Exponent
    from sdeflow.report import new_directory

    names = [one.place.parent.name for one in found]
    if len(set(names)) < len(names):
        raise click.UsageError(f"RUN {' '.join(run)}: give runs of different names")
    several = len(found) > 1
    out = values.pop("out") or new_directory(
        Path("lipschitz", "-and-".join(names)) if several else found[0].place
    )
    for name in names if several else ():
        check_place(out / name)
    source = {"run": list(run)} if run else found[0].source
    config = {**source, **values}
    results, studies = [], {}
    for name, one in zip(names, found, strict=True):
        place = out / name if several else out
        result, studies[name] = _measure(one, place, values, None if several else config)
        results.append(result)
    if several:
        about = "; ".join(one.about for one in found)
        with together(out) as place:
            made = write_comparison(studies, place, about, values["svg"])
            write_config(place / "config.yaml", config)
        files = moved(made, place, out)
        rows = [{"model": n, **row} for n, study in studies.items() for row in study.summary()]
        emit({"out": out, "models": results, "files": files}, as_json, _table(rows))
    else:
        files = results[0]["files"]
        emit(results[0], as_json, _table(results[0]["summary"]))
        if results[0]["exponent"]:
            fit = Exponent(**results[0]["exponent"])
            click.echo(
                f"exponent      {fit.value:.4f} +- {fit.error:.1g}: power of t with which "
                f"E||d noise/dt|| grows, from {fit.low:g} to {fit.high:g}",
                err=as_json,
            )
    for name, path in files.items():
        click.echo(f"{name:13} {path}", err=as_json)


def _measure(
    found: Measured, out: Path, values: dict[str, Any], config: dict[str, Any] | None
) -> tuple[dict[str, Any], LipschitzStudy]:
    """Measure one model and write what was found; the result as printed, and the study."""
    from sdeflow.instruments.lipschitz import lipschitz_study, singular_exponent, time_grid
    from sdeflow.instruments.lipschitz_report import write_lipschitz

    t_min = found.t_min if values["t_min"] is None else values["t_min"]
    t_max = values["t_max"]
    if t_max is None:
        t_max = 1.0 if found.model.sde.has_signal_at(1.0) else 0.999
    sampling = {name: values[name] for name in ("count", "batch_size", "seed")}
    with progress_bar(f"measuring {found.about.partition(',')[0]}") as progress:
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
    with together(out) as place:
        made = write_lipschitz(study, place, found.about, exponent, values["svg"])
        if config is not None:
            write_config(place / "config.yaml", config)
    result = {
        "model": found.about,
        "out": out,
        "exponent": None if exponent is None else asdict(exponent),
        "summary": study.summary(),
        "curve": study.curve,
        "jumps": study.jumps,
        "settings": study.settings,
        "files": moved(made, place, out),
    }
    return result, study


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="norms averaged over samples; mean, median and maximum over times, pairs that "
        "straddle a jump left out",
    )
    several = any("model" in row for row in rows)
    for name in (*(["model"] if several else []), "prediction", "quantity"):
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
        model = [row["model"]] if several else []
        table.add_row(*model, row["prediction"], name, *numbers, str(row["jumps"]), largest)
    return table
