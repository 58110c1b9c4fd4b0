r"""The exact derivative in time of a model's predictions, at fixed x.

A prediction is a(t) x + b(t) F(s(t) x, c(t)), with F the network's output, so

    d pred/dt  =  a' x + b' F + b (dF/dx s' x + dF/dc c')

The part b (dF/dc) c' is what the network does with its condition, and all that E-TSDM can change;
the rest is the process. For VP and a model that predicts what is asked for, it is the whole.

Coefficients and c are differentiated in float64 on the host. The networks of `sdeflow.networks`
are differentiated with dual numbers (`sdeflow.instruments.dual`), every other module with
`torch.func.jvp`. Measured for our U-Nets from tiny to base on one busy core of a CPU, in forward
passes of the same batch: 2.1 to 2.7 for the noise against 3.4 to 7.1 by `torch.func.jvp`, the
larger numbers for 8 images of 8x8 pixels. The other three predictions add some 5 ms, whatever the
batch. Relative error 1e-6 in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..conditioning import ETSDM, Conditioning
from ..denoiser import Denoiser, Predictor, convert
from ..elementary import length
from ..guidance import Around, Guided, innermost
from ..networks import MLP, UNet
from ..precision import own_precision
from ..sde import like
from ..shared_time import Told
from ..super_resolution import Paired
from .dual import Dual

__all__ = ["TimeDerivative", "differentiable", "precise", "predictions", "push", "state_of",
           "time_derivative"]  # fmt: skip


@dataclass(frozen=True)
class TimeDerivative:
    """A prediction and its derivative in time at fixed x; all like x.

    Attributes:
        value: the prediction.
        total: d pred/dt.
        condition: the part through the condition alone; None for a model that has none.
    """

    value: Tensor
    total: Tensor
    condition: Tensor | None


def precise(model: Predictor) -> Predictor:
    """The model with weights of at least float32: itself, or a copy if some are of 16 bits."""
    if isinstance(model, Around):
        of = precise(model.of)
        return model if of is model.of else model.around(of)
    if isinstance(model, nn.Module) and any(p.element_size() < 4 for p in model.parameters()):
        return copy.deepcopy(model).float()
    return model


def state_of(model: Predictor) -> tuple[torch.dtype, torch.device]:
    """Precision and device to measure in: those of the weights; float64, host for exact models."""
    model = innermost(model)
    if isinstance(model, nn.Module):
        for parameter in model.parameters():
            return parameter.dtype, parameter.device
    return torch.float64, torch.device("cpu")


@contextmanager
def differentiable(device: torch.device) -> Iterator[None]:
    """Inside: no autocast, and attention by kernels that have derivatives of both modes."""
    with own_precision(device), sdpa_kernel(SDPBackend.MATH):
        yield


def predictions(
    model: Predictor, x: Tensor, t: Tensor, wanted: Iterable[str], label: Tensor | None = None
) -> dict[str, Tensor]:
    """Several predictions at (x, t), with one pass of the network.

    Args:
        model: the model.
        x: samples, (B, ...).
        t: times, (B,) float64 on the host.
        wanted: out of `sdeflow.denoiser.PREDICTIONS`.
        label: classes (B,), or None.
    """
    if not isinstance(model, Denoiser):
        return {name: model.predict(x, t, name, label) for name in wanted}
    out = model.raw(x, t, label).to(x.dtype)
    found = {}
    for name in wanted:
        a, b = _coefficients(model, name)(t)
        found[name] = torch.addcmul(like(b, x) * out, like(a, x), x)
    return found


def time_derivative(
    model: Predictor, x: Tensor, t: Tensor, wanted: Iterable[str], label: Tensor | None = None
) -> dict[str, TimeDerivative]:
    """The derivative in time of several predictions, at fixed x.

    Inside a sub-interval of E-TSDM the part through the condition is 0; at an edge it is the
    derivative from the right, and the jump is another quantity.

    Args:
        model: a `Denoiser`, guided or not, an oracle, or another predictor whose `predict`
            computes with t itself (a copy made by `detach` would have no derivative).
        x: samples, (B, ...), of the model's own dtype.
        t: times, (B,) float64 on the host.
        wanted: out of `sdeflow.denoiser.PREDICTIONS`.
        label: classes (B,), or None.

    Raises:
        ValueError: the network uses an operation that torch cannot differentiate forward.
    """
    with torch.no_grad(), differentiable(x.device):
        try:
            return _derivatives(model, x, t, tuple(wanted), label)
        except NotImplementedError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"the model has no exact derivative in time ({reason}): measure finite steps only"
            ) from error


def _derivatives(
    model: Predictor,
    x: Tensor,
    t: Tensor,
    wanted: tuple[str, ...],
    label: Tensor | None,
    image: Tensor | None = None,
) -> dict[str, TimeDerivative]:
    if isinstance(model, Denoiser):
        return _of_denoiser(model, x, t, wanted, label, image)
    if isinstance(model, Told):
        return _of_told(model, x, t, wanted, label)
    if isinstance(model, Guided):
        return _of_guided(model, x, t, wanted, label, image)
    if isinstance(model, Paired):
        return _derivatives(model.of, x, t, wanted, *model.given_to(x, label))
    return {name: _of_any(model, x, t, name, label) for name in wanted}


def push(f: Callable[..., Any], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Any:
    """f(at) and its derivative there along a direction, by `torch.func.jvp`."""
    return torch.func.jvp(f, at, along)


def _along(f: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) and f'(t) of a function of each time by itself."""
    value, slope = push(f, (t,), (torch.ones_like(t),))
    return value, slope


def _condition(conditioning: Conditioning, t: Tensor) -> tuple[Tensor, Tensor]:
    """c(t) and c'(t)."""
    if not isinstance(conditioning, ETSDM):
        return _along(conditioning, t)
    told, moved = _along(conditioning.shared_time, t)
    c, slope = _along(conditioning.of, told)
    # Where time stands still c does too, however steep it is there: sigma' is infinite at 0.
    return c, torch.where(moved == 0, 0.0, slope * moved)


def _coefficients(model: Denoiser, wanted: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """t -> (a, b) with wanted = a x + b F."""

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = convert(model.sde, t, model.prediction, wanted)
        return a, b * model.output_scale(t)

    return at


def _of_denoiser(
    model: Denoiser,
    x: Tensor,
    t: Tensor,
    wanted: Iterable[str],
    label: Tensor | None,
    image: Tensor | None,
) -> dict[str, TimeDerivative]:
    c, dc = _condition(model.conditioning, t)
    if getattr(model.network, "condition_dtype", None) is not torch.float64:
        c, dc = (a.to(x.dtype).to(x.device) for a in (c, dc))
    fed, dx = x, None
    if model.scale_input and not model.sde.variance_preserving:
        sde = model.sde
        scale, slope = _along(lambda t: 1 / length(sde.alpha(t), sde.sigma(t)), t)
        fed, dx = like(scale, x) * x, like(slope, x) * x
    rest = (label,) if image is None else (label, image)
    out, told = _of_network(model.network, fed, None, c, dc, *rest)
    whole = told if dx is None else _of_network(model.network, fed, dx, c, dc, *rest)[1]
    found = {}
    for name in wanted:
        if name == model.prediction and model.sde.variance_preserving:
            found[name] = TimeDerivative(out, whole, told)
            continue
        (a, b), (da, db) = push(_coefficients(model, name), (t,), (torch.ones_like(t),))
        a, b, da, db = (like(k, x) for k in (a, b, da, db))
        through = b * told
        moved = through if dx is None else b * whole
        found[name] = TimeDerivative(a * x + b * out, da * x + db * out + moved, through)
    return found


def _of_network(
    network: nn.Module,
    x: Tensor,
    dx: Tensor | None,
    c: Tensor,
    dc: Tensor,
    label: Tensor | None,
    *image: Tensor,
) -> tuple[Tensor, Tensor]:
    """F(x, c) and its derivative along (dx, dc), both in x's dtype."""
    rest = () if label is None and not image else (label, *image)
    if isinstance(network, (UNet, MLP)):
        out = network(x if dx is None else Dual.of(x, dx), Dual.of(c, dc), *rest)
        return out.value.to(x.dtype), out.tangent.to(x.dtype)
    dx = torch.zeros_like(x) if dx is None else dx
    out, moved = push(lambda x, c: network(x, c, *rest), (x, c), (dx, dc))
    return out.to(x.dtype), moved.to(x.dtype)


def _of_told(
    model: Told, x: Tensor, t: Tensor, wanted: Iterable[str], label: Tensor | None
) -> dict[str, TimeDerivative]:
    """An oracle asked at c(t): the chain rule, with no 0 times infinity where c stands still."""
    c, slope = _condition(model.conditioning, t)
    noise = model.of.predict(x, c, "noise", label)
    moved = torch.zeros_like(x)
    rows = (slope != 0).nonzero()[:, 0]
    if len(rows):
        part = None if label is None else label[rows]
        at = _of_any(model.of, x[rows], c[rows], "noise", part).total
        moved[rows] = like(slope[rows], at) * at
    found = {}
    for name in wanted:
        (a, b), (da, db) = push(
            lambda t, name=name: convert(model.sde, t, "noise", name), (t,), (torch.ones_like(t),)
        )
        a, b, da, db = (like(k, x) for k in (a, b, da, db))
        found[name] = TimeDerivative(a * x + b * noise, da * x + db * noise + b * moved, b * moved)
    return found


def _of_guided(
    model: Guided,
    x: Tensor,
    t: Tensor,
    wanted: tuple[str, ...],
    label: Tensor | None,
    image: Tensor | None,
) -> dict[str, TimeDerivative]:
    """Guidance is linear in the two predictions, so it is in their derivatives."""
    label = model.labels(x, label)
    if label is None or model.guidance == 1:
        return _derivatives(model.of, x, t, wanted, label, image)
    nothing = torch.full_like(label, model.null)
    labelled = _derivatives(model.of, x, t, wanted, label, image)
    plain = _derivatives(model.of, x, t, wanted, nothing, image)

    def mix(low: Tensor | None, high: Tensor | None) -> Tensor | None:
        return None if low is None or high is None else torch.lerp(low, high, model.guidance)

    found = {}
    for name in wanted:
        low, high = plain[name], labelled[name]
        value = torch.lerp(low.value, high.value, model.guidance)
        total = torch.lerp(low.total, high.total, model.guidance)
        found[name] = TimeDerivative(value, total, mix(low.condition, high.condition))
    return found


def _of_any(
    model: Predictor, x: Tensor, t: Tensor, wanted: str, label: Tensor | None
) -> TimeDerivative:
    value, moved = push(lambda t: model.predict(x, t, wanted, label), (t,), (torch.ones_like(t),))
    return TimeDerivative(value, moved, None)
