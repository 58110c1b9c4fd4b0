"""Where a run lives: its name, its directory, and that no other training writes there."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from ..config import TrainConfig, shape_name
from ..locks import holder, locked
from ..run import named
from .checkpoint import checkpoint_steps

__all__ = ["claim", "default_name", "find_place"]


def default_name(config: TrainConfig) -> str:
    """A name that says what is trained: data, process, schedule and conditioning."""
    kind, _, path = config.data.partition(":")
    parts = [f"{kind}-{Path(path).stem}" if path else kind, config.sde]
    if config.sde in ("vp", "subvp") and config.schedule != "linear":
        parts.append(config.schedule)
    if config.condition != "time":
        parts.append(config.condition)
    if config.smooth_shape != "hyperbola":
        parts.append(shape_name(config))
    if config.shared_noise:
        parts.append("shared-noise")
    if config.etsdm:
        parts.append("etsdm")
    if config.super_resolution:
        parts.append(f"x{config.super_resolution}")
    if config.sigma_floor is not None:
        parts.append(f"floor-{config.sigma_floor:g}")
    if config.embedding != "sinusoidal":
        parts.append(config.embedding)
    if config.embedding_scale != 1:
        parts.append(f"scale-{config.embedding_scale:g}")
    if config.lipschitz_weight:
        parts.append(f"lipschitz-{config.lipschitz_weight:g}")
    if config.soft_truncation is not None:
        parts.append("soft-truncation")
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", "-".join(parts)).strip("-.")[:100]


def find_place(config: TrainConfig) -> tuple[Path, bool]:
    """The run directory, and whether to look for a checkpoint in it; nothing is made.

    Raises:
        ValueError: there is nothing to resume, or a run of that name.
    """
    if config.resume not in ("never", "auto"):
        directory = named(config.resume)
        if len(directory.parts) == 1 and not directory.is_dir():
            directory = Path(config.out) / directory
        if not checkpoint_steps(directory / "checkpoints"):
            raise ValueError(
                f"--resume is {config.resume}: no checkpoint is there; give a run directory, the "
                f"name of one under {config.out}, or auto"
            )
        return directory, True
    root = Path(config.out)
    if config.name is not None:
        directory = root / config.name
        if config.resume == "never" and directory.exists():
            raise ValueError(
                f"--name is {config.name}: {directory} exists; choose another name, or go on "
                "with --resume auto"
            )
        return directory, config.resume == "auto"
    stem = default_name(config)
    taken, number = None, 1
    while (directory := root / (stem if number == 1 else f"{stem}-{number}")).exists():
        taken, number = directory, number + 1
    if config.resume == "auto" and taken is not None:
        return taken, True
    return directory, False


def claim(directory: Path, config: TrainConfig, held: ExitStack) -> Path:
    """Make a run's directory and lock it, so that no other training writes to it.

    Two trainings that began at the same moment may have planned the same new directory: without a
    name the later one takes the next number.

    Args:
        directory: as planned.
        config: the settings it was planned from.
        held: keeps the lock.

    Returns:
        The directory.

    Raises:
        ValueError: another training is at work in it, or has just made it.
        OSError: it cannot be made.
    """
    while True:
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.mkdir(exist_ok=config.resume != "never")
            break
        except FileExistsError:
            if config.resume != "never":
                raise
            directory, _ = find_place(config)
    lock = directory / "lock"
    if not held.enter_context(locked(lock, required=False)):
        raise ValueError(
            f"{directory} is being trained already ({holder(lock)}): wait for that, or choose "
            "another --name"
        )
    return directory
