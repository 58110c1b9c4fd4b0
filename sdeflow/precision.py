"""The arithmetic a model computes in: its parameters' own, or float64 where the device has it."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

from .denoiser import Around

__all__ = ["in_float64", "own_precision"]

_Model = TypeVar("_Model")


def own_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside: no autocast on `device`.

    Where PyTorch knows no autocast (on `meta`; on `mps` before 2.5) there is none to switch off,
    and naming the device would be an error.
    """
    if not torch.amp.is_autocast_available(device.type):
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
