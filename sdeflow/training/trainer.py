"""A whole training run: `train(config)` plans it, takes the steps, and keeps the record.

With several processes each runs this function; the main one alone writes.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable

from accelerate.utils import broadcast_object_list

from ..config import TrainConfig, settled
from ..run import Run
from .checkpoint import checkpoint_steps
from .interrupt import StopRequest, TrainingInterrupted
from .learner import Learner
from .plan import Plan, plan
from .progress import ProgressBar
from .recorder import Recorder

__all__ = ["train"]

LINES = 200  # of training metrics in a run


def train(
    config: TrainConfig,
    *,
    say: Callable[[str], None] | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a denoiser.

    Args:
        config: the settings.
        say: told of what happens, a line at a time; nothing by default.
        progress: whether to show a progress bar on stderr; None: when that is a terminal.

    Returns:
        The finished run, its denoiser with the averaged weights.

    Raises:
        ValueError: bad settings or data, before anything is written.
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint has been written.
        FloatingPointError: nothing finite for some steps in a row; earlier checkpoints are good.
    """
    # The launcher numbers the processes; only the first speaks, from the start.
    tell = say if say and os.environ.get("RANK", "0") == "0" else _silence
    planned = plan(config, tell)
    learner = Learner(planned)
    # The learner has what it needs of the checkpoint; its tensors need not stay in memory.
    planned = dataclasses.replace(_agreed(planned, learner), tensors={})
    recorder = Recorder(planned, learner, tell)
    if learner.step >= settled(planned.config.steps):
        tell(
            f"{planned.directory} is at step {learner.step} of {planned.config.steps}: "
            "nothing to do"
        )
        return _result(planned, learner, recorder)
    main = learner.accelerator.is_main_process
    if main:
        recorder.open()
    finished = False
    try:
        _loop(planned, learner, recorder, tell, progress if main else False)
        finished = True
    except FloatingPointError as error:
        saved = checkpoint_steps(planned.directory / "checkpoints")
        last = f"the last checkpoint is step {saved[-1]}" if saved else "there is no checkpoint"
        remedy = "lower --lr or --clip, or use --precision fp32"
        raise FloatingPointError(f"{error}; {last}; {remedy}") from None
    finally:
        if main:
            recorder.close(finished)
    return _result(planned, learner, recorder)


def _silence(text: str) -> None:
    """Say nothing."""


def _agreed(planned: Plan, learner: Learner) -> Plan:
    """The plan with the main process's directory, once every process has made its own."""
    if learner.accelerator.num_processes == 1:
        return planned
    directory = [planned.directory]
    broadcast_object_list(directory)
    learner.accelerator.wait_for_everyone()
    return dataclasses.replace(planned, directory=directory[0])


def _loop(
    planned: Plan,
    learner: Learner,
    recorder: Recorder,
    tell: Callable[[str], None],
    progress: bool | None,
) -> None:
    """Take the steps; log, evaluate and save on the way.

    Raises:
        TrainingInterrupted: a signal came; a checkpoint has been written.
        FloatingPointError: from the learner.
    """
    steps, save_every = settled(planned.config.steps), settled(planned.config.checkpoint_every)
    log_every = max(1, steps // LINES)
    main = learner.accelerator.is_main_process
    window: list[float] = []
    clock = opened = time.perf_counter()
    before = recorder.seconds
    with StopRequest() as stop, ProgressBar(steps, learner.step, progress) as bar:
        while learner.step < steps:
            loss, norm = learner.advance()
            step = learner.step
            if math.isfinite(loss):
                window.append(loss)
            bar.update(step, loss, last=step == steps)
            stopping = learner.any(stop.signal is not None)
            due = step % save_every == 0 or step == steps
            if step % log_every == 0 or due or stopping:
                now, mean = time.perf_counter(), learner.mean(window)
                if main and mean is not None:
                    recorder.log(mean, norm, len(window) / (now - clock))
                window, clock = [], now
            if due or stopping:
                if main:
                    recorder.seconds = before + time.perf_counter() - opened
                    recorder.checkpoint(last=step == steps, evaluate=due)
                learner.accelerator.wait_for_everyone()
                clock = time.perf_counter()
            if stopping and step < steps:
                message = (
                    f"stopped at step {step} of {steps}, checkpoint written; go on with "
                    f"--resume {planned.directory}"
                )
                tell(message)
                raise TrainingInterrupted(message, stop.signal or 0)


def _result(planned: Plan, learner: Learner, recorder: Recorder) -> Run:
    return Run(
        path=planned.directory,
        config=planned.config,
        denoiser=learner.average,
        data_shape=planned.data_shape,
        num_classes=planned.dataset.num_classes,
        step=learner.step,
        last_loss=recorder.last_loss,
    )
