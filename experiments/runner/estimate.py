"""How long the jobs will take, from those that are done.

    training     time a step of trainings of the same problem (else of the same data), x steps
    evaluation   median time of the same evaluation on the same problem

Time is processor time over threads: what an idle machine would take. Results that are kept count:
a new machine knows what an earlier one has learned.

Where nothing like it has been done, a training step is measured on the spot, and an evaluation is
guessed from how often it asks the model: an evaluation takes a third of a step per sample.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sdeflow.config import settled
from sdeflow.training.learner import Learner
from sdeflow.training.plan import plan

from .jobs import Job, read_result
from .spec import resolved

__all__ = ["Costs"]

STEPS = 3  # measured, after one to warm up
PRICES = {  # evaluations of the model a sample, where steps and tolerance do not say
    "samples": 80.0,
    "lipschitz": 600.0,
    "heldout": 40.0,
    "likelihood": 600.0,
    "steps": 5000.0,
    "noise-steps": 5000.0,
    "sensitivity": 300.0,
    "history": 1.0,
    "neighbours": 500.0,
}


class Costs:
    """Seconds of jobs.

    Args:
        runs: the directory of the jobs.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._steps: dict[Any, float] = {}

    def left(self, jobs: Iterable[Job], measure: bool = False) -> str:
        """How long one worker needs for those of the jobs that are not done, in words.

        Args:
            jobs: all of them, the done ones too: they say what the others will cost.
            measure: whether to measure steps of trainings unlike any that is done.
        """
        jobs = list(jobs)
        known: dict[Any, list[float]] = {}
        for job in jobs:
            if (seconds := _spent(job)) is not None:
                known.setdefault(self._like(job), []).append(seconds / self._amount(job))
        price = {key: statistics.median(values) for key, values in known.items()}
        total, known_all = 0.0, True
        for job in jobs:
            if not job.done:
                each = price.get(self._like(job)) or self._guess(job, price, measure)
                known_all &= each > 0
                total += each * self._amount(job)
        return f"{'about' if known_all else 'at least'} {total / 3600:.1f} h"

    def _like(self, job: Job) -> Any:
        """What a job must share with another one to cost the same per unit."""
        config = job.subject.config
        data = (config.data, config.image_size, config.size, config.batch_size)
        return data if job.evaluation is None else (*data, job.evaluation.name)

    def _amount(self, job: Job) -> float:
        """Units of work: steps of a training; an evaluation is one."""
        return 1.0 if job.evaluation else float(settled(job.subject.config.steps))

    def _guess(self, job: Job, price: dict[Any, float], measure: bool) -> float:
        """Seconds per unit of a job unlike all that are done; 0 where nothing is known."""
        key = self._like(job)[:4]
        step = price.get(key) or self._steps.get(key)
        if step is None:
            step = self._steps[key] = _step_seconds(job) if measure else 0.0
        if job.evaluation is None:
            return step
        settings = job.evaluation.settings
        asked = float(settings.get("steps") or PRICES[job.evaluation.kind])
        samples = float(settings.get("count") or 64)
        return asked * samples * step / (3 * settled(job.subject.config.batch_size))


def _spent(job: Job) -> float | None:
    """Seconds that a job took, here or where its kept result was found; None where it is to do."""
    if (result := read_result(job.directory)) is not None:
        return float(result["core_seconds"] / result["threads"])
    return job.kept


def _step_seconds(job: Job) -> float:
    """Seconds of a training step, measured; 0 where the data are not on this machine."""
    with tempfile.TemporaryDirectory() as place:
        config = dataclasses.replace(resolved(job.subject.config), out=place, name="run")
        try:
            learner = Learner(plan(config))
        except (ValueError, MemoryError):
            return 0.0
        learner.advance()
        began = time.process_time()
        for _ in range(STEPS):
            learner.advance()
        return (time.process_time() - began) / STEPS / torch.get_num_threads()
