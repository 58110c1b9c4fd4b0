r"""Is a run what it was? Checksums re-derived, and samples of a probe drawn again.

With every checkpoint is stored a probe: `PROBE` samples x of the averaged weights theta,

    x = Phi(theta, eps),   eps from seed 0,   Phi = DDIM in a few steps,

a deterministic function of the weights. The same machine with the same number of threads gives the
same bits; another one rounds differently, by far less than `TOLERANCE` of the samples' size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser
from .files import SUMS, verify_sums
from .run import Run, find_run, load_run
from .sampling import sample
from .training.checkpoint import checkpoint_steps, load_checkpoint, optimizer_state
from .training.plan import RESUMED, Tensors

__all__ = ["PROBE", "CheckpointReport", "RunReport", "draw_probe", "verify_run"]

PROBE: dict[str, Any] = {"solver": "ddim", "steps": 8, "count": 4, "seed": 0}
TOLERANCE = 1e-3


def draw_probe(denoiser: Denoiser, shape: tuple[int, ...]) -> Tensor | None:
    """The probe's samples, (4, ...) on the host; None where the model gives nothing finite."""
    image = None
    if getattr(denoiser.network, "image_channels", 0):
        image = torch.zeros(PROBE["count"], *shape)
    try:
        out = sample(denoiser, shape, image=image, on_failure="return", **PROBE)
    except (ValueError, RuntimeError):  # a model that cannot be sampled yet may still be trained
        return None
    x = out.x.detach().float().cpu()
    return x if bool(torch.isfinite(x).all()) else None


@dataclass(frozen=True)
class CheckpointReport:
    """What is known of one checkpoint.

    Attributes:
        step: its step.
        damage: what is wrong, in a line; empty where its checksums hold.
        probe: largest difference between the probe's samples now and then, as a share of the
            largest value; None where there is no probe, or the checkpoint is damaged.
    """

    step: int
    damage: str
    probe: float | None

    @property
    def ok(self) -> bool:
        """Whether it can be relied on."""
        return not self.damage and (self.probe is None or self.probe <= TOLERANCE)


@dataclass(frozen=True)
class RunReport:
    """What is known of a run.

    Attributes:
        path: the run directory.
        checkpoints: one report each, ascending in step.
        outputs: directories of results with checksums, to the files that are not what was written.
    """

    path: Path
    checkpoints: list[CheckpointReport]
    outputs: dict[str, list[str]]

    @property
    def ok(self) -> bool:
        """Whether everything is as it was written."""
        whole = all(report.ok for report in self.checkpoints)
        return whole and not any(self.outputs.values())


def verify_run(
    run: str | Path,
    *,
    root: str | Path = "runs",
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> RunReport:
    """Check every checkpoint and every directory of results of a run.

    Args:
        run: a run directory, or the name of one under `root`.
        root: where named runs are.
        device: where the probe is drawn again.
        progress: called with the share of the work done.

    Raises:
        ValueError: no such run, or one without a checkpoint.
    """
    path = find_run(run, root)
    steps = checkpoint_steps(path / "checkpoints")
    if not steps:
        raise ValueError(f"{path} has no checkpoint: there is nothing to verify")
    reports = []
    for number, step in enumerate(steps):
        reports.append(_verify(path, step, device))
        if progress:
            progress((number + 1) / len(steps))
    sums = sorted(path.rglob(SUMS))
    outputs = {str(file.parent.relative_to(path)): verify_sums(file.parent) for file in sums}
    return RunReport(path, reports, outputs)


def _verify(path: Path, step: int, device: torch.device | str) -> CheckpointReport:
    place = path / "checkpoints" / f"step-{step:08d}"
    try:
        checkpoint = load_checkpoint(place)
        names = [re.sub(r"\.safetensors$", "", name) for name in checkpoint.state["files"]]
        tensors = {name: checkpoint.tensors(name) for name in {*names, *RESUMED}}
        loaded = load_run(path, step=step)
        _check_fit(place, loaded, tensors)
    except ValueError as error:
        return CheckpointReport(step, str(error), None)
    stored = tensors.get("probe", {}).get("x")
    if stored is None:
        return CheckpointReport(step, "", None)
    again = draw_probe(loaded.denoiser.to(device), loaded.data_shape)
    if again is None or again.shape != stored.shape:
        return CheckpointReport(step, f"checkpoint {place}: its probe cannot be drawn again", None)
    difference = float((again - stored).abs().max() / stored.abs().max().clamp(min=1e-30))
    return CheckpointReport(step, "", difference)


def _check_fit(place: Path, run: Run, tensors: Tensors) -> None:
    """Training could go on from here: weights and optimiser state are of the run's network.

    Raises:
        ValueError: they are not.
    """
    weights, average = tensors["model"], run.denoiser.network.state_dict()
    differing = [
        name
        for name in sorted({*weights, *average})
        if name not in weights
        or name not in average
        or (weights[name].shape, weights[name].dtype) != (average[name].shape, average[name].dtype)
    ]
    if differing:
        raise ValueError(f"checkpoint {place}: model has another {differing[0]} than its network")
    try:
        optimizer_state(tensors["optimizer"], [w.shape for w in run.denoiser.parameters()])
    except ValueError as error:
        raise ValueError(f"checkpoint {place}: {error}") from None
