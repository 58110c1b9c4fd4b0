"""The losses against closed forms on Gaussian data, and the laws of training times."""

import math

import pytest
import torch
from torch import Tensor

from sdeflow.config import PREDICTIONS, TIME_DISTRIBUTIONS, WEIGHTINGS
from sdeflow.oracle import Gaussian
from sdeflow.sde import SDE, make_sde
from sdeflow.training import DenoisingLoss, TimeDistribution, time_bins

WIDTH, DIM = 0.5, 3
# The Kolmogorov statistic sqrt(n) D exceeds c with probability about 2 exp(-2 c^2): 1e-6 at 2.69.
KOLMOGOROV = 2.69


def least_noise_error(sde: SDE, t: Tensor) -> Tensor:
    """E|E[eps | x] - eps|^2 / d for data N(m, WIDTH^2 I): the variance of eps given x."""
    signal, noise = (sde.alpha(t) * WIDTH) ** 2, sde.sigma(t) ** 2
    return signal / (signal + noise)


def weight_in_noise(sde: SDE, predict: str, weighting: str, t: Tensor, density: float) -> Tensor:
    """w(t) in front of |eps-hat - eps|^2, written down anew."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    if weighting == "simple":
        k2 = {
            "noise": torch.ones_like(t),
            "score": torch.ones_like(t),
            "data": alpha**2 / sigma**2,
            "velocity": alpha**2 / (alpha**2 + sigma**2),
        }[predict]
        return 1 / k2
    return {
        "likelihood": sde.g2(t) / (2 * sigma**2) / density,
        "min-snr": torch.minimum(torch.ones_like(t), 5 * sigma**2 / alpha**2),
        "score-sigma2": torch.ones_like(t),
        "score": 1 / sigma**2,
    }[weighting]


@pytest.mark.parametrize("sde_name", ["vp", "ve", "subvp"])
@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_exact_model_reaches_the_known_minimum(
    sde_name: str, predict: str, weighting: str
) -> None:
    sde = make_sde(sde_name)
    law = TimeDistribution("uniform", sde, 0.01, 0.99)
    loss = DenoisingLoss(predict, weighting, law)
    oracle = Gaussian(sde, torch.full((DIM,), 0.3).double(), covariance=WIDTH**2 * torch.eye(DIM))
    generator = torch.Generator().manual_seed(1)
    n = 20_000
    t = law.sample(n, generator)
    x_0 = 0.3 + WIDTH * torch.randn(n, DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, DIM, generator=generator, dtype=torch.float64)
    output = oracle.predict(sde.perturb(x_0, t, noise), t, predict)
    if predict == "velocity":
        output = output / torch.hypot(sde.alpha(t), sde.sigma(t))[:, None]
    values = loss(output, x_0, noise, t).double()
    weight = weight_in_noise(sde, predict, weighting, t, 1 / 0.98)
    excess = values - weight * least_noise_error(sde, t)
    # Each term has mean 0 given t; 5 standard errors of their mean. The output is read as
    # float32: a relative 1e-6 of the size of the loss on top.
    bound = 5 * float(excess.std()) / math.sqrt(n) + 1e-6 * float(values.abs().mean())
    assert abs(float(excess.mean())) < bound


@pytest.mark.parametrize("kind", TIME_DISTRIBUTIONS)
@pytest.mark.parametrize("sde_name", ["vp", "edm"])
def test_times_follow_their_law(kind: str, sde_name: str) -> None:
    sde, low, high = make_sde(sde_name), 1e-3, 1.0
    law = TimeDistribution(kind, sde, low, high)
    n = 20_000
    t = torch.sort(law.sample(n, torch.Generator().manual_seed(3))).values
    assert t.dtype == torch.float64
    assert float(t[0]) >= low
    assert float(t[-1]) <= high
    if kind == "log-snr":
        first, last = sde.log_snr(low), sde.log_snr(high)
        cdf = (first - sde.log_snr(t)) / (first - last)
    elif kind == "log-normal":
        normal = torch.distributions.Normal(-1.2, 1.2)
        below, above = (normal.cdf(-sde.log_snr(end)) for end in (low, high))
        cdf = (normal.cdf(-sde.log_snr(t)) - below) / (above - below)
    else:
        cdf = (t - low) / (high - low)
    upper = torch.arange(1, n + 1, dtype=torch.float64) / n
    distance = float(torch.maximum(upper - cdf, cdf - (upper - 1 / n)).max())
    # The discrete law is off the continuous one by a step of 1e-3.
    margin = 1e-3 if kind == "discrete" else 0.0
    assert distance < KOLMOGOROV / math.sqrt(n) + margin


@pytest.mark.parametrize("kind", ["uniform", "log-snr", "log-normal"])
@pytest.mark.parametrize("sde_name", ["vp", "subvp", "ve"])
def test_density_is_the_derivative_of_the_law(kind: str, sde_name: str) -> None:
    law = TimeDistribution(kind, make_sde(sde_name), 1e-4, 0.999)
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    h = 1e-5
    slope = (law.quantile(u + h) - law.quantile(u - h)) / (2 * h)
    # Central differences: h^2 = 1e-10 times a third derivative of up to 1e5 relative, and
    # rounding 1e-16/h = 1e-11 relative to t.
    torch.testing.assert_close(law.density(law.quantile(u)) * slope, torch.ones(99).double(),
                               rtol=1e-4, atol=0)  # fmt: skip


def test_stratified_has_one_time_in_each_slice() -> None:
    law = TimeDistribution("stratified", make_sde("vp"), 1e-5, 1.0)
    t = law.sample(64, torch.Generator().manual_seed(0))
    slices = torch.floor((t - 1e-5) / (1 - 1e-5) * 64)
    assert slices.tolist() == list(range(64))


def test_discrete_times_are_the_papers_steps() -> None:
    law = TimeDistribution("discrete", make_sde("vp"), 1e-5, 1.0)
    u = torch.linspace(0, 1 - 1e-12, 100_001, dtype=torch.float64)
    assert torch.equal(torch.unique(law.quantile(u)), torch.arange(1, 1001).double() / 1000)
    part = TimeDistribution("discrete", make_sde("vp"), 0.1, 0.999)
    assert torch.equal(torch.unique(part.quantile(u)), torch.arange(100, 1000).double() / 1000)


def test_likelihood_is_one_integral_under_every_density() -> None:
    sde = make_sde("vp")
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    # The integrand falls as 1/t; the exact integral in log-SNR, by a fine midpoint rule.
    high, low = float(sde.log_snr(1e-2)), float(sde.log_snr(0.99))
    exact = (high - low) * least_noise_error(
        sde, sde.time_of_log_snr(high + (low - high) * u)
    ).mean()  # fmt: skip
    for kind in ("uniform", "log-snr", "log-normal"):
        law = TimeDistribution(kind, sde, 1e-2, 0.99)
        t = law.quantile(u)
        weight = DenoisingLoss("noise", "likelihood", law).weight(t)
        estimate = (weight * least_noise_error(sde, t)).mean()
        # Midpoint rule of a monotone integrand: at most its range / n, which is 1e4 / 2e5 where
        # log-normal is thin; in fact far less.
        assert float(estimate) == pytest.approx(float(exact), rel=2e-3), kind


def test_bins_cover_the_interval_and_hold_the_papers_threshold() -> None:
    edges = time_bins(1e-5, 0.999)
    assert edges[0] == 1e-5
    assert edges[-1] == 0.999
    assert 0.1 in edges
    assert list(edges) == sorted(set(edges))
    assert time_bins(0.15, 0.18) == (0.15, 0.18)


def test_refuses_infinite_log_snr_and_unknown_names() -> None:
    cosine = make_sde("vp", "cosine")
    with pytest.raises(ValueError, match="t_max"):
        TimeDistribution("log-snr", cosine, 1e-5, 1.0)
    with pytest.raises(ValueError, match="discrete"):
        TimeDistribution("discrete", cosine, 0.1001, 0.1002)
    with pytest.raises(ValueError, match="stratified"):
        TimeDistribution("stratfied", cosine, 1e-5, 1.0)
    law = TimeDistribution("uniform", cosine, 1e-5, 1.0)
    with pytest.raises(ValueError, match="weighting"):
        DenoisingLoss("noise", "snr", law)
