"""Elementary functions: exact values, gradients, and values that do not depend on their place."""

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from sdeflow.chart import CLOCKS, SCALES, Chart
from sdeflow.elementary import angle, cube_root, length, sigmoid, softplus
from sdeflow.schedule import SCHEDULES
from sdeflow.sde import SDE, make_sde

SDES = [
    *(make_sde("vp", name) for name in SCHEDULES),
    make_sde("vp", "linear", 0.1),
    make_sde("subvp"),
    make_sde("ve"),
    make_sde("edm"),
]
EXACT: dict[Callable[[Tensor], Tensor], Callable[[mpmath.mpf], mpmath.mpf]] = {
    softplus: lambda z: mpmath.log(1 + mpmath.exp(z)),
    sigmoid: lambda z: 1 / (1 + mpmath.exp(-z)),
    cube_root: lambda z: mpmath.root(z, 3),
}


@pytest.mark.parametrize("function", EXACT)
def test_values_and_gradients_are_exact(function: Callable[[Tensor], Tensor]) -> None:
    z = torch.linspace(-60, 60, 41, dtype=torch.float64)
    z = z.exp() if function is cube_root else z
    z.requires_grad_()
    value = function(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    with mpmath.workdps(60):
        exact = [EXACT[function](mpmath.mpf(float(v))) for v in z.detach()]
        steep = [mpmath.diff(EXACT[function], mpmath.mpf(float(v))) for v in z.detach()]
    # A few roundings; but the cube root exponentiates a number of at most 20, whose own rounding
    # becomes 20 of the result.
    for found, right in ((value, exact), (slope, steep)):
        wanted = torch.tensor([float(v) for v in right], dtype=torch.float64)
        assert torch.allclose(found, wanted, rtol=32 * 2.0**-52, atol=0)


def test_lengths_and_angles_are_exact() -> None:
    turn = torch.linspace(0, torch.pi / 2, 41, dtype=torch.float64)
    y, x = 0.3 * torch.sin(turn), 0.3 * torch.cos(turn)
    x[-1] = 0
    x.requires_grad_()
    # A length, a quotient and an arc tangent: a few roundings each.
    assert torch.allclose(angle(y, x), torch.atan2(y, x), rtol=8 * 2.0**-52, atol=0)
    assert torch.allclose(length(y, x), torch.hypot(y, x), rtol=4 * 2.0**-52, atol=0)
    (slope,) = torch.autograd.grad(angle(y, x).sum(), x)
    assert torch.allclose(slope, -y / (y**2 + x.detach() ** 2), rtol=16 * 2.0**-52, atol=0)


def same_in_any_place(function: Callable[[Tensor], Tensor], z: Tensor) -> bool:
    """Whether a tensor and its elements one by one have the same values, bit for bit."""
    return torch.equal(function(z), torch.cat([function(v[None]) for v in z]))


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_places_in_the_batch_do_not_matter(sde: SDE) -> None:
    t = torch.linspace(1e-3, 0.999, 301, dtype=torch.float64)
    for function in (sde.alpha, sde.sigma, sde.log_snr, sde.wronskian):
        assert same_in_any_place(function, t), function
    assert same_in_any_place(sde.time_of_log_snr, sde.log_snr(t))
    for scale, clock in [("x", clock) for clock in CLOCKS] + [(s, "time") for s in SCALES]:
        chart = Chart(sde, scale, clock)
        for function in (chart.tau, chart.rate, chart.state_scale):
            assert same_in_any_place(function, t), (scale, clock, function)
        assert same_in_any_place(chart.time, chart.tau(t)), (scale, clock)
