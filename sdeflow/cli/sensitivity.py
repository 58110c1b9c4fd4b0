"""`sdeflow sensitivity`: how much a model's answer changes when what it is given is perturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.models import find_measured, measured_options
from sdeflow.cli.options import common, emit, output_options, progress_bar, write_config
from sdeflow.files import moved, together

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["command"]


@click.command("sensitivity")
@measured_options()
@click.option(
    "--perturb",
    multiple=True,
    type=click.Choice(["x", "condition", "features"]),
    help="What to perturb; may be given several times. [default: x, and what else the model has]",
)
@click.option(
    "--t",
    "times",
    multiple=True,
    type=float,
    default=(0.002, 0.01, 0.03, 0.1, 0.3, 0.9),
    help="Time at which to perturb; may be given several times. [default: 0.002, 0.01, 0.03, 0.1, "
    "0.3 and 0.9]",
)
@click.option(
    "--scale",
    "scales",
    multiple=True,
    type=float,
    default=(0.01, 0.1),
    help="Size of the perturbation, relative to what is perturbed (the condition: to the range it "
    "covers); may be given several times. [default: 0.01 and 0.1]",
)
@click.option(
    "--measure",
    "wanted",
    type=click.Choice(["noise", "data", "score", "velocity"]),
    default="noise",
    help="Prediction to compare. [default: noise]",
)
@click.option(
    "--features",
    metavar="MODULE",
    help="Module of the network whose output is perturbed, by its name in named_modules(). "
    "[default: embedding]",
)
@click.option(
    "--samples/--no-samples",
    default=True,
    help="Integrate the flow from each time, too, and compare its ends. [default: yes]",
)
@click.option("--steps", type=int, default=20, help="DDIM steps of each flow. [default: 20]")
@click.option("--t-min", type=float, default=1e-3, help="Where flows end. [default: 0.001]")
@click.option("--count", type=int, default=64, help="Samples at each time. [default: 64]")
@click.option(
    "--batch-size", type=int, default=256, help="Samples measured at once. [default: 256]"
)
@click.option("--seed", type=int, default=0, help="Seed of the samples. [default: 0]")
@output_options("a new directory RUN/sensitivity, or sensitivity/NAME", figures="figure")
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
    """Perturb what RUN (default: the latest run) is given, and see how its answer changes.

    Writes sensitivity.png, sensitivity.csv, sensitivity.json and config.yaml.

    Example: `sdeflow sensitivity --perturb x --t 0.01 --scale 0.1`.
    """
    found = find_measured(ctx, "sensitivity", run, oracle, model, values)
    from sdeflow.denoiser import Denoiser
    from sdeflow.instruments.sensitivity import sensitivity_study
    from sdeflow.instruments.sensitivity_report import write_sensitivity
    from sdeflow.report import new_directory
    from sdeflow.shared_time import Told

    perturb = values["perturb"]
    if not perturb:
        named = isinstance(found.model, Denoiser) and hasattr(found.model.network, "embedding")
        told = isinstance(found.model, (Denoiser, Told))
        perturb = ("x", *(["condition"] if told else []), *(["features"] if named else []))
    names = ("scales", "wanted", "features", "samples", "steps", "t_min")
    sampling = ("count", "batch_size", "seed")
    with progress_bar("perturbing") as progress:
        study = sensitivity_study(
            found.model,
            found.x_0,
            values["times"],
            perturb=perturb,
            label=found.label,
            progress=progress,
            **{name: values[name] for name in (*names, *sampling)},
        )
    out = values.pop("out") or new_directory(found.place)
    edges = tuple(found.model.breaks)
    with together(out) as place:
        made = write_sensitivity(study, place, found.about, edges, values["svg"])
        write_config(place / "config.yaml", {**found.source, **values})
    files = moved(made, place, out)
    result = {
        "model": found.about,
        "out": out,
        "rows": study.rows,
        "settings": study.settings,
        "files": files,
    }
    emit(result, as_json, _table(study.rows))
    for name, path in files.items():
        click.echo(f"{name:8} {path}", err=as_json)


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    caption = "mean over samples of the relative change, by the time of the perturbation"
    table = Table(box=box.SIMPLE_HEAD, caption=caption)
    for name in ("perturbed", "answer"):
        table.add_column(name)
    table.add_column("scale", justify="right")
    times = dict.fromkeys(row["t"] for row in rows)
    for t in times:
        table.add_column(f"t = {t:g}", justify="right")
    means = {(r["perturbed"], r["answer"], r["scale"], r["t"]): r["mean"] for r in rows}
    for perturbed, answer, scale in dict.fromkeys(key[:3] for key in means):
        numbers = [f"{means[perturbed, answer, scale, t]:.3g}" for t in times]
        table.add_row(perturbed, answer, f"{scale:g}", *numbers)
    return table
