"""`sdeflow plan`: what a training step would cost."""

from __future__ import annotations

import click

from sdeflow.cli.options import common, emit
from sdeflow.config import SIZES

UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def _shape(_: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    parts = text.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r}: give sizes such as 3x256x256 or 2", param=parameter)
    return tuple(map(int, parts))


def _short(value: float) -> str:
    for unit, factor in UNITS:
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} "


@click.command("plan")
@click.option(
    "--size", type=click.Choice(SIZES), default="auto", show_default=True,
    help="Size of the network.",
)  # fmt: skip
@click.option(
    "--data-shape", default="3x256x256", callback=_shape, show_default=True,
    help="Shape of one sample: channels x height x width, or features.",
)  # fmt: skip
@click.option("--batch", default=128, show_default=True, help="Samples a step, on all devices.")
@click.option("--devices", default=1, show_default=True, help="Equal devices that share a step.")
@click.option("--device", default="auto", show_default=True, help="Where speed is measured.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), default="bf16", show_default=True,
    help="Arithmetic inside the network.",
)  # fmt: skip
@click.option(
    "--checkpointing", is_flag=True, show_default=True,
    help="Recompute blocks in the backward pass.",
)  # fmt: skip
@common
def command(
    size: str,
    data_shape: tuple[int, ...],
    batch: int,
    devices: int,
    device: str,
    precision: str,
    checkpointing: bool,
    as_json: bool,
) -> None:
    """Estimate what a training step costs: parameters, FLOPs, memory, time.

    FLOPs and memory are counted; time follows from a short measurement on the present device, at
    a lower resolution where the step is a long one. The exchange of gradients is left out.

    Example: `sdeflow plan --size paper --data-shape 3x256x256 --batch 128 --devices 8`.
    """
    from sdeflow.cost import estimate
    from sdeflow.training.plan import device_of

    where = device_of(device)
    cost = estimate(size, data_shape, batch, devices, where, precision, checkpointing)
    memory = cost.bytes_weights + cost.bytes_kept
    measured = "x".join(map(str, cost.measured_shape))
    lines = (
        f"parameters   {_short(cost.parameters)}",
        f"step         {_short(cost.flops)}FLOP for {batch} samples",
        f"memory       {_short(memory)}B a device: {_short(cost.bytes_weights)}B of weights, "
        f"gradients, optimiser and average, {_short(cost.bytes_kept)}B kept for the backward pass "
        "(counted, without workspace)",
        f"time         {cost.seconds:.3g} s a step on {devices} such devices (extrapolated, "
        "without the exchange of gradients)",
        f"speed        {_short(cost.flop_per_second)}FLOP/s on {where}, measured on {measured} in "
        f"{precision}",
    )
    emit(cost.to_dict(), as_json, "\n".join(lines))
