"""Runs: what a training left in its directory, and how to use it again.

    runs/NAME/
      config.yaml      the settings that reproduce the run
      run.json         where it stands: status, step, losses, versions
      metrics.jsonl    a line per measurement
      checkpoints/     weights, their average, the optimiser
      figures/  samples/  wandb/
      lock             held while a training writes here

Only a checkpoint is needed to load a run: it holds the settings as well. Nothing in a run
directory is executed on loading.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import SHARING, TrainConfig, nearest
from .files import read_bytes
from .locks import abandoned
from .options import unknown

if TYPE_CHECKING:
    from torch import nn

    from .denoiser import Denoiser
    from .training.checkpoint import Checkpoint

__all__ = [
    "Run",
    "RunInfo",
    "find_run",
    "latest_run",
    "list_runs",
    "load_run",
    "named",
    "run_info",
    "saved_model",
]

LARGEST_SAMPLE, MOST_CLASSES = 2**26, 2**20  # elements, classes: beyond, a file is not believed


@dataclass(frozen=True)
class Run:
    """A trained model with its history.

    Attributes:
        path: the run directory.
        config: its settings, resolved.
        denoiser: the model with averaged weights, in evaluation mode.
        data_shape: shape of one sample.
        num_classes: number of classes of the data, 0 where it has none.
        step: optimiser steps behind the weights.
        last_loss: mean training loss over the last logged steps; None before the first.
    """

    path: Path
    config: TrainConfig
    denoiser: Denoiser
    data_shape: tuple[int, ...]
    num_classes: int
    step: int
    last_loss: float | None

    def told(self, sharing: Mapping[str, Any]) -> Run:
        """The same weights with time shared otherwise than in training.

        Args:
            sharing: values of the options in `SHARING`; None, or an option left out, is as in
                training. ``{"etsdm": False}`` asks a network trained with E-TSDM at the time
                itself, ``{"etsdm": True}`` shares time only while sampling.

        Raises:
            ValueError: another option, edges without E-TSDM, or edges out of range.
        """
        from .build import build_conditioning, written_out

        values = {name: value for name, value in sharing.items() if value is not None}
        for name in values:
            if name not in SHARING:
                raise ValueError(unknown("sharing option", name, SHARING))
        if not values:
            return self
        if self.config.shared_noise:
            raise ValueError(
                "this run was trained at shared noise levels: it can be told nothing else of time"
            )
        default = {f.name: f.default for f in fields(TrainConfig) if f.name in SHARING}
        if not values.get("etsdm", True):  # how time was shared in training no longer matters
            values = default | values
        elif TrainConfig().replace({"etsdm": True, **values}).lists_edges:
            for name in ("etsdm_threshold", "etsdm_intervals"):  # a list of edges sets both
                values.setdefault(name, default[name])
        config = written_out(self.config.replace(values))
        conditioning = build_conditioning(config, self.denoiser.sde)
        return replace(self, config=config, denoiser=self.denoiser.told(conditioning))


@dataclass(frozen=True)
class RunInfo:
    """A run as lists show it; read without loading a model.

    Attributes:
        path: the run directory.
        name: its name.
        status: running, stopped, finished or unknown; of a killed run "stopped", where its lock
            can be tried.
        step: steps taken, as of the last checkpoint.
        steps: steps wanted.
        last_loss: training loss, or None.
        heldout: held-out loss, or None.
        updated: seconds since 1970 of the last change.
        record: all of ``run.json``.
    """

    path: Path
    name: str
    status: str
    step: int
    steps: int | None
    last_loss: float | None
    heldout: float | None
    updated: float
    record: dict[str, Any] = field(repr=False)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint, whole or not."""
        return _has_checkpoint(self.path)


def _has_checkpoint(path: Path) -> bool:
    return any((path / "checkpoints").glob("step-*/state.json"))


def _number(value: Any) -> float | None:
    """A finite number, or None: a record may hold anything."""
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        number = math.nan
    return number if math.isfinite(number) else None


def run_info(path: Path) -> RunInfo:
    """What a run's ``run.json`` says; a missing or damaged one leaves gaps."""
    try:
        record = json.loads(read_bytes(path / "run.json"))
    except (OSError, ValueError, RecursionError):
        record = {}
    if not isinstance(record, dict):
        record = {}
    steps = _number(record.get("steps"))
    status = str(record.get("status", "unknown"))
    if status == "running" and abandoned(path / "lock"):  # it was killed
        status = "stopped"
    return RunInfo(
        path=path,
        name=path.name,
        status=status,
        step=int(_number(record.get("step")) or 0),
        steps=None if steps is None else int(steps),
        last_loss=_number(record.get("loss")),
        heldout=_number(record.get("heldout")),
        updated=_number(record.get("updated")) or path.stat().st_mtime,
        record=record,
    )


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() or (path / "checkpoints").is_dir()


def named(path: str | Path) -> Path:
    """A path that ends in the name of its directory: `.` and `..` are spelt out."""
    path = Path(path)
    return Path(os.path.abspath(path)) if path.name in ("", "..") else path


def list_runs(root: str | Path = "runs") -> list[RunInfo]:
    """The runs under a directory, the latest changed last; empty where there is no directory."""
    root = Path(root)
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if _is_run(path):
            found.append(run_info(path))
    return sorted(found, key=lambda info: info.updated)


def latest_run(root: str | Path = "runs") -> Path:
    """The directory of the run that changed last, among those with a checkpoint.

    Raises:
        ValueError: there is none.
    """
    for info in reversed(list_runs(root)):
        if info.has_checkpoint:
            return info.path
    raise ValueError(f"there is no trained run under {root}: make one with `sdeflow train`")


def find_run(run: str | Path, root: str | Path = "runs") -> Path:
    """The run directory meant by a path, or by a name under `root`.

    Raises:
        ValueError: there is none; names the nearest.
    """
    path = named(run)
    places = [path, Path(root) / path] if len(path.parts) == 1 else [path]
    for place in places:
        if _is_run(place):
            return place
    for place in places:
        if place.is_dir():
            raise ValueError(
                f"{place} is no run, it has no run.json and no checkpoints: give a run directory, "
                "or train one with `sdeflow train`"
            )
    near = nearest(path.name, [info.name for info in list_runs(root)])
    hint = f"did you mean {Path(root) / near}?" if near else "train one with `sdeflow train`"
    raise ValueError(f"there is no run {run}: {hint}")


def load_run(
    run: str | Path,
    *,
    root: str | Path = "runs",
    step: int | None = None,
    network: nn.Module | None = None,
    warn: Callable[[str], None] | None = None,
) -> Run:
    """Load a run's model.

    Args:
        run: a run directory, or the name of one under `root`.
        root: where named runs are.
        step: which checkpoint; None for the latest that is whole.
        network: the network, where it was the caller's own; gets the averaged weights.
        warn: told, in a line, when the latest is damaged and an older one is used.

    Raises:
        ValueError: no such run, no checkpoint in it, or only damaged ones; or a network that is
            missing, given where none is needed, or does not fit the weights.
    """
    from .build import build_denoiser
    from .training.checkpoint import latest_checkpoint, load_checkpoint, load_weights

    path = find_run(run, root)
    checkpoints = path / "checkpoints"
    if step is None:
        found = latest_checkpoint(checkpoints, ("ema",), warn)
        if found is None:
            raise ValueError(
                f"{path} has no checkpoint: wait for the first one, or train with `sdeflow train`"
            )
        checkpoint, tensors = found[0], found[1]["ema"]
    else:
        checkpoint = load_checkpoint(checkpoints / f"step-{step:08d}")
        tensors = checkpoint.tensors("ema")
    config, shape, classes = saved_model(checkpoint)
    denoiser = build_denoiser(config, shape, classes, network)
    try:
        load_weights(denoiser.network, tensors)
    except ValueError as error:
        raise ValueError(
            f"checkpoint {checkpoint.path} does not fit its own network: {error}"
        ) from None
    denoiser.requires_grad_(False).eval()
    loss = checkpoint.state["loss"]
    return Run(path, config, denoiser, shape, classes, checkpoint.step, loss)


def saved_model(checkpoint: Checkpoint) -> tuple[TrainConfig, tuple[int, ...], int]:
    """Settings, shape of a sample and number of classes of a checkpoint, believed only as checked.

    Raises:
        ValueError: the checkpoint does not say, or says something impossible.
    """
    state = checkpoint.state
    config, shape, classes = state.get("config"), state.get("data_shape"), state.get("num_classes")
    sizes = shape if isinstance(shape, list) and 1 <= len(shape) <= 4 else [0]
    numbers = [state.get(name) for name in ("loss", "best", "seconds", "best_step")]
    if not (
        isinstance(config, dict)
        and all(type(size) is int and size > 0 for size in sizes)
        and math.prod(sizes) <= LARGEST_SAMPLE
        and type(classes) is int
        and 0 <= classes <= MOST_CLASSES
        and all(number is None or type(number) in (int, float) for number in numbers)
    ):
        raise ValueError(f"checkpoint {checkpoint.path} describes no model of this library")
    return TrainConfig.from_dict(config), tuple(sizes), classes
