"""A floor under sigma: the process above it, a constant below, and no singularity."""

import pytest
import torch

from sdeflow.denoiser import Denoiser
from sdeflow.oracle import Gaussian, make_oracle
from sdeflow.sampling import sample
from sdeflow.schedule import SCHEDULES
from sdeflow.sde import SDE, make_sde
from sdeflow.sigma_floor import SigmaFloor

FLOOR = 0.05
NAMES = [(family, schedule) for family in ("vp", "subvp") for schedule in SCHEDULES]


@pytest.fixture(params=NAMES, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[SDE, SigmaFloor]:
    sde = make_sde(*request.param)
    floored = make_sde(*request.param, sigma_floor=FLOOR)
    assert isinstance(floored, SigmaFloor)
    return sde, floored


def gaussian(sde: SDE, width: float) -> Gaussian:
    """Data N(0, width^2 I) in the plane."""
    return Gaussian(sde, torch.zeros(2).double(), covariance=width**2 * torch.eye(2))


def times(floored: SigmaFloor) -> tuple[torch.Tensor, torch.Tensor]:
    share = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    return share * floored.t_floor, floored.t_floor + share * (0.999 - floored.t_floor)


def test_it_is_the_larger_of_sigma_and_the_floor(pair: tuple[SDE, SigmaFloor]) -> None:
    sde, floored = pair
    below, above = times(floored)
    t = torch.cat([torch.zeros(1, dtype=torch.float64), below, above])
    assert torch.equal(floored.sigma(t), sde.sigma(t).clamp(min=FLOOR))
    assert bool((floored.sigma(below) == FLOOR).all())
    assert float(sde.sigma(floored.t_floor)) == pytest.approx(FLOOR, rel=1e-12)
    assert floored.breaks == (floored.t_floor,)
    for name in ("alpha", "log_alpha", "alpha_dot"):
        assert torch.equal(getattr(floored, name)(t), getattr(sde, name)(t))
    for name in ("sigma_dot", "log_snr", "wronskian", "g2"):
        torch.testing.assert_close(getattr(floored, name)(above), getattr(sde, name)(above))


def test_what_follows_from_alpha_and_sigma(pair: tuple[SDE, SigmaFloor]) -> None:
    _, floored = pair
    for t in times(floored):
        alpha, sigma = floored.alpha(t), floored.sigma(t)
        torch.testing.assert_close(floored.log_snr(t), torch.log(alpha / sigma))
        wronskian = alpha * floored.sigma_dot(t) - floored.alpha_dot(t) * sigma
        torch.testing.assert_close(floored.wronskian(t), wronskian)
        # Moments: d sigma^2 / dt = 2 f sigma^2 + g^2.
        rate = 2 * floored.f(t) * sigma**2 + floored.g2(t)
        torch.testing.assert_close(rate, 2 * sigma * floored.sigma_dot(t), atol=1e-9, rtol=1e-9)
        data, noise = floored.flow_coefficients(t)
        torch.testing.assert_close(data * wronskian, floored.alpha_dot(t))
        torch.testing.assert_close(noise * wronskian, floored.sigma_dot(t))
        again = floored.time_of_log_snr(floored.log_snr(t))
        # Below the floor lambda differs by A(t) from its end, 1e-7 at the smallest time here, of
        # values near 3: 1e-8 of A, and of t, is rounding.
        torch.testing.assert_close(again, t, rtol=1e-6, atol=1e-12)


def test_there_is_no_singularity() -> None:
    floored = make_sde(sigma_floor=FLOOR)
    assert float(floored.sigma_dot(0.0)) == 0
    assert float(floored.log_snr_dot(0.0)) == pytest.approx(-0.05)  # alpha' / alpha = -beta_0 / 2
    oracle = gaussian(floored, 0.7)
    x = torch.ones(2, 2, dtype=torch.float64)
    step = oracle.noise(x, 1e-3) - oracle.noise(x, 1e-6)
    # eps = sigma x / (alpha^2 w^2 + sigma^2): alpha^2 alone moves, at the rate beta, 0.1 + 19.9 t.
    slope = FLOOR * 0.49 * (0.1 + 19.9 * 5e-4) / (0.49 + FLOOR**2) ** 2
    assert float(step.abs().max()) / 1e-3 == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("chart", ["x/time", "x/log-snr", "x/alpha/noise-ratio", "x/std/log-snr"])
def test_samples_of_gaussian_data_keep_the_floor(chart: str) -> None:
    # The flow of Gaussian data scales x by std(t_min) / std(t_max), whatever the path.
    floored = make_sde(sigma_floor=FLOOR)
    oracle = gaussian(floored, 0.1)
    noise = torch.randn(8, 2, dtype=torch.float64)
    drawn = sample(
        oracle, noise=noise, dtype=torch.float64, rtol=1e-7, atol=1e-7, chart=chart, t_min=1e-4
    )

    def size(t: float) -> float:
        return float((floored.alpha(t) * 0.1) ** 2 + floored.sigma(t) ** 2) ** 0.5

    expected = noise * size(1e-4) / size(1.0)
    # Some 50 steps of tolerance 1e-7, on states of order 1.
    assert float((drawn.x - expected).abs().max()) < 5e-5


def test_a_model_tells_the_solver_of_the_kink() -> None:
    floored = make_sde(sigma_floor=FLOOR)
    assert Denoiser(torch.nn.Identity(), floored).breaks == floored.breaks
    for spec in ("gaussian", "mixture", "finite"):
        assert make_oracle(spec, floored).breaks == floored.breaks


@pytest.mark.parametrize("name", ["ve", "edm"])
def test_only_a_vanishing_sigma_can_have_a_floor(name: str) -> None:
    with pytest.raises(ValueError, match="only vp and subvp"):
        make_sde(name, sigma_floor=0.1)


@pytest.mark.parametrize("floor", [0.0, 1.0, -0.1, float("nan")])
def test_bad_floors(floor: float) -> None:
    with pytest.raises(ValueError, match="sigma_floor"):
        make_sde(sigma_floor=floor)
