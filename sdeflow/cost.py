r"""What training a network would cost, before it is trained.

    FLOPs of a step      = 3 x FLOPs of a forward pass (the backward pass is two more products)
    memory per device    = weights x (4 weight + 4 gradient + 8 AdamW + 4 average) bytes
                         + bytes kept for the backward pass, per sample x samples on the device
    time of a step       = FLOPs on the device / FLOP per second

FLOPs and kept bytes are counted on PyTorch's `meta` device, where tensors have shapes and no
numbers: exact for the network's own operations, at any size. FLOP per second is measured, on a
step of the same network at a resolution small enough to be quick.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .networks import make_network
from .precision import own_precision

__all__ = ["RECOMPUTES", "Cost", "estimate", "kept_bytes", "step_flops"]

BYTES_PER_WEIGHT = 4 + 4 + 8 + 4
QUICK = 1e11  # FLOPs of the step that is measured
# Whether PyTorch can recompute on the meta device: from 2.5 on.
RECOMPUTES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 5)


@dataclass(frozen=True)
class Cost:
    """What a training step costs on each of several equal devices.

    Attributes:
        parameters: number of weights.
        flops: of a step, over all devices.
        bytes_weights: of weights, gradients, optimiser and average, on each device.
        bytes_kept: kept for the backward pass, on each device.
        flop_per_second: measured on one device, with `measured_shape`.
        measured_shape: shape of the batch of the measurement.
        seconds: of a step; without the exchange of gradients between devices.
    """

    parameters: int
    flops: float
    bytes_weights: int
    bytes_kept: int
    flop_per_second: float
    measured_shape: tuple[int, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _inputs(shape: tuple[int, ...], batch: int, device: str) -> tuple[Tensor, Tensor]:
    x = torch.randn(batch, *shape, device=device)
    return x, torch.full((batch,), 0.5, dtype=torch.float64)


def step_flops(network: nn.Module, shape: tuple[int, ...]) -> float:
    """FLOPs of a training step on one sample; the network must be on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*_inputs(shape, 1, "meta"))
    return 3 * float(counter.get_total_flops())


def kept_bytes(network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes that a forward pass on one sample keeps for the backward pass, maps being of `dtype`.

    The network must be on the meta device. A tensor that several operations keep counts once.
    """
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in weights:
            kept[place] = tensor
        return tensor

    network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = network(*_inputs(shape, 1, "meta"))
    del out
    # Counted in float32, which is what everything on the meta device is here.
    return sum(t.untyped_storage().nbytes() for t in kept.values()) * dtype.itemsize // 4


def _quick_shape(flops: float, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, or images of it at a half, a quarter, ... of the sides."""
    while len(shape) == 3 and flops > QUICK and min(shape[1:]) >= 32:
        shape = (shape[0], shape[1] // 2, shape[2] // 2)
        flops /= 4
    return shape


def _speed(
    network: nn.Module, shape: tuple[int, ...], batch: int, flops: float, precision: str
) -> float:
    """FLOP per second of forward and backward passes, the best of three after one to warm up.

    `flops` are those of the whole batch.
    """
    device = next(network.parameters()).device
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        x, c = _inputs(shape, batch, str(device))
        mixed = precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16) if mixed else own_precision(device):
            out = network(x, c)
        # Reading a number waits for the device.
        out.float().square().mean().backward()
        float(next(p.grad for p in network.parameters() if p.grad is not None).sum())
        best = min(best, time.perf_counter() - began)
    return flops / best


def estimate(
    size: str,
    shape: tuple[int, ...],
    batch: int,
    devices: int = 1,
    device: torch.device | None = None,
    precision: str = "fp32",
    checkpointing: bool = False,
) -> Cost:
    """Estimate the cost of a training step.

    Args:
        size: size of the network, as `make_network` takes it.
        shape: shape of one sample.
        batch: samples a step, over all devices.
        devices: how many share it.
        device: where the speed is measured; the host by default.
        precision: fp32 or bf16.
        checkpointing: recompute blocks in the backward pass: a third more work, less memory.

    Raises:
        ValueError: a shape or size the network cannot have, or fewer than one sample a device.
    """
    if devices < 1 or batch < devices:
        raise ValueError(f"batch={batch}, devices={devices}: need at least one sample a device")
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={precision!r}: choose fp32 or bf16")
    if checkpointing and not RECOMPUTES:
        raise ValueError(
            f"checkpointing: PyTorch {torch.__version__} cannot count it; take 2.5 or newer, or "
            "leave it out"
        )
    with torch.device("meta"):
        plain = make_network("auto", size, data_shape=shape)
        network = make_network("auto", size, data_shape=shape, checkpointing=checkpointing)
    flops = step_flops(plain, shape)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    kept = kept_bytes(network, shape, dtype)
    quick = _quick_shape(flops, shape)
    quick_flops = step_flops(plain, quick)
    real = plain.to_empty(device=device or torch.device("cpu"))
    with torch.no_grad():
        for parameter in real.parameters():
            parameter.normal_(0, 0.02)
    share = math.ceil(batch / devices)
    samples = max(1, min(share, int(QUICK / 2 / quick_flops)))
    speed = _speed(real, quick, samples, samples * quick_flops, precision)
    work = flops * (4 / 3 if checkpointing else 1)
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(
        parameters=parameters,
        flops=work * batch,
        bytes_weights=parameters * BYTES_PER_WEIGHT,
        bytes_kept=kept * share,
        flop_per_second=speed,
        measured_shape=(samples, *quick),
        seconds=work * share / speed,
    )
