"""From experiments to jobs: every training and every evaluation once, in the order of work.

    RUNS/train/KEY/      result.json  lock  run/     a run of the library, resumed by its own means
    RUNS/evaluate/KEY/   result.json  lock

A job is done when its result.json is there, which is written whole or not at all, or when its
result stands among those that are kept (`collect`), from another machine or an earlier directory.
A training whose result is kept is repeated only where something is still to be measured on it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdeflow.files import write_text

from .evaluators import version_of
from .kept import kept_seconds
from .spec import Evaluation, Experiment, Subject

__all__ = ["RESULT", "Job", "make_jobs", "read_result", "write_result"]

RESULT = "result.json"


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        key: of the training or of the evaluation.
        subject: what is trained or measured.
        evaluation: what is measured, or None for a training.
        directory: where its result is.
        needs: the training it waits for, or None.
        experiments: who asked for it.
        priority: work with a smaller one is done first.
        kept: core seconds that its kept result took; None where it must be found (again).
    """

    key: str
    subject: Subject
    evaluation: Evaluation | None
    directory: Path
    needs: Path | None
    experiments: tuple[str, ...]
    priority: int
    kept: float | None = None

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.kept is not None or (self.directory / RESULT).exists()

    @property
    def ready(self) -> bool:
        """Whether what it needs is done."""
        return self.needs is None or (self.needs / RESULT).exists()

    def label(self) -> str:
        """The job in a few words."""
        subject = self.subject
        what = "train" if self.evaluation is None else self.evaluation.name
        return f"{what} {subject.problem}/{subject.arm}/{subject.seed}"


def make_jobs(
    experiments: Sequence[Experiment], runs: Path, results: Path | None = None
) -> list[Job]:
    """All jobs of some experiments, without repetition: a training, then its evaluations.

    Args:
        experiments: who asks.
        runs: the directory of the jobs.
        results: where results are kept; what is found there counts as done.
    """
    found: dict[tuple[str, str], Job] = {}

    def add(job: Job, kind: str) -> None:
        before = found.get((kind, job.key))
        if before is not None:
            names = tuple(dict.fromkeys(before.experiments + job.experiments))
            priority = min(before.priority, job.priority)
            job = dataclasses.replace(before, experiments=names, priority=priority)
        found[kind, job.key] = job

    for experiment in experiments:
        for subject in experiment.subjects:
            needs, names, priority = None, (experiment.name,), subject.priority
            if subject.oracle is None:
                key = subject.key
                needs = runs / "train" / key
                add(Job(key, subject, None, needs, None, names, priority), "train")
            for evaluation in subject.evaluations:
                key = subject.evaluation_key(evaluation, version_of(evaluation.kind))
                place = runs / "evaluate" / key
                add(Job(key, subject, evaluation, place, needs, names, priority), "evaluate")
    jobs = list(found.values())
    return _in_order(jobs if results is None else _marked(jobs, results))


def _marked(jobs: list[Job], results: Path) -> list[Job]:
    """The jobs, with what is kept by all that ask for it marked."""
    spent = {name: kept_seconds(results, name) for job in jobs for name in job.experiments}
    jobs = [
        dataclasses.replace(job, kept=spent[job.experiments[0]][job.key])
        if all(job.key in spent[name] for name in job.experiments)
        else job
        for job in jobs
    ]
    wanted = {job.needs for job in jobs if not job.done}
    return [
        dataclasses.replace(job, kept=None) if job.directory in wanted else job for job in jobs
    ]


def _in_order(jobs: list[Job]) -> list[Job]:
    """By priority, then subject by subject, in the order of first mention.

    All that is measured on a training follows it at once, with the smallest priority of its jobs:
    its weights may be gone in the next session.
    """
    first: dict[str, int] = {}
    order: dict[str, int] = {}
    for job in jobs:
        key = job.subject.key
        first[key] = min(job.priority, first.get(key, job.priority))
    for job in jobs:
        subject = job.subject
        order.setdefault(f"{first[subject.key]} {subject.problem} {subject.seed}", len(order))
        order.setdefault(subject.key, len(order))

    def place(job: Job) -> tuple[int, int, int]:
        subject = job.subject
        priority = first[subject.key]
        return priority, order[f"{priority} {subject.problem} {subject.seed}"], order[subject.key]

    return sorted(jobs, key=place)


def read_result(directory: Path) -> dict[str, Any] | None:
    """What a job found; None while it is not done."""
    try:
        found: dict[str, Any] = json.loads((directory / RESULT).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return found


def write_result(directory: Path, values: dict[str, Any]) -> None:
    """Put a result in its place, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / RESULT, json.dumps(values) + "\n")
