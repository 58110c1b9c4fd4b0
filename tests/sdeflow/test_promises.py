"""What sampling promises in every chart: orders, independence of the batch, edges of sharing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sdeflow.chart import CLOCKS, SCALES, Chart
from sdeflow.conditioning import ETSDM
from sdeflow.denoiser import Denoiser
from sdeflow.dynamics import ProbabilityFlow, ReverseSDE
from sdeflow.networks import make_network
from sdeflow.oracle import Gaussian, Oracle, make_oracle
from sdeflow.ratio_measure import chart_measure
from sdeflow.sampling import sample
from sdeflow.sde import make_sde
from sdeflow.shared_time import Told
from solvers import odeint, sdeint
from tests.solvers.paths import GridPath

# Order, and steps that are fine enough for the leading term while errors are far above rounding.
ORDERS = {"heun": (2, 16), "rk4": (4, 8), "ab-2": (2, 32)}
# The drift of a Gaussian is linear and the noise additive: the terms that limit Rößler's methods
# to 3/2 vanish, and what is left is of order 2.
STRONG_ORDERS = {"euler-maruyama": 1, "stochastic-heun": 1, "sra1": 2, "sra3": 2}


@pytest.mark.parametrize(("scale", "clock"), [*itertools.product(SCALES, CLOCKS)])
def test_order_in_every_chart(scale: str, clock: str) -> None:
    """Equal steps of the chart's clock on an interval on which no clock is stiff."""
    sde = make_sde()
    cov = torch.diag(torch.tensor([0.3, 0.6], dtype=torch.float64))
    oracle = Gaussian(sde, torch.tensor([0.5, -1.0], dtype=torch.float64), covariance=cov)
    start, end = 0.35, 0.15
    x = torch.randn(16, 2, dtype=torch.float64)
    exact = oracle.flow(x, start, end)
    flow = ProbabilityFlow(oracle, Chart(sde, scale, clock), start, end)

    u, measure = flow.to_chart(x, start), None if scale == "x" else chart_measure(flow.chart)
    for method, (order, steps) in ORDERS.items():
        if method == "ab-2" and measure is None:
            continue
        errors = []
        for n in (steps, 2 * steps):
            grid = np.linspace(flow.tau0, flow.tau1, n + 1)
            multistep = method == "ab-2"
            out = odeint(
                flow.prediction if multistep else flow, u, flow.tau0, flow.tau1, method=method,
                grid=grid, measure=measure if multistep else None,
            )  # fmt: skip
            errors.append(float((flow.from_chart(out.y, end) - exact).square().mean().sqrt()))
        assert abs(math.log2(errors[0] / errors[1]) - order) < 0.25, method


@pytest.mark.parametrize(("scale", "clock"), [*itertools.product(SCALES, CLOCKS)])
def test_strong_order_in_every_chart(scale: str, clock: str) -> None:
    """The reverse SDE of a Gaussian on a path that all steps share, against its exact solution.

    The mean m follows the flow, and along a direction of variance v what is left of x - m is

        x_s - m_s = P(s, t) (x_t - m_t) + int P(s, r) g(r) dW_r,
        P(s, t) = alpha_s / alpha_t (v + rho_s^2) / (v + rho_t^2),     rho = sigma / alpha.
    """
    sde, start, end, cells, batch = make_sde(), 0.35, 0.15, 256, 100
    variances = torch.tensor([0.3, 0.6], dtype=torch.float64)
    mean = torch.tensor([0.5, -1.0], dtype=torch.float64)
    oracle = Gaussian(sde, mean, covariance=torch.diag(variances))
    dynamics = ReverseSDE(oracle, Chart(sde, scale, clock), start, end)
    tau0, tau1 = dynamics.tau0, dynamics.tau1
    path = GridPath(batch, (2,), abs(tau1 - tau0), cells, seed=3)
    begun = torch.full((batch,), start, dtype=torch.float64)
    x = sde.perturb(oracle.sample(batch), begun, torch.randn(batch, 2, dtype=torch.float64))

    tau = torch.linspace(tau0, tau1, cells + 1, dtype=torch.float64)
    t = dynamics.time(tau)
    alpha, rho = sde.alpha(t)[:, None], torch.exp(-sde.log_snr(t))[:, None]
    left = alpha[-1] / alpha * (variances + rho[-1] ** 2) / (variances + rho**2)  # P(end, t)
    # The integrand is linear in a cell up to some (1/256)^2 of it.
    kernel = left * (dynamics.diffusion(tau) / dynamics.chart.state_scale(t))[:, None]
    kicks = kernel[:-1, None] * path.dw
    kicks += kernel.diff(dim=0)[:, None] * (path.dw - path.dz / path.cell)
    exact = alpha[-1] * mean + left[0] * (x - alpha[0] * mean) + kicks.sum(0)

    u, begin = dynamics.to_chart(x, start), tau0 if tau1 > tau0 else -tau0
    for method, order in STRONG_ORDERS.items():
        errors = []
        for n in (8, 32):
            out = sdeint(
                dynamics.drift, dynamics.diffusion, u, tau0, tau1, method=method,
                grid=np.linspace(tau0, tau1, n + 1), path=path.rewound(begin),
            )  # fmt: skip
            errors.append(float((dynamics.from_chart(out.y, end) - exact).square().mean().sqrt()))
        # Errors of the two go up and down together: 100 samples settle the order to a few percent.
        assert abs(math.log(errors[0] / errors[1], 4) - order) < 0.25, method


@pytest.mark.parametrize("solver", ["dopri5", "adams"])
def test_batches_matter_less_than_tolerances_to_networks(solver: str) -> None:
    """Matrix products round differently at other batch sizes; no more than that may show."""
    network = make_network("mlp", "tiny", data_shape=(2,))
    for parameter in network.parameters():
        if not parameter.any():  # the last layer starts at 0
            parameter.data = 0.1 * torch.randn_like(parameter)
    # A velocity keeps the states at the size of their start.
    model, noise = Denoiser(network, make_sde(), predict="velocity"), torch.randn(6, 2)
    tolerance = 1e-2
    how = {"solver": solver, "rtol": tolerance, "atol": tolerance}
    whole = sample(model, noise=noise, **how)
    alone = sample(model, noise=noise, batch_size=1, **how)
    order = torch.tensor([4, 0, 5, 2])
    other = sample(model, noise=noise[order], **how)
    # Where an estimate comes close to 1 the steps differ; both are right to some tolerances.
    bound = 5 * tolerance * (1 + whole.x.abs())
    assert bool(((whole.x - alone.x).abs() <= bound).all())
    assert bool(((whole.x[order] - other.x).abs() <= bound[order]).all())


class Watched(Oracle):
    """An oracle that records when it is asked."""

    def __init__(self, of: Oracle) -> None:
        self.of, self.sde, self.breaks, self.times = of, of.sde, of.breaks, []
        self.data_shape = of.data_shape

    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        self.times.append(t)
        return self.of.predict(x, t, wanted, label)


@pytest.mark.parametrize("solver", ["dopri5", "adams", "sra1"])
@pytest.mark.parametrize("chart", ["x/std/log-snr", "x/sigma/log-snr", "x/std/banded"])
def test_no_attempt_straddles_an_edge_of_sharing(solver: str, chart: str) -> None:
    sde = make_sde()
    sharing = ETSDM(sde)
    tolerance = 0.05 if solver == "sra1" else 1e-4
    rejected = {}
    for breaks in (True, False):
        model = Watched(Told(make_oracle("mixture", sde), sharing))
        out = sample(
            model, solver=solver, chart=chart, count=8, rtol=tolerance, atol=tolerance,
            breaks=breaks, dtype=torch.float64,
        )  # fmt: skip
        asked = torch.cat(model.times)
        assert float(asked.min()) >= 1e-3
        assert float(asked.max()) <= 1.0
        times, ends = out.log.extra["time"], out.log.extra["time_end"]
        near = np.zeros(len(times), np.bool_)
        for edge in sharing.edges:
            crosses = (times > edge * (1 + 1e-12)) & (ends < edge * (1 - 1e-12))
            assert not (breaks and crosses.any())
            near |= (times >= edge) & (ends <= edge)
        rejected[breaks] = np.count_nonzero(near & ~out.log.accepted)
    if solver != "sra1":  # whose estimates are ruled by noise
        assert rejected[True] <= rejected[False]
    if solver == "dopri5":
        assert rejected[False] > 0  # the jumps do cost steps where they are not told


@pytest.mark.parametrize("solver", ["dopri5", "adams"])
def test_default_tolerances_are_kept_on_mixtures(solver: str) -> None:
    """The end error is within five times the default tolerance of 1e-3."""
    model = make_oracle("mixture:width=0.1", make_sde())
    noise = torch.randn(64, 2, dtype=torch.float64)
    tight = sample(model, noise=noise, solver="dopri8", rtol=1e-9, atol=1e-9, dtype=torch.float64)
    out = sample(model, noise=noise, solver=solver, dtype=torch.float64)
    error = math.sqrt(float((out.x - tight.x).square().mean()))
    assert error <= 5e-3
