"""The command line of the experiments."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import click

__all__ = ["main"]

FAILED = 3  # exit code of a numerical or other failure; what succeeded is kept


@click.command()
@click.argument("name")
@click.option(
    "--scale",
    default="laptop",
    metavar="[laptop|cluster|smoke]",
    help="How big: hours on two cores, the paper's setting, or a few minutes. [default: laptop]",
)
@click.option("--seeds", type=int, help="How many seeds. [default: as in the experiment's file]")
@click.option(
    "--problem",
    "problems",
    multiple=True,
    metavar="NAME",
    help="Only what is trained or exact on this problem (experiments/problems.yaml); may be given "
    "several times. [default: all]",
)
@click.option(
    "--workers", type=int, default=1, help="How many processes share the work. [default: 1]"
)
@click.option(
    "--dry-run", is_flag=True, help="Print the grid and its estimated hours; run nothing."
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs/experiments"),
    metavar="DIR",
    help="Where trainings and evaluations are kept. [default: runs/experiments]",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where collected results and figures are kept. [default: experiments/results/SCALE]",
)
def main(
    name: str,
    scale: str,
    seeds: int | None,
    problems: tuple[str, ...],
    workers: int,
    dry_run: bool,
    runs: Path,
    results: Path | None,
) -> None:
    """Run the experiment NAME, or `all`; `report` writes README.md and figures from the results.

    Stop it whenever you like: the same command goes on where it was. Several may work on the same
    --runs at a time.

    Example: `python experiments/run.py fast --workers 2`.
    """
    try:
        if name == "report":
            _report(scale, runs, results)
        else:
            _run(name, scale, seeds, problems, workers, dry_run, runs, results)
    except ValueError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


def _run(
    name: str,
    scale: str,
    seeds: int | None,
    problems: tuple[str, ...],
    workers: int,
    dry_run: bool,
    runs: Path,
    results: Path | None,
) -> None:
    from .jobs import make_jobs
    from .spec import NAMES, ROOT, load_experiment

    if workers < 1:
        raise ValueError(f"--workers is {workers}: give 1 or more")
    names = NAMES if name == "all" else tuple(name.split(","))
    experiments = [load_experiment(each, scale, seeds) for each in names]
    place = results or ROOT / "results" / scale
    jobs = make_jobs(experiments, runs, place)
    if problems:
        known = dict.fromkeys(job.subject.problem for job in jobs)
        for problem in problems:
            if problem not in known:
                raise ValueError(
                    f"--problem is {problem}: {name} at scale {scale} has {', '.join(known)}"
                )
        jobs = [job for job in jobs if job.subject.problem in problems]
    if dry_run:
        _print(experiments, jobs, runs)
        return
    if workers > 1:
        where = ["--runs", str(runs), "--results", str(place)]
        only = [word for problem in problems for word in ("--problem", problem)]
        _spawn(workers, [name, "--scale", scale, *where, *only], seeds)
    from .collect import collect
    from .worker import work

    failed = work(jobs, runs, _say)
    written = collect(experiments, runs, place)
    for path in written:
        click.echo(path)
    if failed:
        click.echo(f"{len(failed)} of {len(jobs)} jobs failed, the first: {failed[0]}", err=True)
        sys.exit(FAILED)


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def _spawn(workers: int, arguments: list[str], seeds: int | None) -> None:
    """Let processes of one worker each do the work; ends when they have."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    more = [] if seeds is None else ["--seeds", str(seeds)]
    command = [sys.executable, sys.argv[0], *arguments, *more, "--workers", "1"]
    started = [subprocess.Popen(command, env=environment) for _ in range(workers)]
    try:
        for process in started:
            process.wait()
    except KeyboardInterrupt:
        for process in started:  # each writes a checkpoint first
            process.wait()
        raise


def _print(experiments: list, jobs: list, runs: Path) -> None:
    """The grid, what is done of it, and how long the rest will take."""
    from .estimate import Costs

    costs = Costs(runs)
    for experiment in experiments:
        mine = [job for job in jobs if experiment.name in job.experiments]
        click.echo(f"{experiment.name}: {experiment.title}")
        arms = dict.fromkeys((s.problem, s.arm) for s in experiment.subjects)
        for problem, arm in arms:
            subjects = [s for s in experiment.subjects if (s.problem, s.arm) == (problem, arm)]
            names = ", ".join(e.name for e in subjects[0].evaluations)
            listed = ", ".join(str(s.seed) for s in subjects)
            click.echo(f"  {problem:12} {arm:24} seeds {listed}: {names}")
        kinds = Counter("training" if job.evaluation is None else "evaluation" for job in mine)
        done = sum(job.done for job in mine)
        counted = ", ".join(f"{number} {kind}s" for kind, number in kinds.items())
        click.echo(f"  {counted}; {done} done; {costs.left(mine, True)} left")
    left = costs.left(jobs, True)
    click.echo(f"all: {len(jobs)} jobs, each once; {left} of one worker left")


def _report(scale: str, runs: Path, results: Path | None) -> None:
    from .collect import collect
    from .report import write_report
    from .spec import NAMES, ROOT, load_experiment

    place = results or ROOT / "results" / scale
    experiments = [load_experiment(each, scale) for each in NAMES]
    if runs.is_dir():
        collect(experiments, runs, place)
    for path in write_report(experiments, place):
        click.echo(path)
