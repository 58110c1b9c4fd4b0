"""A whole training run: `train(config)` plans it, takes the steps, and keeps the record.

With several processes each runs this function; the main one alone writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ..config import TrainConfig, settled
from ..data import Dataset
from ..run import Run
from .checkpoint import latest_checkpoint
from .interrupt import StopRequest, TrainingInterrupted
from .learner import Learner
from .place import claim
from .plan import RESUMED, Plan, plan
from .progress import ProgressBar
from .recorder import Recorder

__all__ = ["train"]

LINES = 200  # of training metrics in a run


def train(
    config: TrainConfig,
    *,
    network: nn.Module | None = None,
    data: Dataset | Tensor | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a denoiser.

    Args:
        config: the settings.
        network: a module of the caller's own, F(x, c) or F(x, c, label): x (B, ...), c (B,) what
            it is told of the time (`config.condition`, shared with `config.etsdm`); answers in
            the shape of x. It is trained as it is, from the weights it has. Its run is loaded by
            `load_run(run, network=...)`.
        data: the caller's own samples, (N, ...), a tenth of them held out, or a `Dataset`
            (`sdeflow.data.from_tensors`) with labels.
        say: told of what happens, a line at a time; nothing by default.
        progress: whether to show a progress bar on stderr; None: when that is a terminal.

    Returns:
        The finished run, its denoiser with the averaged weights.

    Raises:
        ValueError: bad settings or data, before anything is written.
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint has been written.
        FloatingPointError: nothing finite for some steps in a row; earlier checkpoints are good.
        ConnectionResetError: another process of this run ended; likewise.
        OSError: something cannot be written; likewise.
    """
    # The launcher numbers the processes; only the first speaks, from the start.
    tell = say if say and os.environ.get("RANK", "0") == "0" else _silence
    planned = plan(config, tell, network=network, data=data)
    learner = Learner(planned)
    # The learner has what it needs of the checkpoint; its tensors need not stay in memory.
    planned = dataclasses.replace(planned, tensors={})
    if learner.step >= settled(planned.config.steps):
        tell(
            f"{planned.directory} is at step {learner.step} of {planned.config.steps}: "
            "nothing to do"
        )
        return _result(planned, learner, Recorder(planned, learner, tell))
    with contextlib.ExitStack() as held:
        planned = _claimed(planned, learner, held)
        return _train(planned, learner, Recorder(planned, learner, tell), tell, progress)


def _train(
    planned: Plan,
    learner: Learner,
    recorder: Recorder,
    tell: Callable[[str], None],
    progress: bool | None,
) -> Run:
    """Take the steps in a directory that is this run's own; what `train` says of errors."""
    main = learner.accelerator.is_main_process
    if main:
        recorder.open()
    finished = False
    try:
        _loop(planned, learner, recorder, tell, progress if main else False)
        finished = True
    except FloatingPointError as error:
        remedy = "lower --lr or --clip, or use --precision fp32"
        raise FloatingPointError(f"{error}; {_last(planned)}; {remedy}") from None
    except OSError as error:
        why = (
            f"{error.strerror or error}, at step {learner.step}; {_last(planned)}; make it "
            f"writable, then go on with --resume {planned.directory}"
        )
        raise OSError(error.errno, why, str(error.filename or planned.directory)) from None
    except RuntimeError as error:
        if not _lost_a_process(learner, error):
            raise
        why = (
            f"another process of this run ended, at step {learner.step}; {_last(planned)}; start "
            f"all again with --resume {planned.directory}"
        )
        raise ConnectionResetError(errno.ECONNRESET, why, str(planned.directory)) from error
    finally:
        if main:
            # What cannot be written must not hide why the run ends.
            with contextlib.nullcontext() if finished else contextlib.suppress(OSError):
                recorder.close(finished)
    return _result(planned, learner, recorder)


def _last(planned: Plan) -> str:
    """The checkpoint that a run falls back on."""
    try:
        found = latest_checkpoint(planned.directory / "checkpoints", RESUMED)
    except ValueError:
        found = None
    return f"the last good checkpoint is step {found[0].step}" if found else "no good checkpoint"


def _lost_a_process(learner: Learner, error: RuntimeError) -> bool:
    """Whether an error is that of a collective operation whose other side is gone."""
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection", "socket", "timed out", "broken pipe")
    return learner.accelerator.num_processes > 1 and any(sign in text for sign in signs)


def _silence(text: str) -> None:
    """Say nothing."""


def _claimed(planned: Plan, learner: Learner, held: contextlib.ExitStack) -> Plan:
    """The plan with the directory that the main process has made and locked.

    Raises:
        ValueError: another training is at work in it.
        OSError: it cannot be made.
    """
    alone = learner.accelerator.num_processes == 1
    if not alone:
        learner.accelerator.wait_for_everyone()  # each has looked for its directory by then
    claimed: list[Path | Exception] = [planned.directory]
    if learner.accelerator.is_main_process:
        try:
            claimed = [claim(planned.directory, planned.config, held)]
        except (ValueError, OSError) as error:  # the others must not wait for what will not come
            claimed = [error]
    if not alone:
        broadcast_object_list(claimed)
    if isinstance(claimed[0], Exception):
        raise claimed[0]
    return dataclasses.replace(planned, directory=claimed[0])


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
    taken, skipped = 0, learner.skipped
    clock = opened = time.perf_counter()
    before = recorder.seconds
    with StopRequest() as stop, ProgressBar(steps, learner.step, progress) as bar:
        while learner.step < steps:
            loss, norm = learner.advance()
            step, taken = learner.step, taken + 1
            if learner.skipped > skipped:
                if skipped == 0:
                    tell(f"step {step} is skipped: loss or gradient not finite; later ones count")
                skipped = learner.skipped
            if math.isfinite(loss):
                window.append(loss)
            bar.update(step, loss, last=step == steps)
            stopping = learner.any(stop.signal is not None)
            due = step % save_every == 0 or step == steps
            if step % log_every == 0 or due or stopping:
                now, mean = time.perf_counter(), learner.mean(window)
                if main:
                    recorder.log(mean, norm, taken / (now - clock))
                window, taken, clock = [], 0, now
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
