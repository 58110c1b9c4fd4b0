"""Checkpoints that survive a kill at any byte, and never execute anything.

A checkpoint is a directory ``step-XXXXXXXX`` of safetensors files and one ``state.json``, which
holds the format version, the SHA-256 of every tensor file and, last, its own. It is written beside
its place under a hidden name, flushed to the disk and renamed: a directory with the final name is
complete, or was damaged later, which the checksums show. Optimiser state is tensors and JSON too;
nothing is pickled.

    checkpoints/
      step-00001000/  model, ema, optimizer, probe .safetensors  state.json
      latest.json  best.json      which steps those are; for people and other tools
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..files import flush_directory, flushed, read_bytes

__all__ = [
    "FORMAT",
    "Checkpoint",
    "checkpoint_steps",
    "latest_checkpoint",
    "load_checkpoint",
    "load_weights",
    "optimizer_state",
    "optimizer_tensors",
    "prune_checkpoints",
    "restore_optimizer",
    "save_checkpoint",
]

FORMAT = 1
STATE = "state.json"
NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose state has been verified; its tensors are verified as they are read.

    Attributes:
        path: its directory.
        step: optimiser steps taken.
        state: the content of ``state.json``.
    """

    path: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``NAME.safetensors``, on the host.

        Raises:
            ValueError: the file is missing, is not the one that was written, or holds numbers that
                are not finite, which none that was written does.
        """
        file = self.path / f"{name}.safetensors"
        try:
            content = read_bytes(file)
        except OSError as error:
            raise ValueError(f"checkpoint {self.path}: {file.name}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != self.state["files"].get(file.name):
            raise ValueError(
                f"checkpoint {self.path}: {file.name} is damaged (checksum differs); "
                "delete this checkpoint, an older one will be used"
            )
        try:
            tensors: dict[str, Tensor] = safetensors.torch.load(content)
        except SafetensorError as error:
            raise ValueError(f"checkpoint {self.path}: {file.name}: {error}") from None
        for key, value in tensors.items():
            if not _finite(value):
                raise ValueError(f"checkpoint {self.path}: {file.name}: {key} is not finite")
        return tensors


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, allow_nan=False)


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint; on return it is on the disk.

    Args:
        root: the directory of checkpoints; made where it is missing.
        step: optimiser steps taken.
        tensors: file name, without suffix, to named tensors.
        state: plain values, all numbers finite.

    Returns:
        Its directory, ``root/step-XXXXXXXX``; one that was there is replaced.

    Raises:
        FloatingPointError: a tensor holds a number that is not finite; nothing is written.
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    for name, named in tensors.items():
        for key, value in named.items():
            if not _finite(value):
                raise FloatingPointError(f"{name}: {key} is not finite at step {step}")
    root.mkdir(parents=True, exist_ok=True)
    place, beside = root / f"step-{step:08d}", root / f".step-{step:08d}.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        files = {}
        for name, named in tensors.items():
            host = {key: value.detach().cpu().contiguous() for key, value in named.items()}
            content = safetensors.torch.save(host)
            files[f"{name}.safetensors"] = hashlib.sha256(content).hexdigest()
            flushed(beside / f"{name}.safetensors", content)
        values = {"format": FORMAT, "step": step, "files": files, **state}
        digest = hashlib.sha256(_canonical(values).encode()).hexdigest()
        flushed(beside / STATE, json.dumps({**values, "sha256": digest}, indent=1).encode())
        flush_directory(beside)
        if place.exists():
            old = root / f".old-{place.name}.{os.getpid()}"
            place.rename(old)
            beside.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        else:
            beside.rename(place)
        flush_directory(root)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return place


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify the state of one checkpoint.

    Raises:
        ValueError: it is missing, damaged, or of a later format; one line, with the reason.
    """
    try:
        values = json.loads(read_bytes(path / STATE))
        digest = values.pop("sha256")
        damaged = hashlib.sha256(_canonical(values).encode()).hexdigest() != digest or not (
            isinstance(values["format"], int)
            and isinstance(values["step"], int)
            and isinstance(values["files"], dict)
            and all(Path(name).name == name for name in values["files"])
        )
    except OSError as error:
        raise ValueError(f"checkpoint {path}: {STATE}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        damaged = True
    if damaged:
        raise ValueError(f"checkpoint {path}: {STATE} is damaged; delete this checkpoint")
    if values["format"] > FORMAT:
        raise ValueError(
            f"checkpoint {path} has format {values['format']}, this version reads up to {FORMAT}: "
            "install a later sdeflow"
        )
    return Checkpoint(path, values["step"], values)


def checkpoint_steps(root: Path) -> list[int]:
    """The steps of which there is a checkpoint under `root`, ascending; nothing is verified."""
    if not root.is_dir():
        return []
    names = (NAME.fullmatch(item.name) for item in root.iterdir() if item.is_dir())
    return sorted(int(match[1]) for match in names if match)


def latest_checkpoint(
    root: Path, files: Iterable[str] = (), warn: Callable[[str], None] | None = None
) -> tuple[Checkpoint, dict[str, dict[str, Tensor]]] | None:
    """The latest checkpoint that is whole, and the tensors of `files`; None where there is none.

    Args:
        root: the directory of checkpoints.
        files: the tensor files wanted, without suffix; only these are verified.
        warn: told, in one line, of each damaged checkpoint that was passed over.

    Raises:
        ValueError: there are checkpoints and all are damaged.
    """
    reasons = []
    for step in reversed(checkpoint_steps(root)):
        try:
            found = load_checkpoint(root / f"step-{step:08d}")
            loaded = {name: found.tensors(name) for name in files}
        except ValueError as error:
            reasons.append(str(error))
            continue
        for reason in reasons if warn else ():
            assert warn is not None
            warn(f"{reason}: using step {found.step} instead")
        return found, loaded
    if reasons:
        raise ValueError(f"no whole checkpoint under {root}: {reasons[0]}")
    return None


def prune_checkpoints(root: Path, keep: Iterable[int]) -> None:
    """Delete all checkpoints but those of the steps in `keep`, and what a kill left half done."""
    kept = {f"step-{step:08d}" for step in keep}
    for item in root.iterdir():
        stale = item.name.startswith((".step-", ".old-step-"))
        if item.is_dir() and (stale or (NAME.fullmatch(item.name) and item.name not in kept)):
            shutil.rmtree(item, ignore_errors=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The per-parameter state of an optimiser as tensors named ``PARAMETER.KEY``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).clone()
        for index, of in state.items()
        for key, value in of.items()
    }


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into a network; names, shapes and types must be its own.

    Raises:
        ValueError: they are not; one line.
    """
    for name, value in network.state_dict().items():
        if name in tensors and tensors[name].dtype != value.dtype:
            raise ValueError(f"{name} is {tensors[name].dtype}, must be {value.dtype}")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


def optimizer_state(
    tensors: Mapping[str, Tensor], shapes: Sequence[torch.Size]
) -> dict[int, dict[str, Tensor]]:
    """What `optimizer_tensors` gave as AdamW's state: parameter number to named tensors.

    Args:
        tensors: as read.
        shapes: of the parameters. The fused kernels of torch do not look: a moment of another
            shape would be read beyond its end.

    Raises:
        ValueError: the tensors are of other parameters, or no state of AdamW.
    """
    numbers = {str(number) for number in range(len(shapes))}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        if index not in numbers:
            raise ValueError(f"optimiser state does not fit the network: {name[:80]!r}")
        state.setdefault(int(index), {})[key] = value
    for number, of in state.items():
        wanted = {"step": torch.Size(), "exp_avg": shapes[number], "exp_avg_sq": shapes[number]}
        found = {key: value.shape for key, value in of.items()}
        if found != wanted or any(value.dtype != torch.float32 for value in of.values()):
            raise ValueError(
                f"optimiser state does not fit the network: that of parameter {number} differs"
            )
    return state


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; settings such as the learning rate are kept.

    Raises:
        ValueError: as `optimizer_state`.
    """
    shapes = [weight.shape for group in optimizer.param_groups for weight in group["params"]]
    groups = optimizer.state_dict()["param_groups"]
    state = optimizer_state(tensors, shapes)
    optimizer.load_state_dict({"state": state, "param_groups": groups})
