"""What a run will be, worked out before anything is written.

`plan` loads the data, replaces every "auto" by a value, builds the network, and finds the run
directory and, when resuming, the checkpoint to go on from. Everything that can be refused is
refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..build import build_denoiser, build_sde, tables, written_out
from ..conditioning import ETSDM, default_threshold
from ..config import (
    ARCHITECTURE,
    PLACE,
    TrainConfig,
    settled,
)
from ..data import Dataset, from_tensors, load_data
from ..denoiser import Denoiser
from ..options import flag
from ..run import saved_model
from ..sde import SDE
from ..super_resolution import check_images
from .checkpoint import Checkpoint, latest_checkpoint
from .draws import seed_of
from .loss import TimeDistribution
from .penalty import GAP
from .place import find_place
from .truncation import SoftTruncation

__all__ = ["RESUMED", "Plan", "Tensors", "device_of", "laws_of_time", "plan", "resolve"]

Tensors = dict[str, dict[str, Tensor]]
RESUMED = ("model", "ema", "optimizer")


@dataclass(frozen=True)
class Plan:
    """Everything a training run starts from.

    Attributes:
        config: the settings, none of them "auto" except the device.
        dataset: the data.
        denoiser: network, process and conditioning; fresh weights, on the host.
        directory: the run directory; not made yet.
        checkpoint: what to go on from, or None.
        tensors: the checkpoint's tensors: model, ema, optimizer.
    """

    config: TrainConfig
    dataset: Dataset
    denoiser: Denoiser
    directory: Path
    checkpoint: Checkpoint | None
    tensors: Tensors

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.dataset.train.shape[1:])

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.denoiser.parameters())

    def summary(self) -> dict[str, Any]:
        """What a dry run prints: plain values."""
        train = len(self.dataset.train)
        seen = settled(self.config.steps) * settled(self.config.batch_size)
        return {
            "directory": str(self.directory),
            "resumes_from_step": self.checkpoint.step if self.checkpoint else None,
            "data": self.config.data,
            "data_shape": list(self.data_shape),
            "train_samples": train,
            "heldout_samples": len(self.dataset.heldout),
            "num_classes": self.dataset.num_classes,
            "parameters": self.parameters,
            "epochs": round(seen / train, 2),
            "conditioning": repr(self.denoiser.conditioning),
            "config": self.config.to_dict(),
        }


def device_of(name: str) -> torch.device:
    """The device that `name` means: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ValueError: an unknown device, or one that this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        known = "choose auto, cpu, cuda, cuda:N or mps"
        why = "this machine does not have it" if device.type in there else known
        raise ValueError(f"--device is {name!r}: {why}")
    return device


def _end(config: TrainConfig, sde: SDE) -> float:
    """The largest training time, where it is left open."""
    needs_signal = (
        config.predict in ("noise", "score")
        or config.time_distribution in ("log-snr", "log-normal")
        or config.weighting == "likelihood"
        or config.condition in ("log-snr", "edm")
    )
    return 0.999 if needs_signal and not sde.has_signal_at(1.0) else 1.0


def _precision(config: TrainConfig, images: bool) -> str:
    """The arithmetic of the network: the fastest that is safe on the device.

    bf16 where the hardware multiplies in it, on CPUs for images only: a training step of the
    U-Nets takes 0.7 to 0.8 of its fp32 time there, that of a perceptron 0.93. A penalty on
    steepness needs fp32: in bf16 it is rounding, divided by 1/1000.
    """
    device = device_of(config.device)
    if config.precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision is fp16, which needs a GPU: choose bf16 or fp32")
    if config.precision != "auto":
        return config.precision
    if config.lipschitz_weight:
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and images and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for bf16, as far as this PyTorch can tell."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def _length(dataset: Dataset) -> tuple[int, int]:
    """Steps and batch size that suit the data: minutes on two cores where that is enough."""
    shape = dataset.train.shape[1:]
    if len(shape) != 3:
        return 3000, 256
    return (1200, 128) if math.prod(shape) <= 256 else (4000, 64)


def resolve(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Replace every "auto" by the value it stands for on these data.

    Raises:
        ValueError: the device or the precision is not to be had here, or a setting does not suit
            the data.
    """
    sde = build_sde(config)
    steps, batch_size = _length(dataset)
    steps = config.steps or steps
    chosen: dict[str, Any] = {
        "t_max": _end(config, sde),
        "flips": dataset.flips,
        "steps": steps,
        "batch_size": batch_size,
        "lr": 1e-3,
        "warmup": min(1000, steps // 12),
        "ema": 0.999,
        "checkpoint_every": max(1, min(5000, -(-steps // 10))),
    }
    if config.lipschitz_weight:
        chosen["lipschitz_below"] = default_threshold(sde)
    values = config.to_dict()
    for name, value in chosen.items():
        if values[name] is None:
            values[name] = value
    values["precision"] = _precision(config, len(dataset.train.shape) == 4)
    resolved = written_out(TrainConfig.from_dict(values))
    if resolved.class_condition and not dataset.num_classes:
        raise ValueError(f"--class-condition: {config.data} has no labels; leave it out")
    if resolved.flips and len(dataset.data_shape) != 3:
        raise ValueError(
            f"--flips: {config.data} has samples of shape {dataset.data_shape}, and only images "
            "can be mirrored; leave it out"
        )
    if resolved.super_resolution:
        check_images(dataset.data_shape, resolved.super_resolution)
    below, t_max = resolved.lipschitz_below, settled(resolved.t_max)
    if below is not None and below + GAP > t_max:
        raise ValueError(
            f"--lipschitz-below is {below}: with --t-max {t_max} it can be {t_max - GAP:g} at most"
        )
    return resolved


def _adopt(
    config: TrainConfig, saved: TrainConfig, directory: Path, warn: Callable[[str], None] | None
) -> TrainConfig:
    """The settings to go on with: those given, and for each "auto" what the run had.

    Raises:
        ValueError: the network would be another one; names the options that differ.
    """
    before = saved.to_dict()
    for name in tables(config):
        path = getattr(config, name)
        gone = not path.startswith("[") and not Path(path).exists()
        if gone and name in tables(saved):
            if warn:
                warn(f"{flag(name)} {path} is gone: going on with what the run has of it")
            config = config.replace({name: before[name]})
    given = written_out(config).to_dict()
    if not config.lipschitz_weight:  # a threshold of no penalty
        before["lipschitz_below"] = None
    for name, value in given.items():
        if value is None or (name in ("network", "size", "precision") and value == "auto"):
            given[name] = before[name]
    differing = [name for name in ARCHITECTURE if given[name] != before[name]]
    if differing:
        changes = ", ".join(
            f"--{name.replace('_', '-')} {given[name]} (was {before[name]})" for name in differing
        )
        raise ValueError(
            f"cannot resume {directory} with {changes}: the network would be another one; give "
            f"--config {directory / 'config.yaml'}, or choose another --name"
        )
    return TrainConfig.from_dict({**given, "name": config.name})


def laws_of_time(
    config: TrainConfig, denoiser: Denoiser
) -> tuple[TimeDistribution, SoftTruncation | None]:
    """The law of training times, and that of a batch's smallest time, if it has one.

    Args:
        config: the settings, resolved.
        denoiser: gives the process, and the times that are visited.

    Raises:
        ValueError: log-SNR is infinite where it is to be drawn from, or a power out of range.
    """
    t_max = settled(config.t_max)
    law = TimeDistribution(
        config.time_distribution, denoiser.sde, config.t_min, t_max, denoiser.visited
    )
    power = config.soft_truncation
    return law, None if power is None else SoftTruncation(power, config.t_min, t_max)


def plan(
    config: TrainConfig,
    warn: Callable[[str], None] | None = None,
    *,
    network: nn.Module | None = None,
    data: Dataset | Tensor | None = None,
) -> Plan:
    """Work out a run; nothing is written.

    Args:
        config: the settings.
        warn: told, a line at a time, of what the user should know.
        network: the caller's own network, in place of the one that the settings name.
        data: the caller's own data, likewise: samples (N, ...), or a `Dataset`.

    Raises:
        ValueError: anything wrong with the settings, the data or the run to go on with.
    """
    device_of(config.device)
    if network is not None:
        if config.network not in ("auto", "own"):
            raise ValueError(
                f"network: one is given, and the settings name {config.network!r} too"
            )
        config = config.replace({"network": "own"})
    dataset = None
    if data is not None:
        dataset = data if isinstance(data, Dataset) else from_tensors(data)
        config = config.replace({"data": dataset.name})
    directory, resume = find_place(config)
    checkpoint: Checkpoint | None = None
    tensors: Tensors = {}
    if resume and (found := latest_checkpoint(directory / "checkpoints", RESUMED, warn)):
        checkpoint, tensors = found
        saved, _, _ = saved_model(checkpoint)
        config = _adopt(config, saved, directory, warn)
        if warn:
            _say_changes(config, saved, warn)
    if dataset is None:
        dataset = load_data(config.data, data_dir=config.data_dir, image_size=config.image_size)
    config = resolve(config, dataset)
    if warn and dataset.remark:
        warn(dataset.remark)
    shape = tuple(dataset.train.shape[1:])
    if checkpoint and list(shape) != checkpoint.state["data_shape"]:
        raise ValueError(
            f"cannot resume {directory} with --data {config.data}: its samples have shape "
            f"{shape}, the run's have {tuple(checkpoint.state['data_shape'])}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "weights"))
        denoiser = build_denoiser(config, shape, dataset.num_classes, network)
    laws_of_time(config, denoiser)  # refuses what the learner would
    shared = denoiser.conditioning
    if isinstance(shared, ETSDM) and shared.threshold <= config.t_min:
        raise ValueError(
            f"time is shared below {shared.threshold:g}, and --t-min is {config.t_min:g}: no time "
            "that is visited is shared; give a larger --etsdm-threshold (or edges)"
        )
    return Plan(config, dataset, denoiser, directory, checkpoint, tensors)


def _say_changes(config: TrainConfig, saved: TrainConfig, warn: Callable[[str], None]) -> None:
    before = saved.to_dict()
    places = (*PLACE, "wandb", "device", "checkpoint_every", "diagnostics")
    changes = [
        f"{name} {value} (was {before[name]})"
        for name, value in config.to_dict().items()
        if name not in places and value != before[name]
    ]
    if changes:
        warn(f"going on with other settings than before: {', '.join(changes)}")
