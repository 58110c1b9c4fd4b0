"""Models on a device that is not the host and has no float64 (`pretended`): all that is done.

All but what needs `torch.func` for the network itself (steepness in x, per-sample gradients): it
does not take tensors that are pretended.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pretended import Pretended, pretending
from torch import Tensor, nn

from sdeflow.conditioning import ETSDM, Time
from sdeflow.denoiser import Denoiser
from sdeflow.instruments.budget import error_budget
from sdeflow.instruments.likelihood import data_likelihood
from sdeflow.instruments.lipschitz import lipschitz_study
from sdeflow.instruments.partition_study import partition_study
from sdeflow.instruments.sensitivity import sensitivity_study
from sdeflow.instruments.step_sizes import Setting, step_study
from sdeflow.networks import make_network
from sdeflow.precision import in_float64, own_precision
from sdeflow.sampling import encode, sample
from sdeflow.sde import make_sde

SDE = make_sde("vp")
SHAPES = {"points": (2,), "images": (1, 8, 8)}


def model(shape: tuple[int, ...], **more: Any) -> Denoiser:
    """A network with weights that are not zero, told a shared time, of three classes."""
    network = make_network(size="tiny", data_shape=shape, num_classes=3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    made = Denoiser(network, SDE, ETSDM(SDE, threshold=0.1, intervals=2), **more)
    return made.requires_grad_(False).eval()


def numbers(found: Any) -> list[float]:
    """All numbers in a result, in order."""
    if isinstance(found, dict):
        return [n for value in found.values() for n in numbers(value)]
    if isinstance(found, (list, tuple)):
        return [n for value in found for n in numbers(value)]
    if isinstance(found, (Tensor, np.ndarray)):
        return numbers(found.tolist())
    return [float(found)] if isinstance(found, (int, float)) else []


def everywhere(work: Callable[[Denoiser], Any], of: Denoiser) -> tuple[list[float], list[float]]:
    """What `work` finds on the host and on the device."""
    here = numbers(work(of))
    with pretending() as device:
        there = numbers(work(copy.deepcopy(of).to(device)))
    assert len(there) == len(here) > 0
    return here, there


def close(here: list[float], there: list[float], rtol: float = 1e-4) -> None:
    """Equal up to the rounding of float32 in attention and convolutions, which differ."""
    largest = max(abs(x) for x in here if np.isfinite(x))
    np.testing.assert_allclose(there, here, rtol=rtol, atol=rtol * largest)


CONTROL = {"rtol": 1e-2, "atol": 1e-2}
SAMPLING: dict[str, dict[str, Any]] = {
    "dopri5": {**CONTROL, "trajectory": torch.tensor([0.5, 0.1])},
    "dopri5 guided": {"solver": "dopri5", **CONTROL, "guidance": 2.0},
    "adams": CONTROL,
    "sra1": {**CONTROL, "final": "denoise"},
    "ddim": {"steps": 4, "eta": 1.0},
    "unipc-3": {"steps": 4, "final": "zero"},
    "tuned": {"steps": 4, "batch_size": 2},
    "heun-edm-churn": {"steps": 4},
    "pc": {"steps": 4},
    "dpmpp-2m-sde": {"steps": 4, "final": "denoise"},
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("points", name) for name in SAMPLING), ("images", "dopri5 guided"), ("images", "unipc-3")],
)
def test_sampling(kind: str, name: str) -> None:
    how = {"solver": name.split()[0], "label": torch.tensor([0, 1, 2]), **SAMPLING[name]}

    def work(of: Denoiser) -> Any:
        found = sample(of, SHAPES[kind], count=3, **how)
        assert isinstance(found.x, Pretended) is (next(of.parameters()).device.type != "cpu")
        return found.log.steps, found.to_host().x, found.to_host().trajectory

    close(*everywhere(work, model(SHAPES[kind])))


def test_likelihood() -> None:
    x = torch.randn(3, 2)

    def work(of: Denoiser) -> Any:
        found = data_likelihood(of, x, rtol=1e-3, atol=1e-3, t_min=1e-1, label=1)
        latent = encode(of, x, label=1, rtol=1e-3, atol=1e-3)
        return found.value, found.prior, found.reconstruction, latent.x

    # An attempt at the edge of the tolerance may be taken on one device and not on the other; each
    # result is right to about five times the tolerance.
    close(*everywhere(work, model((2,))), rtol=2 * 5 * 1e-3)


INSTRUMENTS: dict[str, Callable[..., Any]] = {
    "lipschitz": lambda of, x, label: lipschitz_study(
        of, x, [0.05, 0.3], label=label, count=4, batch_size=3
    ).curve,
    "sensitivity": lambda of, x, label: sensitivity_study(
        of, x, (0.05,), perturb=("x", "condition"), samples=True, steps=3, label=label, count=4
    ).rows,
    "partition": lambda of, x, label: [
        row["mean"] for row in partition_study(of.told(Time()), x, intervals=2, label=label,
                                               count=4, t_min=1e-2).jumps
    ],
    "steps": lambda of, x, label: step_study(
        of, [Setting("dopri5", None, 1e-2)], tuple(x.shape[1:]), count=2, label=0,
        reference_tolerance=1e-2,
    ).table()[0]["error"],
    "budget": lambda of, x, label: error_budget(
        of, tuple(x.shape[1:]), solver="ddim", steps=4, bins=2, count=2, label=0,
        reference_tolerance=1e-2,
    ).to_dict(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("points", name) for name in INSTRUMENTS), ("images", "lipschitz")],
)
def test_instruments(kind: str, name: str) -> None:
    x, label = torch.randn(4, *SHAPES[kind]), torch.tensor([0, 1, 2, 0])
    close(*everywhere(lambda of: INSTRUMENTS[name](of, x, label), model(SHAPES[kind])), rtol=1e-3)


def test_float64_where_the_device_lacks_it() -> None:
    of = model((2,))
    assert next(in_float64(of).parameters()).dtype is torch.float64
    assert next(of.parameters()).dtype is torch.float32
    with pretending() as device:
        there = in_float64(copy.deepcopy(of).to(device))
        parameter = next(there.parameters())
        assert (parameter.dtype, parameter.device.type) == (torch.float64, "cpu")


@pytest.mark.parametrize("name", ["cpu", "meta", "mps", "cuda"])
def test_own_precision_takes_any_device(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16), own_precision(torch.device(name)):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is (torch.float32 if name == "cpu" else torch.bfloat16)
