"""Likelihoods against the oracles' closed forms, in every kind of chart."""

import math

import pytest
import torch

from sdeflow.likelihood import bits_per_dimension, dequantise, levels_of, log_likelihood
from sdeflow.oracle import make_oracle
from sdeflow.sde import make_sde

ORACLES = ["gaussian:width=0.5,dim=3", "mixture:width=0.2"]


CASES = [
    ("vp", "x/time"),
    ("vp", "x/alpha/log-snr"),
    ("vp", "x/std/banded"),
    ("subvp", "x/sigma/log-angle"),
    ("ve", "x/time"),
    ("edm", "x/std/banded"),
]


@pytest.mark.parametrize("spec", ORACLES)
@pytest.mark.parametrize(("name", "chart"), CASES)
def test_exact_divergence_gives_the_closed_form(name: str, chart: str, spec: str) -> None:
    oracle = make_oracle(spec, make_sde(name))
    x = oracle.sample(4, torch.Generator().manual_seed(0))
    got = log_likelihood(
        oracle, x, divergence="exact", chart=chart, t_min=1e-3, rtol=3e-6, atol=3e-6
    )
    d = x.shape[1]
    # The promise: 1e-4 nats per dimension; the tolerance leaves a factor 30 of steps' errors.
    assert float((got.log_prob - oracle.log_prob(x, 1e-3)).abs().max()) / d < 1e-4
    assert got.error is None
    assert torch.allclose(got.prior, oracle.log_prob(got.latent, got.settings["t_max"]))


def test_hutchinson_is_unbiased_and_its_error_is_right() -> None:
    oracle = make_oracle("mixture:width=0.2", make_sde())
    x = oracle.sample(40, torch.Generator().manual_seed(1))
    got = log_likelihood(oracle, x, draws=8, t_min=1e-3, rtol=1e-4, atol=1e-4, seed=5)
    assert got.error is not None
    z = (got.log_prob - oracle.log_prob(x, 1e-3)) / got.error
    # Student's t with 7 degrees of freedom: mean 0, variance 7/5; five standard errors of 40.
    assert abs(float(z.mean())) < 5 * math.sqrt(1.4 / 40)
    assert float(z.std()) < 2.5
    again = log_likelihood(
        oracle, x[:10], draws=8, t_min=1e-3, rtol=1e-4, atol=1e-4, seed=5, batch_size=4
    )
    assert torch.allclose(again.log_prob, got.log_prob[:10], atol=1e-9)


def test_prior_of_a_model_is_gaussian() -> None:
    sde = make_sde()
    oracle = make_oracle("gaussian:width=1,mean=0", sde)

    class Model(torch.nn.Module):
        condition_dtype = torch.float64

        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return oracle.noise(x, c)

    from sdeflow.denoiser import Denoiser

    x = torch.randn(5, 2, dtype=torch.float64)
    got = log_likelihood(Denoiser(Model(), sde), x, divergence="exact", t_min=1e-3)
    # Unit-variance data: every marginal is the prior, so the answer is exactly log N(x; 0, I).
    exact = -0.5 * (x**2).sum(1) - math.log(2 * math.pi)
    assert torch.allclose(got.log_prob, exact, atol=1e-4)


def test_bits_per_dimension() -> None:
    """A uniform law over Q levels costs log2 Q bits: density (1/2)^D on [-1, 1]^D."""
    for levels in (2, 17, 256):
        uniform = torch.full((1,), -5 * math.log(2.0))
        assert float(bits_per_dimension(uniform, 5, levels)) == pytest.approx(math.log2(levels))
        k = torch.randint(levels, (40,), generator=torch.Generator().manual_seed(2))
        k[:2] = torch.tensor([0, levels - 1])
        k[2] = 1
        x = 2 * k / (levels - 1) - 1
        assert levels_of(x) == levels
        y = dequantise(x, levels)
        assert ((y.double() + 1) / 2 * levels).floor().long().tolist() == k.tolist()
    assert levels_of(torch.linspace(-1, 1, 100)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "trace"}, "divergence='trace'"),
        ({"draws": 0}, "draws=0"),
        ({"solver": "sra1"}, "Runge-Kutta"),
        ({"solver": "euler"}, "Runge-Kutta"),
        ({"t_min": 0.0}, "t_min=0.0"),
    ],
)
def test_bad_arguments(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_likelihood(make_oracle("gaussian", make_sde()), torch.zeros(1, 2), **settings)


def test_where_no_signal_is_left() -> None:
    oracle = make_oracle("mixture:width=0.3", make_sde("subvp", "zero-snr"))
    x = oracle.sample(4, torch.Generator().manual_seed(0))
    got = log_likelihood(oracle, x, divergence="exact", chart="x/time", t_min=1e-2)
    assert got.settings["t_max"] == 1.0
    # A tolerance of 1e-5 a step, with some hundred steps.
    assert float((got.log_prob - oracle.log_prob(x, 1e-2)).abs().max()) < 1e-3


def test_no_data_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 sample"):
        log_likelihood(make_oracle("gaussian", make_sde()), torch.zeros(0, 2))
