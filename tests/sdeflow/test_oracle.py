"""Exact denoisers against differentiation, quadrature and each other."""

import math

import pytest
import torch
from scipy import integrate

from sdeflow.conditioning import ETSDM
from sdeflow.denoiser import PREDICTIONS
from sdeflow.oracle import FiniteData, Gaussian, Mixture, make_oracle
from sdeflow.sde import make_sde
from sdeflow.shared_time import SharedTime, Told

VP = make_sde()
SDES = [make_sde(), make_sde("vp", "cosine"), make_sde("subvp"), make_sde("ve"), make_sde("edm")]
POINTS = torch.tensor([[0.0, 1.0], [0.5, -0.5], [-1.0, 0.2]], dtype=torch.float64)


def covariances(k: int, d: int) -> torch.Tensor:
    root = torch.randn(k, d, d, dtype=torch.float64)
    return root @ root.transpose(1, 2) / d + 0.01 * torch.eye(d)


def oracles(sde) -> list:
    means = torch.randn(4, 3, dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 3.0, 0.5])
    return [
        Mixture(sde, means, weights, width=torch.tensor([0.1, 0.3, 0.5, 0.2])),
        Mixture(sde, means, weights, covariance=covariances(4, 3)),
        Gaussian(sde, means[0], covariance=covariances(1, 3)[0]),
        FiniteData(sde, means),
    ]


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_score_is_the_gradient_of_log_prob(sde) -> None:
    t = torch.tensor([0.02, 0.1, 0.3, 0.6, 0.95], dtype=torch.float64)
    for oracle in oracles(sde):
        x = sde.perturb(
            oracle.sample(5), t, torch.randn(5, 3, dtype=torch.float64)
        ).requires_grad_()
        (gradient,) = torch.autograd.grad(oracle.log_prob(x, t).sum(), x)
        assert torch.allclose(oracle.score(x.detach(), t), gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_predictions_satisfy_x(sde) -> None:
    """alpha x_0 + sigma eps = x, and velocity = alpha eps - sigma x_0."""
    t = 0.3
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    for oracle in oracles(sde):
        x = torch.randn(6, 3, dtype=torch.float64)
        data, noise = oracle.data(x, t), oracle.noise(x, t)
        assert torch.allclose(alpha * data + sigma * noise, x, rtol=1e-11, atol=1e-11)
        assert torch.allclose(oracle.velocity(x, t), alpha * noise - sigma * data, atol=1e-11)


def test_density_integrates_to_one_and_moments_match() -> None:
    oracle = make_oracle("mixture:width=0.3,dim=1,modes=1,radius=0.4", VP)

    def density(z: float) -> float:
        return float(oracle.log_prob(torch.tensor([[z]], dtype=torch.float64), 0.2).exp())

    assert integrate.quad(density, -10, 10)[0] == pytest.approx(1, abs=1e-9)
    points = FiniteData(VP, POINTS[:, :1])

    def spread(z: float) -> float:
        return float(points.log_prob(torch.tensor([[z]], dtype=torch.float64), 0.2).exp())

    assert integrate.quad(spread, -10, 10)[0] == pytest.approx(1, abs=1e-9)


def test_finite_data_is_the_limit_of_narrow_mixtures() -> None:
    finite = FiniteData(VP, POINTS)
    narrow = Mixture(VP, POINTS, width=0.0)
    x = torch.randn(7, 2, dtype=torch.float64)
    for t in (1e-6, 1e-3, 0.1, 0.9):
        for name in PREDICTIONS:
            a, b = finite.predict(x, torch.full((7,), t).double(), name), None
            b = narrow.predict(x, torch.full((7,), t).double(), name)
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9 / float(VP.sigma(t)) ** 2)
    # Where alpha is 0 all points are equally likely.
    trig = FiniteData(make_sde("vp", "trig"), POINTS)
    assert torch.allclose(trig.data(x, 1.0), POINTS.mean(0).expand(7, 2), atol=1e-10)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_closed_form_flow_of_a_gaussian(sde) -> None:
    """It solves dx/dt = alpha' x_0 + sigma' eps, composes, and carries p_t to p_s."""
    oracle = Gaussian(sde, POINTS[0], covariance=covariances(1, 2)[0])
    x = torch.randn(4, 2, dtype=torch.float64)
    t, h = 0.4, 1e-5
    slope = (oracle.flow(x, t, t + h) - oracle.flow(x, t, t - h)) / (2 * h)
    drift = float(sde.alpha_dot(t)) * oracle.data(x, t) + float(sde.sigma_dot(t)) * oracle.noise(
        x, t
    )
    assert torch.allclose(slope, drift, rtol=1e-6, atol=1e-6)
    there = oracle.flow(x, t, 0.01)
    assert torch.allclose(oracle.flow(there, 0.01, t), x, rtol=1e-9)
    mean, cov = oracle.moments(t)
    mean_s, cov_s = oracle.moments(0.01)
    # The flow is affine: its matrix carries the covariance.
    zero = oracle.flow(torch.zeros(1, 2, dtype=torch.float64), t, 0.01)
    matrix = (oracle.flow(torch.eye(2, dtype=torch.float64), t, 0.01) - zero).T
    assert torch.allclose(matrix @ cov @ matrix.T, cov_s, rtol=1e-9)
    assert torch.allclose(oracle.flow(mean[None], t, 0.01)[0], mean_s, rtol=1e-9)


def test_samples_have_the_moments() -> None:
    oracle = Gaussian(VP, POINTS[1], covariance=covariances(1, 2)[0])
    n = 20_000
    x = oracle.sample(n, torch.Generator().manual_seed(1))
    mean, cov = oracle.moments(0.0)
    # Five standard errors: sqrt(c_ii / n), and sqrt((c_ii c_jj + c_ij^2) / n).
    assert bool(((x.mean(0) - mean).abs() <= 5 * (cov.diagonal() / n).sqrt()).all())
    error = ((torch.outer(cov.diagonal(), cov.diagonal()) + cov**2) / n).sqrt()
    assert bool(((torch.cov(x.T) - cov).abs() <= 5 * error).all())
    assert FiniteData(VP, POINTS).sample(9).shape == (9, 2)


def test_dtype_is_the_states() -> None:
    for oracle in oracles(VP):
        x = torch.randn(3, 3)
        assert oracle.noise(x, 0.2).dtype == torch.float32
        exact = oracle.noise(x.double(), 0.2)
        assert torch.allclose(oracle.noise(x, 0.2).double(), exact, rtol=1e-3, atol=1e-4)


def test_image_shapes() -> None:
    points = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    oracle = FiniteData(VP, points, chunk=2)
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    whole = FiniteData(VP, points)
    # The chunks are other matrix products: the same to rounding, divided by sigma.
    assert torch.allclose(oracle.noise(x, 0.1), whole.noise(x, 0.1), rtol=1e-13, atol=1e-13)
    assert oracle.sample(3).shape == (3, 1, 4, 4)


def test_shared_time_is_the_posterior_mean_over_time() -> None:
    """Against a plain quadrature in t, and against least squares on draws."""
    oracle = make_oracle("mixture:width=0.3", VP)
    c = ETSDM(VP)
    shared = SharedTime(oracle, c, t_min=1e-5)
    x = torch.tensor([[0.9, 0.1], [0.2, -0.4]], dtype=torch.float64)
    for i, (low, high) in enumerate([(1e-5, 0.02), (0.02, 0.04), (0.08, 0.1)]):
        t = torch.linspace(math.sqrt(low), math.sqrt(high), 20_001, dtype=torch.float64)
        weight = 2 * t  # t = s^2
        times = t * t
        for row in x:
            copies = row.expand(len(times), 2)
            density = oracle.log_prob(copies, times).exp() * weight
            top = torch.trapezoid(
                density[:, None] * oracle.predict(copies, times, "noise"), t, dim=0
            )
            expected = top / torch.trapezoid(density, t)
            got = shared.noise(row[None], (low + high) / 2)[0]
            # The trapezoid's own error on this grid is below 1e-6.
            assert torch.allclose(got, expected, atol=1e-6), i
    # It does not depend on t inside a sub-interval; beyond the threshold it is the oracle.
    assert torch.equal(shared.noise(x, 0.021), shared.noise(x, 0.039))
    assert torch.equal(shared.noise(x, 0.2), oracle.noise(x, 0.2))
    assert shared.breaks == c.breaks


@pytest.mark.parametrize("interval", [0, 1])
def test_ideal_sharing_is_the_least_squares_best(interval: int) -> None:
    """Exact eps beats the ideal shared predictor, which beats the left-end plug-in."""
    oracle = make_oracle("mixture:width=0.02", VP)
    c = ETSDM(VP)
    n = 4000
    generator = torch.Generator().manual_seed(3)
    t = 0.02 * interval + 0.02 * torch.rand(n, dtype=torch.float64, generator=generator)
    eps = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    x = VP.perturb(oracle.sample(n, generator), t, eps)
    error = {
        name: ((model.noise(x, t) - eps) ** 2).sum(1)
        for name, model in [
            ("exact", oracle),
            ("ideal", SharedTime(oracle, c)),
            ("left", Told(oracle, c)),
        ]
    }
    pairs = [("ideal", "left")] + ([("exact", "ideal")] if interval == 0 else [])
    for better, worse in pairs:
        gap = error[worse] - error[better]
        assert float(gap.mean()) > 3 * float(gap.std()) / math.sqrt(n), (better, worse)


def test_plug_in_is_told_the_shared_time() -> None:
    oracle = make_oracle("mixture", VP)
    told = Told(oracle, ETSDM(VP))
    x = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(told.noise(x, 0.035), oracle.noise(x, 0.02))
    assert torch.allclose(told.score(x, 0.035), -oracle.noise(x, 0.02) / VP.sigma(0.035))


def test_specs() -> None:
    oracle = make_oracle("mixture:width=0.02,modes=4,dim=3", VP)
    assert oracle.data_shape == (3,)
    assert oracle.means.shape == (4, 3)
    assert make_oracle("finite:data=digits,count=50", VP).points.shape == (50, 64)
    classes = make_oracle("classes", VP)
    assert classes.num_classes == 10
    assert classes.data_shape == (1, 8, 8)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    assert classes.noise(x, 0.3, torch.tensor([0, 10])).shape == x.shape


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mixtur", "choose one of"),
        ("mixture:wide=1", "takes width"),
        ("mixture:modes=x", "modes cannot be 'x'"),
        ("mixture:modes=0", "modes=0: must be at least 1"),
        ("mixture:dim=-1", "dim=-1: must be at least 1"),
        ("mixture:width=nan", "width=nan: must be 0 or more"),
        ("gaussian:dim=0", "dim=0: must be at least 1"),
        ("gaussian:width=-1", "width=-1.0: must be 0 or more"),
        ("finite:count=-1797", "count=-1797: must be at least 0"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_oracle(spec, VP)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Mixture(VP, POINTS)
    with pytest.raises(ValueError, match="positive"):
        Mixture(VP, POINTS, torch.tensor([1.0, -1.0, 1.0]), width=0.1)
    with pytest.raises(ValueError, match="shape"):
        Mixture(VP, POINTS, covariance=torch.eye(2)[None])
    with pytest.raises(ValueError, match="t_min"):
        SharedTime(make_oracle("mixture", VP), ETSDM(VP), t_min=0.5)
    points = FiniteData(VP, POINTS)
    with pytest.raises(ValueError, match="told first is 0, where FiniteData has no noise"):
        Told(points, ETSDM(VP))
    x = torch.randn(3, 2, dtype=torch.float64)
    assert bool(Told(points, ETSDM(VP, at="middle")).noise(x, 0.01).isfinite().all())
