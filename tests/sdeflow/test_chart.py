"""Charts are coordinates: round trips, derivatives, and the flow of an exact solution in each."""

import itertools

import pytest
import torch

from sdeflow.chart import CLOCKS, SCALES, Chart, parse_chart
from sdeflow.sde import SDE, make_sde

SDES = [
    make_sde("vp"),
    make_sde("vp", "cosine"),
    make_sde("vp", "trig"),
    make_sde("vp", "linear", 0.1),
    make_sde("subvp"),
    make_sde("ve"),
    make_sde("edm"),
]
T = torch.cat([torch.logspace(-8, -2, 7), torch.linspace(0.05, 0.99, 12)]).double()


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_clock_round_trip_and_rate(sde: SDE, clock: str) -> None:
    chart = Chart(sde, "x", clock)
    tau = chart.tau(T)
    # One rounding of tau moves t by eps |tau| / |d tau/dt|; a few of them.
    slope = chart.rate(T) * sde.wronskian(T)
    slack = 2.0**-52 * (tau.abs() + 1) / slope.abs() + 2.0**-52 * T
    assert bool(((chart.time(tau) - T).abs() <= 64 * slack).all())
    t = T[3:].clone().requires_grad_()
    (d_tau,) = torch.autograd.grad(chart.tau(t).sum(), t)
    # autograd goes through acos-like forms: its own rounding is below 1e-8 here.
    assert torch.allclose(slope[3:], d_tau, rtol=1e-8)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_measure(sde: SDE) -> None:
    for scale, clock in itertools.product(SCALES[1:], CLOCKS):
        chart = Chart(sde, scale, clock)
        t = T[3:].clone().requires_grad_()
        (d_mu,) = torch.autograd.grad(chart.measure(t).sum(), t)
        per_tau = d_mu / (chart.rate(T[3:]) * sde.wronskian(T[3:]))
        assert torch.allclose(chart.measure_rate(T[3:]), per_tau, rtol=1e-8)
    with pytest.raises(ValueError, match="no single prediction"):
        Chart(sde, "x").measure(T)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_scales(sde: SDE) -> None:
    std = torch.sqrt(0.4 * sde.alpha(T) ** 2 + sde.sigma(T) ** 2)
    sizes = {"x": 1 + 0 * T, "x/alpha": sde.alpha(T), "x/sigma": sde.sigma(T), "x/std": std}
    for scale, size in sizes.items():
        chart = Chart(sde, scale)
        assert torch.allclose(chart.state_scale(T), 1 / size)
        assert torch.allclose(chart.weight(T), size)


def test_names_and_errors() -> None:
    sde = make_sde("vp", "trig")
    chart = parse_chart("x/alpha/log-snr", sde)
    assert (chart.scale, chart.clock, chart.name) == ("x/alpha", "log-snr", "x/alpha/log-snr")
    assert parse_chart("x/time", sde).scale == "x"
    for text in ("time", "y/time", "x/clock", "x/alpha"):
        with pytest.raises(ValueError, match=r"chart=|scale=|clock="):
            parse_chart(text, sde)
    with pytest.raises(ValueError, match="infinite at t = 1"):
        Chart(sde, "x", "log-snr").check(1e-3, 1.0)
    Chart(sde, "x/sigma", "signal-ratio").check(1e-3, 1.0)


def test_knee() -> None:
    sde = make_sde("vp")
    chart = parse_chart("x/std/log-linear:0.33", sde)
    assert chart.knee == 0.33
    assert chart.name == "x/std/log-linear:0.33"
    assert parse_chart("x/std/banded", sde).name == "x/std/banded"
    for text, words in [
        ("x/log-snr:1", "drop it"),
        ("x/banded:a", "a number"),
        ("x/banded:2", "inside"),
    ]:
        with pytest.raises(ValueError, match=words):
            parse_chart(text, sde)
