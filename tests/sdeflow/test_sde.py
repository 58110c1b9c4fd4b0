"""alpha, sigma, log-SNR and what follows from them, against 50-digit arithmetic."""

import math
from collections.abc import Callable

import mpmath
import pytest
import torch

from sdeflow.schedule import SCHEDULES, Cosine, Linear, make_schedule
from sdeflow.sde import SDE, VE, KarrasVE, like, make_sde

SMOOTH = 0.1
NAMES = [
    (family, schedule, smooth)
    for family in ("vp", "subvp")
    for schedule in SCHEDULES
    for smooth in (None, SMOOTH)
] + [("ve", "linear", None), ("edm", "linear", None)]
TIMES = torch.cat(
    [torch.logspace(-8, -1, 29, dtype=torch.float64), torch.linspace(0.1, 0.999, 30).double()]
)


def exact(family: str, schedule: str, smooth: float | None, t: float) -> tuple:
    """alpha, sigma by their definitions, with 50 digits."""
    mp = mpmath.mp
    mp.dps = 50
    t = mp.mpf(t)
    if family == "ve":
        return mp.mpf(1), mp.mpf(0.01) * mp.power(mp.mpf(50) / mp.mpf(0.01), t)
    if family == "edm":
        return mp.mpf(1), 80 * t
    if smooth is not None:
        t = t * t * (1 + mp.mpf(smooth)) / (t + mp.mpf(smooth))
    b0, b1 = mp.mpf(0.1), mp.mpf(20)

    def linear(u: mpmath.mpf) -> mpmath.mpf:
        return mp.exp(-(b0 * u / 2 + (b1 - b0) * u * u / 4))

    if schedule == "linear":
        alpha = linear(t)
    elif schedule == "quadratic":
        p, d = mp.sqrt(b0), mp.sqrt(b1) - mp.sqrt(b0)
        alpha = mp.exp(-((p + d * t) ** 3 - p**3) / (6 * d))
    elif schedule == "zero-snr":
        alpha = (linear(t) - linear(mp.mpf(1))) / (1 - linear(mp.mpf(1)))
    else:
        s = mp.mpf(0.008) if schedule == "cosine" else mp.mpf(0)
        alpha = mp.cos(mp.pi / 2 * (t + s) / (1 + s)) / mp.cos(mp.pi / 2 * s / (1 + s))
    sigma = mp.sqrt(1 - alpha**2)
    return alpha, sigma if family == "vp" else 1 - alpha**2


@pytest.fixture(params=NAMES, ids=lambda n: "-".join(map(str, n)))
def case(request: pytest.FixtureRequest) -> tuple[SDE, tuple]:
    return make_sde(*request.param), request.param


# A few roundings each, and alpha = exp(-A) turns a relative error of A into A times as much:
# A <= 5.03 with about three roundings in it, so 24 units cover every schedule at every time.
@pytest.mark.parametrize(("dtype", "ulps"), [(torch.float32, 24), (torch.float64, 24)])
def test_accuracy_in_ulps(case: tuple, dtype: torch.dtype, ulps: int) -> None:
    sde, name = case
    t = TIMES.to(dtype)
    eps = torch.finfo(dtype).eps
    alpha, sigma, log_snr = sde.alpha(t), sde.sigma(t), sde.log_snr(t)
    for i, time in enumerate(t.double().tolist()):
        a, s = exact(*name, time)
        lam = mpmath.log(a / s)
        assert abs(float(alpha[i]) - a) <= ulps * eps * a
        assert abs(float(sigma[i]) - s) <= ulps * eps * s
        assert abs(float(log_snr[i]) - lam) <= ulps * eps * max(1, abs(lam))


def test_dtype_and_shape_are_kept(case: tuple) -> None:
    sde, _ = case
    t = torch.full((2, 3), 0.3)
    for value in (sde.alpha(t), sde.sigma(t), sde.g(t), sde.time_of_log_snr(sde.log_snr(t))):
        assert value.dtype == torch.float32
        assert value.shape == (2, 3)
    assert sde.sigma(0.3).dtype == torch.float64


def test_inverse_of_log_snr(case: tuple) -> None:
    sde, _name = case
    t = TIMES
    again = sde.time_of_log_snr(sde.log_snr(t))
    # An error of one rounding in lambda moves t by eps |lambda| / |lambda'|.
    slack = 2.0**-52 * (sde.log_snr(t).abs() + 8) / sde.log_snr_dot(t).abs()
    assert bool(((again - t).abs() <= 16 * (slack + 2.0**-52 * t)).all())
    sigma = sde.sigma(t[:-10])
    assert torch.allclose(sde.time_of_sigma(sigma), t[:-10], rtol=1e-9, atol=1e-13)


def test_derivatives_against_autograd(case: tuple) -> None:
    sde, _ = case
    t = TIMES[5:].clone().requires_grad_()
    (sigma_dot,) = torch.autograd.grad(sde.sigma(t).sum(), t)
    (log_snr_dot,) = torch.autograd.grad(sde.log_snr(t).sum(), t)
    t = t.detach()
    # autograd differentiates through forms that cancel; 1e-8 is its error there, not ours.
    assert torch.allclose(sde.sigma_dot(t), sigma_dot, rtol=1e-8)
    assert torch.allclose(sde.log_snr_dot(t), log_snr_dot, rtol=1e-9)


def test_identities(case: tuple) -> None:
    sde, _ = case
    t = TIMES
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    wronskian = alpha * sde.sigma_dot(t) - sde.alpha_dot(t) * sigma
    assert torch.allclose(sde.wronskian(t), wronskian, rtol=1e-12)
    assert torch.allclose(sde.g2(t), -2 * sigma**2 * sde.log_snr_dot(t), rtol=1e-12)
    data, noise = sde.flow_coefficients(t)
    assert torch.allclose(data * wronskian, sde.alpha_dot(t), rtol=1e-11, atol=1e-14)
    assert torch.allclose(noise * wronskian, sde.sigma_dot(t), rtol=1e-11)
    assert torch.allclose(sde.rho(t).log(), -sde.log_snr(t), rtol=1e-12, atol=1e-13)
    assert torch.allclose(sde.log_alpha(t), alpha.log(), rtol=1e-10, atol=1e-14)


def test_forward_sde_keeps_the_moments() -> None:
    """d(sigma^2)/dt = 2 f sigma^2 + g^2, the variance equation of dx = f x dt + g dW."""
    for name in NAMES:
        sde = make_sde(*name)
        t = TIMES[8:]
        rate = 2 * sde.sigma(t) * sde.sigma_dot(t)
        assert torch.allclose(rate, 2 * sde.f(t) * sde.sigma(t) ** 2 + sde.g2(t), rtol=1e-9)


def test_end_points() -> None:
    for name in NAMES:
        sde = make_sde(*name)
        assert float(sde.alpha(0.0)) == 1
        if name[0] != "ve":
            assert float(sde.sigma(0.0)) == 0
        ends_at_zero = name[0] in ("vp", "subvp") and name[1] in ("cosine", "trig", "zero-snr")
        assert (float(sde.alpha(1.0)) == 0) == ends_at_zero
        assert sde.has_signal_at(1.0) == (not ends_at_zero)


@pytest.mark.parametrize("schedule", ["cosine", "trig", "zero-snr"])
def test_no_signal_is_a_log_snr_of_minus_infinity(schedule: str) -> None:
    for sde in (make_sde("vp", schedule), make_sde("subvp", schedule)):
        assert float(sde.log_snr(1.0)) == -math.inf
        assert float(sde.time_of_log_snr(-math.inf)) == pytest.approx(1.0, abs=1e-12)


def test_who_has_the_singularity() -> None:
    """sigma'(0) is infinite exactly where d alpha/dt is not 0 at 0 (PAPER: trig and smooth)."""
    for schedule in ("linear", "quadratic", "cosine", "zero-snr"):
        assert math.isinf(float(make_sde("vp", schedule).sigma_dot(0.0)))
        assert math.isfinite(float(make_sde("vp", schedule, SMOOTH).sigma_dot(0.0)))
    assert float(make_sde("vp", "trig").sigma_dot(0.0)) == pytest.approx(math.pi / 2)
    assert math.isfinite(float(make_sde("subvp").sigma_dot(0.0)))
    # Linear with a smooth start: sigma ~ sqrt(beta_0 (1 + s) / s) t.
    expected = math.sqrt(0.1 * (1 + SMOOTH) / SMOOTH)
    assert float(make_sde("vp", "linear", SMOOTH).sigma_dot(0.0)) == pytest.approx(expected)


def test_prior_and_perturb(device: torch.device) -> None:
    assert make_sde("ve").prior_scale(1.0) == pytest.approx(50)
    assert make_sde("subvp").prior_scale(1.0) == 1
    sde = make_sde()
    x_0 = torch.randn(3, 2, 4, 4, device=device)
    noise = torch.randn_like(x_0)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x_t = sde.perturb(x_0, t, noise)
    assert x_t.dtype == x_0.dtype
    assert x_t.device == x_0.device
    i = 1
    expected = float(sde.alpha(0.5)) * x_0[i] + float(sde.sigma(0.5)) * noise[i]
    assert torch.allclose(x_t[i], expected, atol=1e-6)
    assert like(t, x_0).shape == (3, 1, 1, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_sde("vpp"), "sde='vpp'"),
        (lambda: make_sde("vp", "linea"), "schedule='linea'"),
        (lambda: make_sde("ve", "cosine"), "only vp and subvp"),
        (lambda: make_sde("vp", smooth_start=-1.0), "smooth_start=-1.0"),
        (lambda: VE(1.0, 0.5), "sigma_min=1.0"),
        (lambda: KarrasVE(0.0), "sigma_max=0.0"),
        (lambda: Linear(0.0, 1.0), "beta_0=0.0"),
        (lambda: Cosine(-1.0), "s=-1.0"),
        (lambda: make_schedule("nope"), "nope"),
    ],
)
def test_bad_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("'", ".")):
        make()
