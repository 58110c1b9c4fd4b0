"""`sdeflow likelihood`: bits per dimension of data under a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.options import (
    batch_option,
    common,
    emit,
    note,
    output_options,
    plain,
    progress_bar,
    run_argument,
    write_config,
)

if TYPE_CHECKING:
    from torch import Tensor

    from sdeflow.run import Run

__all__ = ["command"]

EXACT = 16  # dimensions up to which an exact divergence costs little
PROBES = 2000  # samples that show the data's levels


@click.command("likelihood")
@run_argument
@click.option(
    "--data",
    default="heldout",
    metavar="heldout|train|DATA",
    help="Which samples: heldout or train of the run's own data, or all of another data set, "
    "named as in `train`. [default: heldout]",
)
@click.option(
    "--count", type=int, default=64, help="How many, from the first. [unit: samples; default: 64]"
)
@click.option(
    "--divergence",
    type=click.Choice(["exact", "hutchinson"]),
    help="exact: as many derivatives as dimensions; hutchinson: random signs. [default: exact up "
    "to 16 dimensions]",
)
@click.option(
    "--draws",
    type=int,
    default=2,
    help="Random signs of hutchinson; two or more show its error. [default: 2]",
)
@click.option(
    "--chart",
    metavar="SCALE/CLOCK",
    help="Coordinates to integrate in, as in `sample`. [default: the solver's own]",
)
@click.option(
    "--solver",
    default="dopri5",
    metavar="NAME",
    help="An adaptive Runge-Kutta method. [default: dopri5]",
)
@click.option(
    "--rtol",
    type=float,
    default=1e-5,
    help="Relative tolerance of a step, for x and for nats per dimension. [default: 1e-05]",
)
@click.option(
    "--atol", type=float, default=1e-5, help="Absolute tolerance, likewise. [default: 1e-05]"
)
@click.option(
    "--controller",
    default="pi",
    metavar="[i|pi|pid]",
    help="Control of the step size. [default: pi]",
)
@click.option(
    "--t-min",
    type=float,
    default=1e-5,
    help="Time that the data are taken to be at. [unit: time, in (0, t_max); default: 1e-05]",
)
@click.option(
    "--t-max", type=float, help="Time of the prior. [unit: time; default: as in `sample`]"
)
@click.option(
    "--breaks/--no-breaks",
    default=None,
    help="Tell the solver where the condition jumps (E-TSDM). [default: yes]",
)
@click.option(
    "--labels/--no-labels",
    default=False,
    help="Give the model each sample's class, for log p(x | class). [default: no]",
)
@batch_option
@click.option("--seed", type=int, default=0, help="Seed of dequantisation and signs. [default: 0]")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps. [default: auto]")
@output_options("a new directory RUN/likelihood", figures=None)
@common
def command(run: str | None, as_json: bool, **values: Any) -> None:
    """Bits per dimension of data under RUN (default: the latest run), by the probability flow.

    Data with integer levels are dequantised uniformly; others are measured in nats per dimension.
    Also the part of the prior, and how well encoding and decoding give the data back. Writes
    likelihood.csv (each sample), summary.json and config.yaml.

    Example: `sdeflow likelihood --count 128 --chart x/log-snr --draws 4`.
    """
    from sdeflow.files import together, write_text
    from sdeflow.instruments.likelihood import data_likelihood
    from sdeflow.plots import write_csv
    from sdeflow.report import describe, new_directory
    from sdeflow.run import latest_run, load_run
    from sdeflow.training.plan import device_of

    device = device_of(values["device"])
    loaded = load_run(run or latest_run(), warn=note)
    x, label, levels = _samples(loaded, values["data"], values["count"], values["labels"])
    divergence = values["divergence"]
    if divergence is None:
        divergence = "exact" if x[0].numel() <= EXACT else "hutchinson"
    names = (
        "draws", "chart", "solver", "rtol", "atol", "controller", "t_min", "t_max", "breaks",
        "batch_size", "seed",
    )  # fmt: skip
    with progress_bar("likelihood") as progress:
        found = data_likelihood(
            loaded.denoiser.to(device),
            x,
            levels,
            divergence=divergence,
            label=label,
            progress=progress,
            **{name: values[name] for name in names},
        )
    out = values.pop("out") or new_directory(loaded.path / "likelihood")
    about = f"{loaded.path.name}, {loaded.step} steps: {describe(loaded.config)}"
    result = {"run": loaded.path, "about": about, "data": values["data"], **found.summary()}
    with together(out) as place:
        write_csv(place / "likelihood.csv", found.columns())
        write_text(place / "summary.json", json.dumps(plain(result), indent=2) + "\n")
        write_config(place / "config.yaml", {"run": loaded.path, **values})
    files = {"samples": out / "likelihood.csv", "summary": out / "summary.json"}
    emit({**result, "out": out, "files": files}, as_json, _text(result))
    for kind, path in files.items():
        click.echo(f"{kind:9} {path}", err=as_json)
    if result["failed"]:
        raise FloatingPointError(
            f"{result['failed']} of {result['count']} samples failed; the others are in {out}"
        )


def _samples(
    run: Run, name: str, count: int, labels: bool
) -> tuple[Tensor, Tensor | None, int | None]:
    """The first samples of the data asked for, their classes if wanted, the data's levels."""
    import torch

    from sdeflow.data import load_data
    from sdeflow.likelihood import levels_of

    own = name in ("heldout", "train")
    source = run.config.data if own else name
    directory = run.config.data_dir if own else None
    data = load_data(source, directory, run.config.image_size)
    if data.data_shape != run.data_shape:
        raise ValueError(
            f"--data {name} has samples of shape {data.data_shape}, the run takes {run.data_shape}"
        )
    parts = {"heldout": (data.heldout,), "train": (data.train,)}
    classes = {"heldout": (data.heldout_labels,), "train": (data.train_labels,)}
    both = (data.heldout, data.train), (data.heldout_labels, data.train_labels)
    x = torch.cat(parts.get(name, both[0]))
    if not 1 <= count <= len(x):
        raise ValueError(f"--count is {count}: {name} has {len(x)} samples, ask for 1 to as many")
    label = None
    if labels:
        known = [part for part in classes.get(name, both[1]) if part is not None]
        if not known:
            raise ValueError(f"--labels: {source} has no labels; leave it out")
        label = torch.cat(known)[:count]
    levels = levels_of(torch.cat([x[:count], data.train[:PROBES]])) if data.is_image else None
    return x[:count], label, levels


def _text(result: dict[str, Any]) -> str:
    """The result in a few lines."""

    def show(name: str) -> str:
        return "-" if result[name] is None else f"{result[name]:.4g}"

    unit, levels = result["unit"], result["levels"]
    kind = f"{levels} levels, dequantised" if levels else "no integer levels"
    error = f"; of that from the divergence {show('divergence_error')}"
    lines = [
        f"{show('mean')} +- {show('standard_error')} {unit} ({result['count']} samples of "
        f"{result['data']}, {kind})",
        f"standard error over samples{error if result['divergence'] == 'hutchinson' else ''}",
        f"prior {show('prior')} {unit}, offset {show('offset')} {unit}",
        f"encoded and decoded again: root mean square error {show('reconstruction')}",
        f"{result['divergence']} divergence, {result['solver']} in {result['chart']}, t "
        f"{result['t_min']:g} to {result['t_max']:g}: {result['evaluations']:.1f} evaluations "
        "per sample",
    ]
    return "\n".join(lines)
