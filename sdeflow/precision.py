"""The arithmetic a model computes in: its parameters' own, or float64 where the device has it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .guidance import Around, innermost

__all__ = ["check_float64", "in_float64", "own_precision"]

_Model = TypeVar("_Model")


def own_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside: no autocast on `device`; as it is where none is on.

    Where PyTorch knows no autocast (on `meta`; on `mps` before 2.5) there is none to switch off,
    and naming the device would be an error.
    """
    kind = device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def in_float64(model: _Model) -> _Model:
    """The same weights in float64: on their device, or on the host where that lacks float64.

    Models without parameters (oracles) are float64 already and come back as they are.
    """
    if isinstance(model, Around):
        return model.around(in_float64(model.of))
    if not isinstance(model, nn.Module):
        return model
    made = copy.deepcopy(model)
    devices = {parameter.device.type for parameter in made.parameters()}
    return (made.cpu() if "mps" in devices else made).double()


def check_float64(model: Any, shape: Sequence[int], label: int | Tensor | None = None) -> None:
    """Ask a copy of a model in float64 once, for tight solutions.

    Args:
        model: what `in_float64` gave.
        shape: shape of one sample.
        label: class, one for all or one a sample, or None.

    Raises:
        ValueError: its network makes float32 of its input or condition.
    """
    asked = innermost(model)
    if not isinstance(asked, nn.Module):
        return
    device = next((parameter.device for parameter in asked.parameters()), None)
    x = torch.zeros(1, *shape, dtype=torch.float64, device=device)
    one = None if label is None else torch.as_tensor(label, device=device).reshape(-1)[:1]
    predictor: Any = model
    try:
        with torch.no_grad():
            predictor.noise(x, 0.5, one)
    except RuntimeError as error:
        raise ValueError(
            f"model: a tight solution needs the network in float64, where it fails ({error}): "
            "where it makes float32 of something, as in an embedding, write .to(x.dtype)"
        ) from error
