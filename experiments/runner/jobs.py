"""From experiments to jobs: every training and every evaluation once, in the order of work.

    RUNS/train/KEY/      result.json  lock  run/     a run of the library, resumed by its own means
    RUNS/evaluate/KEY/   result.json  lock

A job is done when its result.json is there, which is written whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .evaluators import version_of
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
    """

    key: str
    subject: Subject
    evaluation: Evaluation | None
    directory: Path
    needs: Path | None
    experiments: tuple[str, ...]
    priority: int

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return (self.directory / RESULT).exists()

    @property
    def ready(self) -> bool:
        """Whether what it needs is done."""
        return self.needs is None or (self.needs / RESULT).exists()

    def label(self) -> str:
        """The job in a few words."""
        subject = self.subject
        what = "train" if self.evaluation is None else self.evaluation.name
        return f"{what} {subject.problem}/{subject.arm}/{subject.seed}"


def make_jobs(experiments: Sequence[Experiment], runs: Path) -> list[Job]:
    """All jobs of some experiments, without repetition: a training, then its evaluations."""
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
    return _in_order(list(found.values()))


def _in_order(jobs: list[Job]) -> list[Job]:
    """By priority; then subject by subject, in the order of its first mention."""
    order: dict[str, int] = {}
    for job in jobs:
        order.setdefault(f"{job.priority} {job.subject.problem} {job.subject.seed}", len(order))
        order.setdefault(f"{job.priority} {job.subject.key}", len(order))

    def place(job: Job) -> tuple[int, int, int]:
        subject = job.subject
        group = order[f"{job.priority} {subject.problem} {subject.seed}"]
        return job.priority, group, order[f"{job.priority} {subject.key}"]

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
    beside = directory / f".{RESULT}.{os.getpid()}"
    with beside.open("w", encoding="utf-8") as file:
        json.dump(values, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(directory / RESULT)
