"""The flow and the reverse SDE in every chart, against the Gaussian's closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from sdeflow.chart import CLOCKS, SCALES, Chart
from sdeflow.conditioning import ETSDM
from sdeflow.dynamics import ProbabilityFlow, ReverseSDE
from sdeflow.oracle import Gaussian, make_oracle
from sdeflow.ratio_measure import chart_measure
from sdeflow.sde import SDE, like, make_sde
from sdeflow.shared_time import Told

SDES = [make_sde(), make_sde("vp", "cosine"), make_sde("subvp"), make_sde("ve"), make_sde("edm")]
CHARTS = list(itertools.product(SCALES, CLOCKS))
T = torch.tensor([1e-3, 0.05, 0.3, 0.6, 0.9], dtype=torch.float64)


def gaussian(sde: SDE) -> Gaussian:
    cov = torch.tensor([[1.0, 0.3], [0.3, 0.2]], dtype=torch.float64)
    return Gaussian(sde, torch.tensor([0.4, -0.7], dtype=torch.float64), covariance=cov)


def state(oracle: Gaussian) -> torch.Tensor:
    noise = torch.randn(len(T), 2, dtype=torch.float64)
    return oracle.sde.perturb(oracle.sample(len(T)), T, noise)


@pytest.mark.parametrize(("scale", "clock"), CHARTS)
@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_flow_is_the_derivative_of_the_closed_form(sde: SDE, scale: str, clock: str) -> None:
    oracle, chart = gaussian(sde), Chart(sde, scale, clock)
    x, h = state(oracle), 1e-4

    def u(t: torch.Tensor) -> torch.Tensor:
        return like(chart.state_scale(t), x) * oracle.flow(x, T, t)

    def difference(f, t: torch.Tensor) -> torch.Tensor:
        # Fourth order in h relative to t: error about h^4, rounding about 1e-15 / h.
        near, far = f(t * (1 + h)) - f(t * (1 - h)), f(t * (1 + 2 * h)) - f(t * (1 - 2 * h))
        return 8 * near - far

    exact = difference(u, T) / difference(chart.tau, T)[:, None]
    flow = ProbabilityFlow(oracle, chart, 0.999, 1e-4)
    got = flow(chart.tau(T), u(T))
    size = u(T).abs() / (T * chart.rate(T).abs() * sde.wronskian(T))[:, None]
    assert bool(((got - exact).abs() <= 1e-9 * size + 1e-9 * exact.abs()).all())
    # With eta = 0 the SDE is the flow, through the other formula.
    drift = ReverseSDE(oracle, chart, 0.999, 1e-4, eta=0).drift(chart.tau(T), u(T))
    tiny = ReverseSDE(oracle, chart, 0.999, 1e-4, eta=1e-12).drift(chart.tau(T), u(T))
    assert torch.equal(drift, got)
    assert bool(((tiny - got).abs() <= 1e-8 * size + 1e-9 * got.abs()).all())
    if scale != "x":
        rate = torch.from_numpy(chart_measure(chart).density(chart.tau(T).numpy()))
        assert torch.allclose(flow.prediction(chart.tau(T), u(T)) * rate[:, None], got, rtol=1e-9)


@pytest.mark.parametrize(("scale", "clock"), CHARTS)
@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_reverse_sde_keeps_the_marginals(sde: SDE, scale: str, clock: str) -> None:
    """A linear drift A u + b and diffusion d give dC/dtau = A C + C A^T -/+ d^2 I, dm = A m + b.

    Running towards t = 0 the noise adds variance: with tau falling, C falls less by d^2.
    """
    oracle, chart = gaussian(sde), Chart(sde, scale, clock)
    dynamics = ReverseSDE(oracle, chart, 0.999, 1e-4, eta=0.7)
    for time in T.tolist():
        t = torch.tensor([time], dtype=torch.float64)
        tau, s = chart.tau(t), chart.state_scale(t)

        def drift(u: torch.Tensor, tau: torch.Tensor = tau) -> torch.Tensor:
            return dynamics.drift(tau.expand(len(u)), u)

        zero = drift(torch.zeros(1, 2, dtype=torch.float64))
        matrix = (drift(torch.eye(2, dtype=torch.float64)) - zero).T

        def moments(t: float) -> tuple[torch.Tensor, torch.Tensor]:
            mean, cov = oracle.moments(t)
            size = float(chart.state_scale(torch.tensor(t, dtype=torch.float64)))
            return mean * size, cov * size**2

        h = 1e-4
        d_tau = float(chart.tau(t * (1 + h)) - chart.tau(t * (1 - h)))
        up, down = moments(time * (1 + h)), moments(time * (1 - h))
        mean, cov = moments(time)
        sign = 1.0 if dynamics.tau1 > dynamics.tau0 else -1.0
        noise = sign * float(dynamics.diffusion(tau)) ** 2 * torch.eye(2)
        d_mean = matrix @ mean + zero[0]
        d_cov = matrix @ cov + cov @ matrix.T + noise
        # Second-order differences: relative error h^2 of each term's size.
        size_m, size_c = (
            float(s) * 2 / abs(d_tau / (2 * h)),
            float(s**2) * 2 / abs(d_tau / (2 * h)),
        )
        size_c *= 1 + float(sde.sigma(time)) ** 2
        size_m *= 1 + float(sde.sigma(time))
        assert torch.allclose((up[0] - down[0]) / d_tau, d_mean, atol=1e-6 * size_m, rtol=1e-5)
        assert torch.allclose((up[1] - down[1]) / d_tau, d_cov, atol=1e-6 * size_c, rtol=1e-5)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(("start", "end"), [(1.0, 1e-5), (1e-5, 1.0)])
def test_times_stay_on_the_right_side_of_every_break(clock: str, start: float, end: float) -> None:
    sde = make_sde()
    sharing = ETSDM(sde)
    oracle = Told(make_oracle("mixture", sde), sharing)
    flow = ProbabilityFlow(oracle, Chart(sde, "x", clock), start, end)
    assert len(flow.breaks) == 5
    towards = math.inf if flow.tau1 > flow.tau0 else -math.inf
    edges = sharing.edges if start < end else sharing.edges[::-1]
    for tau, edge in zip(flow.breaks, edges, strict=True):
        before, at, after = (
            float(flow.time(torch.tensor([v], dtype=torch.float64)))
            for v in (np.nextafter(tau, -towards), tau, np.nextafter(tau, towards))
        )
        if start > end:  # coming from above: the edge itself still belongs to what was left
            assert before >= edge
            assert at >= edge
            assert after < edge
        else:
            assert before < edge
            assert at < edge
            assert after >= edge
    ends = flow.time(torch.tensor([flow.tau0, flow.tau1], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([start, end], rel=1e-12)
    assert float(ends.min()) >= 1e-5
    assert float(ends.max()) <= 1.0
    plain = ProbabilityFlow(oracle, Chart(sde, "x", clock), start, end, breaks=False)
    assert plain.breaks == ()


def test_weight_undoes_the_scale() -> None:
    sde = make_sde()
    for scale in SCALES:
        chart = Chart(sde, scale, "log-snr")
        flow = ProbabilityFlow(make_oracle("gaussian", sde), chart, 1.0, 1e-3)
        x = torch.randn(len(T), 2, dtype=torch.float64)
        u = like(chart.state_scale(T), x) * x
        weight = torch.from_numpy(flow.weight(chart.tau(T).numpy()))
        assert torch.allclose(u * weight[:, None], x)
        assert torch.allclose(flow.from_chart(flow.to_chart(x, 0.3), 0.3), x)


def test_bad_arguments() -> None:
    trig = make_sde("vp", "trig")
    oracle = make_oracle("gaussian", trig)
    chart = Chart(trig, "x", "angle")
    for make, message in [
        (lambda: ProbabilityFlow(oracle, chart, 0.5, 0.5), "empty"),
        (lambda: ProbabilityFlow(oracle, Chart(trig, "x", "log-snr"), 1.0, 0.1), "infinite"),
        (lambda: ReverseSDE(oracle, chart, 1.0, 0.1), "alpha is 0"),
        (lambda: ReverseSDE(oracle, chart, 0.1, 0.9), "towards 0"),
        (lambda: ReverseSDE(oracle, chart, 0.9, 0.1, eta=-1.0), "eta=-1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
