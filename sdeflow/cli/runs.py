"""`sdeflow runs`: list what has been trained, show a run, verify that it is what it was."""

from __future__ import annotations

import time
from typing import Any

import click

from sdeflow.cli.options import common, emit, progress_bar
from sdeflow.config import TrainConfig, load_config
from sdeflow.run import RunInfo, find_run, latest_run, list_runs, run_info

root_option = click.option(
    "--root", default="runs", show_default=True, help="Directory in which runs are kept."
)


@click.group("runs")
def command() -> None:
    """List runs, show the settings and losses of one, or verify its files."""


def _config(info: RunInfo) -> TrainConfig | None:
    """The run's settings; None where they cannot be read."""
    try:
        return load_config(info.path / "config.yaml")
    except ValueError:
        return None


def _entry(info: RunInfo) -> dict[str, Any]:
    config = _config(info)
    return {
        "name": info.name,
        "path": info.path,
        "status": info.status,
        "step": info.step,
        "steps": info.steps,
        "loss": info.last_loss,
        "heldout": info.heldout,
        "updated": info.updated,
        "config": config.to_dict() if config else None,
    }


@command.command("list")
@root_option
@common
def list_command(root: str, as_json: bool) -> None:
    """List the runs, the latest last: key settings and losses."""
    from rich import box
    from rich.table import Table

    from sdeflow.report import describe

    entries = [_entry(info) for info in list_runs(root)]
    table = Table(box=box.SIMPLE_HEAD, caption=f"{len(entries)} runs in {root}")
    for name, side in (("run", "left"), ("status", "left"), ("step", "right"), ("loss", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("held out", justify="right")
    table.add_column("settings")
    for entry in entries:
        settings = describe(TrainConfig.from_dict(entry["config"])) if entry["config"] else "?"
        losses = [_number(entry["loss"]), _number(entry["heldout"])]
        done = f"{entry['step']}/{entry['steps'] or '?'}"
        table.add_row(entry["name"], entry["status"], done, *losses, settings)
    emit({"root": root, "runs": entries}, as_json, table)


@command.command("show")
@click.argument("run", required=False)
@root_option
@common
def show_command(run: str | None, root: str, as_json: bool) -> None:
    """Show one RUN (a directory, or a name under --root; default: the latest) in full."""
    path = find_run(run, root) if run else latest_run(root)
    info = run_info(path)
    entry = _entry(info)
    entry["record"] = info.record
    entry["checkpoints"] = sorted(p.name for p in path.glob("checkpoints/step-*"))
    entry["samples"] = [p.parent for p in sorted(path.glob("samples/*/summary.json"))]
    lines = [
        f"run          {info.path}",
        f"status       {info.status}, step {info.step} of {info.steps or '?'}",
        f"updated      {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(info.updated))}",
        f"loss         {_number(info.last_loss)}",
        f"held out     {_number(info.heldout)}",
        *_listed("checkpoint ", entry["checkpoints"]),
        *_listed("samples    ", entry["samples"]),
        "settings",
        *(f"  {name:18} {value}" for name, value in (entry["config"] or {}).items()),
    ]
    emit(entry, as_json, "\n".join(lines))


@command.command("verify")
@click.argument("run", required=False)
@root_option
@click.option(
    "--device", default="cpu", show_default=True, help="Where the probe is sampled again."
)
@common
def verify_command(run: str | None, root: str, device: str, as_json: bool) -> None:
    """Check RUN (a directory, or a name under --root; default: the latest).

    Derives the checksums of every checkpoint and of every directory of results again, and samples
    each checkpoint's probe anew to compare it with the one stored. Anything damaged: exit code 2.
    """
    from dataclasses import asdict

    from sdeflow.training.plan import device_of
    from sdeflow.verify import verify_run

    place = device_of(device)
    with progress_bar("verifying") as progress:
        report = verify_run(
            find_run(run, root) if run else latest_run(root), device=place, progress=progress
        )
    lines = [f"run          {report.path}"]
    for found in report.checkpoints:
        probe = "no probe" if found.probe is None else f"probe differs by {found.probe:.2g}"
        if found.probe == 0:
            probe = "probe identical"
        state = found.damage or f"checksums hold, {probe}"
        lines.append(f"checkpoint   step {found.step}: {state}")
    for name, wrong in report.outputs.items():
        lines.append(
            f"results      {name}: {'changed: ' + ', '.join(wrong) if wrong else 'whole'}"
        )
    checkpoints = [{**asdict(found), "ok": found.ok} for found in report.checkpoints]
    result = {"run": report.path, "ok": report.ok, "checkpoints": checkpoints}
    emit({**result, "outputs": report.outputs}, as_json, "\n".join(lines))
    if not report.ok:
        bad = [f"step {found.step}" for found in report.checkpoints if not found.ok]
        bad += [name for name, wrong in report.outputs.items() if wrong]
        raise ValueError(f"{report.path} is damaged in {', '.join(bad)}: delete these")


def _listed(name: str, values: list[Any]) -> list[str]:
    return [f"{name}  {value}" for value in values]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
