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
from sdeflow.dynamics import ProbabilityFlow
from sdeflow.networks import make_network
from sdeflow.oracle import Gaussian, Oracle, make_oracle
from sdeflow.ratio_measure import chart_measure
from sdeflow.sampling import sample
from sdeflow.sde import make_sde
from sdeflow.shared_time import Told
from solvers import odeint

# Order, and steps that are fine enough for the leading term while errors are far above rounding.
ORDERS = {"heun": (2, 16), "rk4": (4, 8), "ab-2": (2, 32)}


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
