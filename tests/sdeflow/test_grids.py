"""Time grids: both ends exactly, strictly falling, equal steps in their own variable."""

import pytest
import torch

from sdeflow.chart import CLOCKS, Chart
from sdeflow.grids import time_grid
from sdeflow.sde import make_sde

SDES = [make_sde(n) for n in ("vp", "subvp", "ve", "edm")]
SPECS = (*CLOCKS, "karras", "karras:3", "power:2", "tuned")


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_ends_and_order(sde, spec) -> None:
    for steps, t_max, t_min in ((1, 1.0, 1e-3), (7, 0.9, 1e-5), (200, 1.0, 1e-5), (40, 0.1, 0.01)):
        times = time_grid(spec, sde, steps, t_max, t_min)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert times[0] == t_max
        assert times[-1] == t_min
        assert bool((times.diff() < 0).all())


@pytest.mark.parametrize("clock", CLOCKS)
def test_equal_steps_in_the_clock(clock) -> None:
    sde = make_sde("vp")
    tau = Chart(sde, "x", clock).tau(time_grid(clock, sde, 20, 1.0, 1e-3))
    # The round trip through t costs a few roundings of tau, relative to the whole way.
    assert torch.allclose(tau.diff(), (tau[-1] - tau[0]) / 20, rtol=1e-9)


def test_karras_and_power() -> None:
    sde = make_sde("edm")
    rho = torch.exp(-sde.log_snr(time_grid("karras", sde, 10, 1.0, 1e-3)))
    share = torch.linspace(0, 1, 11, dtype=torch.float64)
    ends = rho[[0, -1]] ** (1 / 7)
    # The formula of Karras et al. 2022, equation 5, with its sigma_max and sigma_min.
    assert torch.allclose(rho, (ends[0] + share * (ends[1] - ends[0])) ** 7, rtol=1e-12)
    times = time_grid("power:2", sde, 10, 1.0, 1e-2)
    assert torch.allclose(times.sqrt(), 1 + share * (0.1 - 1), rtol=1e-12)


def test_tuned_spends_a_few_steps_on_high_noise() -> None:
    sde = make_sde("vp")
    counts = [
        int((sde.log_snr(time_grid("tuned", sde, steps, 1.0, 1e-3)) < -2).sum())
        for steps in (10, 20, 40, 80)
    ]
    assert counts == sorted(counts)
    assert counts[0] >= 2
    assert counts[-1] <= 80 / 5


def test_explicit() -> None:
    sde = make_sde("vp")
    times = time_grid("1,0.5,0.001", sde, 99, 1.0, 1e-3)
    assert times.tolist() == [1.0, 0.5, 0.001]


@pytest.mark.parametrize(
    ("spec", "steps", "words"),
    [
        ("log_snr", 10, "choose a clock"),
        ("karras:x", 10, "not a number"),
        ("karras:-1", 10, "must be positive"),
        ("power:0", 10, "must be positive"),
        ("power", 10, "choose a clock"),
        ("1,0.5,0.1", 10, "must run from"),
        ("1,0.5,0.7,0.001", 10, "must fall"),
        ("log-snr", 0, "at least 1 step"),
    ],
)
def test_errors(spec, steps, words) -> None:
    with pytest.raises(ValueError, match=words):
        time_grid(spec, make_sde("vp"), steps, 1.0, 1e-3)


@pytest.mark.parametrize("spec", ["karras", "tuned", "log-snr"])
def test_infinite_at_zero_signal(spec) -> None:
    with pytest.raises(ValueError, match="infinite"):
        time_grid(spec, make_sde("vp", "zero-snr"), 10, 1.0, 1e-3)
