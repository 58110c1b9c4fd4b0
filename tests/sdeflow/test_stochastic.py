"""Chains of random transitions: closed forms, moments, and independence of the batch."""

import math

import numpy as np
import pytest
import torch

from sdeflow import make_sde, sample
from sdeflow.grids import time_grid
from sdeflow.oracle import Gaussian
from sdeflow.stochastic import CHAINS, ddim_weights, dpmpp_sde_weights, run_chain
from solvers import Status, sample_seeds

MEAN, VARIANCE = 0.8, 0.25


def gaussian(dimension: int = 1) -> Gaussian:
    mean = torch.full((dimension,), MEAN, dtype=torch.float64)
    return Gaussian(make_sde("vp"), mean, width=math.sqrt(VARIANCE))


def predicted_moments(model: Gaussian, rule, eta: float, times: torch.Tensor, two: bool):
    """Mean and variance of the chain on a one-dimensional Gaussian, in closed form.

    The data prediction is g x + m with known g, m, so that (x, last prediction) is an affine
    Gaussian recursion; with one point the second entry is not used.
    """
    sde = model.sde
    alpha, sigma, lam = (f(times).tolist() for f in (sde.alpha, sde.sigma, sde.log_snr))
    state, cov = np.array([0.0, 0.0]), np.diag([1.0, 0.0])
    before = None
    for i in range(len(times) - 1):
        spread = alpha[i] ** 2 * VARIANCE + sigma[i] ** 2
        g = alpha[i] * VARIANCE / spread
        m = MEAN - g * alpha[i] * MEAN
        h = lam[i + 1] - lam[i]
        a, b, c = rule(h, alpha[i + 1], sigma[i + 1] / sigma[i], sigma[i + 1], eta)
        weight = 0.5 * h / before if two and before is not None else 0.0
        # (x, old) -> (a x + b [(1 + w)(g x + m) - w old] + c z, g x + m)
        matrix = np.array([[a + b * (1 + weight) * g, -b * weight], [g, 0.0]])
        state = matrix @ state + np.array([b * (1 + weight) * m, m])
        cov = matrix @ cov @ matrix.T + np.diag([c * c, 0.0])
        before = h
    return state[0], cov[0, 0]


CASES = [
    ("ddim", ddim_weights, 0.0, False),
    ("ddim", ddim_weights, 0.5, False),
    ("ddim", ddim_weights, 1.0, False),
    ("dpmpp-sde", dpmpp_sde_weights, 1.0, False),
    ("dpmpp-sde", dpmpp_sde_weights, 0.6, False),
    ("dpmpp-2m-sde", dpmpp_sde_weights, 1.0, True),
    ("dpmpp-2m-sde", dpmpp_sde_weights, 1.3, True),
]


@pytest.mark.parametrize(("name", "rule", "eta", "two"), CASES)
def test_moments_with_few_steps_in_closed_form(name, rule, eta, two) -> None:
    model, count = gaussian(), 40_000
    times = time_grid("log-snr", model.sde, 6, 1.0, 1e-2)
    mean, variance = predicted_moments(model, rule, eta, times, two)
    out = run_chain(
        model, name, torch.randn(count, 1, dtype=torch.float64), times, sample_seeds(1, count),
        eta=eta,
    )  # fmt: skip
    # Five standard errors of a sample mean and a sample variance.
    assert abs(float(out.y.mean()) - mean) < 5 * math.sqrt(variance / count)
    assert abs(float(out.y.var()) - variance) < 5 * variance * math.sqrt(2 / count)


@pytest.mark.parametrize(("name", "rule", "eta", "two"), CASES)
def test_moments_converge_to_the_data(name, rule, eta, two) -> None:
    model = gaussian()
    mean, cov = model.moments(1e-2)
    errors = []
    for steps in (200, 400):
        times = time_grid("log-snr", model.sde, steps, 1.0, 1e-2)
        got = predicted_moments(model, rule, eta, times, two)
        errors.append(abs(got[1] - float(cov)))
        # The start, a standard normal, is off by alpha(1) MEAN, which the chain scales down.
        assert abs(got[0] - float(mean)) < 0.01
    # First order at least: the error of the variance at least halves, to within 0.25 of it, or
    # is that of the start (alpha(1)^2 times the variance) already.
    assert math.log2(errors[0] / errors[1]) > 0.75 or errors[1] < 1e-4


def test_ancestral_is_the_posterior_of_constant_data() -> None:
    # For data at one point the chain is exact: every x_t has the law of the forward process.
    model = Gaussian(make_sde("vp"), torch.zeros(1, dtype=torch.float64) + MEAN, width=0.0)
    sde = model.sde
    times = time_grid("time", sde, 3, 1.0, 0.1)
    alpha, sigma, lam = (f(times).tolist() for f in (sde.alpha, sde.sigma, sde.log_snr))
    mean, variance = alpha[0] * MEAN, sigma[0] ** 2
    for i in range(3):
        h, ratio = lam[i + 1] - lam[i], sigma[i + 1] / sigma[i]
        a, b, c = ddim_weights(h, alpha[i + 1], ratio, sigma[i + 1], 1.0)
        assert dpmpp_sde_weights(h, alpha[i + 1], ratio, sigma[i + 1], 1.0) == pytest.approx(
            (a, b, c), rel=1e-12
        )
        mean, variance = a * mean + b * MEAN, a * a * variance + c * c
        assert mean == pytest.approx(alpha[i + 1] * MEAN, rel=1e-13)
        assert variance == pytest.approx(sigma[i + 1] ** 2, rel=1e-13)


@pytest.mark.parametrize(
    ("solver", "options"), [("heun-edm-churn", {"steps": 60}), ("pc", {"steps": 100})]
)
def test_moments_of_the_others(solver, options) -> None:
    model, count = gaussian(2), 10_000
    out = sample(model, solver=solver, count=count, t_min=1e-2, dtype=torch.float64, **options)
    mean, cov = model.moments(1e-2)
    scale = float(cov[0, 0])
    # Five standard errors, and 2 % for the bias of the steps (Langevin's is of order snr^2).
    slack = 5 * math.sqrt(scale / count) + 0.02
    assert bool(((out.x.mean(0) - mean).abs() < slack).all())
    slack = 5 * scale * math.sqrt(2 / count) + 0.04 * scale
    assert bool(((out.x.T.cov() - cov).abs() < slack).all())


def test_without_noise_heun_edm_is_heun() -> None:
    model, noise = gaussian(2), torch.randn(4, 2, dtype=torch.float64)
    options = {"noise": noise, "steps": 9, "dtype": torch.float64, "grid": "karras"}
    a = sample(model, solver="heun-edm", **options).x
    b = sample(model, solver="heun", chart="x/alpha/noise-ratio", **options).x
    # The same arithmetic in another order, on u = x/alpha of size 150.
    assert torch.allclose(a, b, rtol=0, atol=150 * 100 * 2.0**-52)


@pytest.mark.parametrize("name", list(CHAINS))
def test_a_sample_does_not_depend_on_its_batch(name, device) -> None:
    model = gaussian(2)
    times = time_grid("log-snr", model.sde, 5, 1.0, 1e-2)
    x, seeds = torch.randn(6, 2, dtype=torch.float64), sample_seeds(3, 6)
    options = {"eta": 0.0 if name == "heun-edm" else 1.0, "churn": 2.0}
    whole = run_chain(model, name, x, times, seeds, **options)
    alone = run_chain(model, name, x[4:5], times, seeds[4:5], **options)
    turned = run_chain(model, name, x.flip(0), times, seeds.flip(0), **options)
    assert torch.equal(whole.y[4:5], alone.y)
    assert torch.equal(whole.y, turned.y.flip(0))
    again = run_chain(model, name, x, times, seeds + 1, **options)
    assert not torch.equal(whole.y, again.y)


class Broken(Gaussian):
    """NaN for the samples beyond 2 at late times."""

    def predict(self, x, t, wanted, label=None):
        out = super().predict(x, t, wanted, label)
        late = (t < 0.5)[:, None].to(x.device) & (x[:, :1] > 1.0)
        return torch.where(late, math.nan, out)


def test_log_status_and_compaction() -> None:
    sde = make_sde("vp")
    model = Broken(sde, torch.zeros(1, dtype=torch.float64), width=1.0)
    times = time_grid("time", sde, 10, 1.0, 1e-3)
    x = torch.tensor([[0.1], [5.0], [-0.3]], dtype=torch.float64)
    out = run_chain(model, "ddim", x, times, sample_seeds(0, 3), points=times[[0, 3, 10]])
    assert [Status(s).name for s in out.status] == ["ok", "non_finite", "ok"]
    good = run_chain(model, "ddim", x[[0, 2]], times, sample_seeds(0, 3)[[0, 2]])
    assert torch.equal(out.y[[0, 2]], good.y)
    assert out.log.calls == 10
    assert out.log.evaluations[0] == 10
    assert out.t[0] == times[-1]
    assert 0.4 <= out.t[1] <= 0.5
    dt = np.bincount(out.log.sample, out.log.dt * out.log.accepted, minlength=3)
    assert np.allclose(dt + 1.0, out.t, rtol=0, atol=1e-12)
    assert torch.equal(out.trajectory[0], x)
    assert bool(out.trajectory[2, 1].isnan().all())
    assert torch.equal(out.trajectory[2, 0], out.y[0])


def test_budget_and_errors() -> None:
    model = gaussian()
    times = time_grid("time", model.sde, 10, 1.0, 1e-3)
    x, seeds = torch.zeros(2, 1, dtype=torch.float64), sample_seeds(0, 2)
    out = run_chain(model, "pc", x, times, seeds, eta=1.0, max_evaluations=7)
    assert (out.status == Status.max_evaluations).all()
    assert out.log.calls == 6
    assert out.t[0] == times[3]
    with pytest.raises(ValueError, match="choose one of ddim"):
        run_chain(model, "dpm", x, times, seeds)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        run_chain(model, "ddim", x, times, seeds, eta=2.0)
    with pytest.raises(ValueError, match="churn=-1"):
        run_chain(model, "heun-edm", x, times, seeds, churn=-1)
    with pytest.raises(ValueError, match=r"eta=0\.5: heun-edm adds noise by its churn alone"):
        run_chain(model, "heun-edm", x, times, seeds, eta=0.5)
    with pytest.raises(ValueError, match="times of their grid"):
        run_chain(model, "ddim", x, times, seeds, points=torch.tensor([0.123]))
