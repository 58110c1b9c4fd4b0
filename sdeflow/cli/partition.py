"""`sdeflow partition`: sub-intervals of shared time for `sdeflow train --etsdm-edges`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.models import PROCESS, find_measured, measured_options, only_with
from sdeflow.cli.options import common, emit, output_options, progress_bar, write_config
from sdeflow.files import moved, together

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["command"]

SHARING = ("shared", *(name for name in PROCESS if name.startswith("etsdm")))


@click.command("partition")
@measured_options()
@click.option(
    "--intervals", type=int, default=5, help="How many sub-intervals to propose. [default: 5]"
)
@click.option(
    "--threshold",
    metavar="TIME|auto",
    help="Time below which the condition is to be shared; auto: where the jumps are as large as "
    "the model's own change in a --step beyond it. [default: as in `train`]",
)
@click.option(
    "--minimise",
    type=click.Choice(["jump", "bound"]),
    default="jump",
    help="What to make smallest: jump, the largest departure inside an interval of the model told "
    "its left end, up to the jump at its end; bound, that of the bias. [default: jump]",
)
@click.option(
    "--step",
    type=float,
    default=1e-3,
    help="Step of the model's own for --threshold auto. [unit: time; default: 0.001]",
)
@click.option(
    "--first-edge",
    type=float,
    help="First of the edges equal in log-SNR, to compare with. [default: threshold / 100]",
)
@click.option(
    "--t-min",
    type=float,
    help="Where time begins. [default: that of the run's training, or 1e-05]",
)
@click.option(
    "--bias/--no-bias",
    default=False,
    help="For an oracle: measure what sharing time costs, too, by the ideal predictor and by the "
    "left end, beside the bound. [default: no]",
)
@click.option(
    "--bias-intervals",
    default="1,2,5,10",
    metavar="LIST",
    help="Numbers of intervals for --bias, besides --intervals. [default: 1,2,5,10]",
)
@click.option(
    "--bias-thresholds",
    metavar="LIST",
    help="Thresholds for --bias. [default: that of the proposal]",
)
@click.option("--count", type=int, default=256, help="Samples at each time. [default: 256]")
@click.option(
    "--batch-size", type=int, default=256, help="Samples measured at once. [default: 256]"
)
@click.option("--seed", type=int, default=0, help="Seed of the samples. [default: 0]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the edges. [default: edges.json in --out]",
)
@output_options("a new directory RUN/partition, or partition/NAME")
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
    """Propose where E-TSDM should share time, from a model RUN trained without it.

    Writes edges.json for `sdeflow train --etsdm --etsdm-edges`, partition.png, partition.csv and
    partition.json with the jumps of the proposal and of edges equal in time, sigma and log-SNR;
    with --bias also bias.png, bias.csv and bias.json.

    Example: `sdeflow partition --oracle mixture --intervals 5 --bias`.
    """
    only_with(ctx, SHARING, "does not belong here: sharing is what is proposed")
    found = find_measured(ctx, "partition", run, oracle, model, values)
    if values["bias"] and not found.exact:
        raise click.UsageError("--bias needs --oracle: only there is the prediction known")
    if not values["bias"]:
        only_with(ctx, ("bias_intervals", "bias_thresholds"), "belongs to --bias")
    threshold = _threshold(values["threshold"])
    numbers = sorted({*_numbers(values["bias_intervals"], "intervals"), values["intervals"]})
    from rich.console import Group

    from sdeflow.instruments.partition_report import write_bias, write_partition
    from sdeflow.instruments.partition_study import partition_study
    from sdeflow.report import new_directory

    sampling = {name: values[name] for name in ("count", "seed", "first_edge")}
    t_min = 1e-5 if found.exact else found.t_min
    sampling["t_min"] = t_min if values["t_min"] is None else values["t_min"]
    with progress_bar("measuring") as progress:
        study = partition_study(
            found.model,
            found.x_0,
            intervals=values["intervals"],
            threshold=threshold,
            minimise=values["minimise"],
            step=values["step"],
            label=found.label,
            batch_size=values["batch_size"],
            progress=progress,
            **sampling,
        )
    bias = None
    if values["bias"]:
        from sdeflow.instruments.shared_bias import bias_study

        model_of: Any = found.model  # an oracle: checked above
        with progress_bar("measuring biases") as progress:
            bias = bias_study(
                model_of,
                intervals=[int(n) for n in numbers],
                thresholds=_numbers(values["bias_thresholds"], "thresholds")
                or [study.settings["threshold"]],
                progress=progress,
                **sampling,
            )
    out = values.pop("out") or new_directory(found.place)
    with together(out) as place:
        made = write_partition(study, place, found.about, values["output"], values["svg"])
        if bias is not None:
            made |= write_bias(bias, place, found.about, values["intervals"], values["svg"])
        write_config(place / "config.yaml", {**found.source, **values})
    files = moved(made, place, out)
    result = {"model": found.about, "out": out, **study.to_dict(), "files": files}
    if bias is not None:
        result["bias"] = bias.rows
    text = [_table(study.spacings), *([] if bias is None else [_bias_table(bias.rows)])]
    emit(result, as_json, Group(*text))
    for name, path in files.items():
        click.echo(f"{name:13} {path}", err=as_json)
    click.echo(f"train         sdeflow train --etsdm --etsdm-edges {files['edges']}", err=as_json)


def _threshold(text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--threshold is {text!r}: give a time such as 0.1, or auto") from None


def _numbers(text: str | None, name: str) -> list[float]:
    """Positive numbers, separated by commas."""
    try:
        numbers = [float(part) for part in str(text).split(",")] if text else []
    except ValueError:
        numbers = [0.0]
    if any(n <= 0 or (name == "intervals" and n != int(n)) for n in numbers):
        example = "1,2,5" if name == "intervals" else "0.1,0.01"
        raise ValueError(f"--bias-{name} is {text!r}: give numbers such as {example}")
    return numbers


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="largest: departure of the model told the left end from itself inside an "
        "interval, at its end the jump; gain: that of equal steps in time, divided by it",
        caption_justify="left",
    )
    table.add_column("spacing")
    for name in ("largest", "at t", "largest jump", "gain", "Delta t", "Delta sigma", "bound"):
        table.add_column(name, justify="right")
    table.add_column("edges")
    for row in rows:
        names = ("at", "largest_jump", "gain", "delta_t", "delta_sigma", "bound")
        numbers = ["-" if row[name] is None else f"{row[name]:.4g}" for name in names]
        edges = " ".join(f"{edge:.4g}" for edge in row["edges"])
        largest = f"{row['largest']:.4g} +- {row['error']:.1g}"
        table.add_row(row["spacing"], largest, *numbers, edges)
    return table


def _bias_table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        caption="bias in L2(p_t): the largest over t, and the root mean square below the "
        "threshold, both in units of the noise; size: that of the prediction itself",
        caption_justify="left",
    )
    for name in ("threshold", "intervals", "spacing", "predictor"):
        table.add_column(name)
    for name in ("largest", "at t", "mean", "size", "largest jump", "bound"):
        table.add_column(name, justify="right")
    for row in rows:
        names = ("at", "mean", "size", "largest_jump", "bound")
        largest = f"{row['largest']:.4g} +- {row['error']:.1g}"
        head = (f"{row['threshold']:.4g}", str(row["intervals"]))
        numbers = [f"{row[name]:.4g}" for name in names]
        table.add_row(*head, row["spacing"], row["predictor"], largest, *numbers)
    return table
