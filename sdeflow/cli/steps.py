"""`sdeflow steps`: the step sizes, cost and error of several solvers and charts on one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.models import Measured, find_measured, measured_options
from sdeflow.cli.options import common, emit, output_options, progress_bar, write_config
from sdeflow.files import moved, together

if TYPE_CHECKING:
    from rich.table import Table

    from sdeflow.denoiser import Predictor
    from sdeflow.instruments.step_sizes import Setting

__all__ = ["command"]

OWN = "own"
EXACT_POINTS = 2000  # of the data, in the exact model of a network's: its cost grows with them


@click.command("steps")
@measured_options()
@click.option(
    "--solver",
    multiple=True,
    default=("dopri5",),
    metavar="NAME",
    help="A solver to run; may be given several times. [default: dopri5]",
)
@click.option(
    "--chart",
    multiple=True,
    metavar="SCALE/CLOCK",
    help="Coordinates to run each solver in; may be given several times; own: the solver's own. "
    "[default: of x/time, x/alpha/noise-ratio and own those that the solver can run in]",
)
@click.option(
    "--tolerance",
    multiple=True,
    type=float,
    help="Relative and absolute tolerance of a step, for solvers that can control theirs; may be "
    "given several times. [unit: that of the data; default: the solver's own: 0.001, of SDE "
    "solvers 0.05]",
)
@click.option(
    "--steps",
    type=int,
    help="Take this many fixed steps in place of a tolerance. [unit: steps; default: by the "
    "tolerance, where the solver can]",
)
@click.option("--grid", metavar="SPEC", help="As in `sample`. [default: the solver's own]")
@click.option(
    "--controller",
    default="pi",
    metavar="[i|pi|pid]",
    help="Control of the step size. [default: pi]",
)
@click.option(
    "--breaks",
    type=click.Choice(["yes", "no", "both"]),
    help="Tell the solvers where the model jumps; both: run each with and without. [default: "
    "yes, unless steps are fixed]",
)
@click.option("--t-min", type=float, default=1e-3, help="Time at which all stop. [default: 0.001]")
@click.option("--t-max", type=float, help="Time at which all start. [default: as in `sample`]")
@click.option("--label", type=int, help="Class to sample. [default: any]")
@click.option("--guidance", type=float, default=1.0, help="As in `sample`. [default: 1]")
@click.option("--count", type=int, default=64, help="How many. [unit: samples; default: 64]")
@click.option("--seed", type=int, default=0, help="Seed of the starts. [default: 0]")
@click.option(
    "--reference-tolerance",
    type=float,
    help="Tolerance of the tight solution that errors are measured against. [default: a "
    "thousandth of the smallest tolerance, at most 1e-06]",
)
@click.option(
    "--causes/--no-causes",
    default=True,
    help="Run all of it on the exact model and on constant noise, too, to keep apart what "
    "shortens the steps. [default: yes]",
)
@output_options("a new directory RUN/steps, or steps/ORACLE")
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
    """Compare the steps of several solvers and charts on RUN (default: the latest run).

    Every combination of --solver, --chart and --tolerance starts from the same noise; errors are
    measured against a tight solution of the same model. Writes causes.png (on the model, the exact
    one and constant noise, with a table of costs), steps.png (in time), variable.png (in each
    solver's own variable), steps.csv, table.csv, causes.csv, summary.json and config.yaml.

    Example: `sdeflow steps --oracle mixture:width=0.02 --etsdm --breaks both`.
    """
    found = find_measured(ctx, "steps", run, oracle, model, values)
    from sdeflow.instruments.step_causes import cause_study
    from sdeflow.instruments.step_sizes import step_study
    from sdeflow.report import new_directory, write_step_study

    names = ("count", "seed", "t_min", "t_max", "label", "guidance", "reference_tolerance")
    settings = _settings(values)
    with progress_bar("comparing") as progress:
        study = step_study(
            found.model,
            settings,
            found.shape,
            progress=progress,
            **{name: values[name] for name in names},
        )
    causes, exact, what = None, None, ""
    if values["causes"]:
        if values["guidance"] == 1:
            exact, what = _exact(found, values["label"])
        with progress_bar("causes") as progress:
            causes = cause_study(study, found.model, settings, exact, progress=progress)
    out = values.pop("out") or new_directory(found.place)
    with together(out) as place:
        made = write_step_study(study, place, found.about, values["svg"], causes, what)
        write_config(place / "config.yaml", {**found.source, **values})
    files = moved(made, place, out)
    rows = study.table()
    result = {
        "model": found.about,
        "out": out,
        "edges": study.edges,
        "table": rows,
        "causes": None if causes is None else causes.table(),
        "exact": what or None,
        "files": files,
    }
    emit(result, as_json, _table(rows if causes is None else causes.table()))
    for name, path in files.items():
        click.echo(f"{name:9} {path}", err=as_json)
    failures = [o.samples.failure for o in study.outcomes if o.samples.failure]
    if failures:
        raise FloatingPointError(f"{failures[0]}; what succeeded is in {out}")


def _exact(found: Measured, label: int | None) -> tuple[Predictor | None, str]:
    """The exact model of the same data, and what it is; None where the model is exact itself."""
    from sdeflow.oracle import FiniteData
    from sdeflow.shared_time import SharedTime, Told

    if isinstance(found.model, (Told, SharedTime)):
        return found.model.of, "the same without shared time"
    if found.x_0 is None:
        return None, ""
    x_0 = found.x_0
    if label is not None and found.label is not None:
        x_0 = x_0[found.label == label]
    points = x_0[:EXACT_POINTS].double()
    return FiniteData(found.model.sde, points), f"that of {len(points)} held-out samples"


def _settings(values: dict[str, Any]) -> list[Setting]:
    """Every combination of solver, chart, tolerance and being told the jumps."""
    from itertools import product

    from sdeflow.instruments.step_sizes import Setting
    from sdeflow.samplers import find_sampler

    charts = {name: values["chart"] or _charts(name) for name in values["solver"]}
    adaptive = {name for name in values["solver"] if find_sampler(name).adaptive}
    told = {None: (None,), "yes": (True,), "no": (False,), "both": (True, False)}
    return [
        Setting(
            solver,
            None if chart == OWN else chart,
            tolerance,
            values["steps"],
            values["grid"],
            values["controller"] if solver in adaptive else "pi",
            breaks,
        )
        for solver in values["solver"]
        for chart, tolerance, breaks in product(
            charts[solver],
            (solver in adaptive and values["tolerance"]) or (None,),
            told[values["breaks"]],
        )
    ]


def _charts(solver: str) -> tuple[str, ...]:
    """What a solver is run in by default."""
    from sdeflow.samplers import BACKENDS, find_sampler

    sampler = find_sampler(solver)
    if sampler.kind == "chain":
        return (OWN,)
    if sampler.source in BACKENDS:  # scale x only
        return ("x/time", OWN)
    if sampler.multistep:  # any scale but x
        return ("x/alpha/noise-ratio", OWN)
    return ("x/time", "x/alpha/noise-ratio", OWN)


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption="error: root mean square, against a tight solution")
    several = any("field" in row for row in rows)
    for name in ("solver", "chart", "steps by", *(["field"] if several else [])):
        table.add_column(name)
    for name in ("evaluations", "calls", "accepted", "rejected", "failed", "error"):
        table.add_column(name, justify="right")
    for row in rows:
        by = f"{row['steps']}, {row['grid']}"
        if row["tolerance"] is not None:
            by = f"tolerance {row['tolerance']:g}"
        if row["told_breaks"]:
            by += ", told the jumps"
        counts = [str(row[name]) for name in ("calls", "accepted", "rejected", "failed")]
        error = "-" if row["error"] is None else f"{row['error']:.2e}"
        names = [row["solver"], row["chart"], by, *([row["field"]] if several else [])]
        table.add_row(*names, f"{row['evaluations_mean']:.1f}", *counts, error)
    return table
