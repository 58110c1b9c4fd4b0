"""The samplers by name: orders in closed form, exactness, and agreement with diffusers."""

import dataclasses
import math

import pytest
import torch

from sdeflow import make_sde, sample
from sdeflow.denoiser import Predictor, convert
from sdeflow.grids import time_grid
from sdeflow.oracle import Gaussian
from sdeflow.samplers import find_sampler, samplers
from solvers import NoiseSource, sample_seeds

NAMED = [s for s in samplers() if s.name not in {s.method for s in samplers()}]
FLOWS = [s for s in NAMED if s.kind == "ode" or s.name == "heun-edm"]


def gaussian() -> Gaussian:
    return Gaussian(
        make_sde("vp"),
        torch.tensor([0.5, -1.0], dtype=torch.float64),
        covariance=torch.diag(torch.tensor([0.3, 0.05], dtype=torch.float64)),
    )


class Constant(Predictor):
    """A model that predicts the same noise everywhere, or the same data."""

    def __init__(self, prediction: str, value: float) -> None:
        self.sde, self.prediction, self.value = make_sde("vp"), prediction, value

    def predict(self, x, t, wanted, label=None):
        a, b = convert(self.sde, t, self.prediction, wanted)
        return a[:, None].to(x) * x + b[:, None].to(x) * self.value


@pytest.mark.parametrize("sampler", FLOWS, ids=lambda s: s.name)
def test_order_on_the_gaussian_flow(sampler) -> None:
    model = gaussian()
    noise = torch.randn(64, 2, dtype=torch.float64)
    exact = model.flow(noise, 1.0, 1e-2)
    errors = []
    # Grids fine enough for the leading term, coarse enough that the first steps, of lower order,
    # do not yet rule.
    for steps in (320, 640) if sampler.name == "dpmpp-3m-exact" else (80, 160):
        out = sample(
            model, solver=sampler.name, steps=steps, noise=noise, dtype=torch.float64, t_min=1e-2
        )
        errors.append(float((out.x - exact).square().mean().sqrt()))
        assert out.log.calls == steps * (2 if sampler.name == "heun-edm" else 1)
    assert abs(math.log2(errors[0] / errors[1]) - sampler.order) < 0.25


@pytest.mark.parametrize("sampler", FLOWS, ids=lambda s: s.name)
def test_exact_for_what_it_holds_constant(sampler) -> None:
    # x/alpha + noise and x/sigma + data are exact for their prediction in a single step.
    kind = "data" if sampler.chart.startswith("x/sigma") else "noise"
    if sampler.chart.startswith("x/std"):
        pytest.skip("x/std holds a mixture of both constant")
    model = Constant(kind, 0.7)
    noise = torch.randn(4, 3, dtype=torch.float64)
    out = sample(model, solver=sampler.name, steps=3, noise=noise, dtype=torch.float64)
    alpha, sigma = (
        f(torch.tensor([1.0, 1e-3], dtype=torch.float64)).tolist()
        for f in (model.sde.alpha, model.sde.sigma)
    )
    if kind == "noise":
        exact = alpha[1] * (noise / alpha[0] + 0.7 * (sigma[1] / alpha[1] - sigma[0] / alpha[0]))
    else:
        exact = sigma[1] * (noise / sigma[0] + 0.7 * (alpha[1] / sigma[1] - alpha[0] / sigma[0]))
    # Rounding of u = x/alpha, which is 150 times x at t = 1, over a few operations.
    assert torch.allclose(out.x, exact, rtol=0, atol=150 * 50 * 2.0**-52)


def test_names() -> None:
    names = [s.name for s in samplers()]
    assert len(names) == len(set(names))
    wanted = "ddim deis-2 deis-3 deis-4 dpmpp-2m dpmpp-3m unipc-2 unipc-3 unipc-4 heun-edm"
    wanted += " ancestral euler-maruyama pc dpmpp-2m-sde tuned"
    assert set(wanted.split()) <= set(names)
    for sampler in samplers():
        assert sampler.about
        assert sampler.kind in ("ode", "sde", "chain")
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_sampler("ddim").name = "other"
    with pytest.raises(ValueError, match="did you mean dpmpp-2m"):
        find_sampler("dpmpp2m")


def test_published_weights_are_named_and_differ() -> None:
    model, noise = gaussian(), torch.randn(8, 2, dtype=torch.float64)
    for name in ("dpmpp-2m", "dpmpp-3m", "unipc-2"):
        assert find_sampler(name).weights == "published"
        assert find_sampler(f"{name}-exact").weights == "exact"
        run = {"steps": 12, "noise": noise, "dtype": torch.float64}
        a, b = (sample(model, solver=n, **run).x for n in (name, f"{name}-exact"))
        assert float((a - b).abs().max()) > 1e-4


def test_eta_and_charts_are_refused_where_they_mean_nothing() -> None:
    model = gaussian()
    with pytest.raises(ValueError, match="deterministic"):
        sample(model, solver="unipc-3", steps=5, eta=0.5, count=2)
    with pytest.raises(ValueError, match="runs in no chart"):
        sample(model, solver="ancestral", steps=5, chart="x/log-snr", count=2)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        sample(model, solver="ddim", steps=5, eta=1.5, count=2)


def _scheduler(kind: str, order: int, sigmas: torch.Tensor):
    """A diffusers scheduler that is made to use our noise levels sigma/alpha."""
    import diffusers

    options = {"num_train_timesteps": 1000, "prediction_type": "sample"}
    if kind == "dpmpp":
        made = diffusers.DPMSolverMultistepScheduler(
            solver_order=order,
            algorithm_type="dpmsolver++",
            final_sigmas_type="sigma_min",
            **options,
        )
    else:
        made = diffusers.UniPCMultistepScheduler(
            solver_order=order, solver_type="bh2", final_sigmas_type="sigma_min", **options
        )
    steps = len(sigmas) - 1
    made.set_timesteps(steps)
    made.sigmas = sigmas
    # Any distinct integers: the model below knows the time from the step's number.
    made.timesteps = torch.arange(steps, 0, -1)
    made.num_inference_steps = steps
    return made


@pytest.mark.bench
@pytest.mark.parametrize("steps", [5, 12])
@pytest.mark.parametrize(
    ("name", "kind", "order"),
    [
        ("dpmpp-2m", "dpmpp", 2),
        ("dpmpp-3m", "dpmpp", 3),
        ("unipc-2", "unipc", 2),
        ("unipc-3", "unipc", 3),
        ("unipc-4", "unipc", 4),
    ],
)
def test_agrees_with_diffusers(name, kind, order, steps) -> None:
    model = gaussian()
    noise = torch.randn(8, 2, dtype=torch.float64)
    times = time_grid("log-snr", model.sde, steps, 1.0, 1e-3)
    ours = sample(model, solver=name, steps=steps, noise=noise, dtype=torch.float64)
    made = _scheduler(kind, order, torch.exp(-model.sde.log_snr(times)))
    x = noise
    for i, step in enumerate(made.timesteps):
        x = made.step(model.data(x, times[i]), step, x).prev_sample
    # The schedulers keep their own constants in float32.
    assert torch.allclose(ours.x, x, rtol=0, atol=1e-5)


@pytest.mark.bench
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_agrees_with_diffusers(eta) -> None:
    import diffusers

    model = gaussian()
    steps = 10
    times = time_grid("time", model.sde, steps, 1.0, 1e-3)
    # Their index into the table of alpha^2 is our step's number, from the end.
    table = (model.sde.alpha(times) ** 2).flip(0)
    made = diffusers.DDIMScheduler(
        num_train_timesteps=steps + 1, clip_sample=False, set_alpha_to_one=False
    )
    made.alphas_cumprod, made.final_alpha_cumprod = table, table[0]
    made.num_inference_steps = steps + 1
    noise = torch.randn(8, 2, dtype=torch.float64)
    ours = sample(model, solver="ddim", steps=steps, noise=noise, dtype=torch.float64, eta=eta)
    # The same noise for both: that of the seeds, stream 2.
    source = NoiseSource(sample_seeds(0, 8), (2,), dtype=torch.float64, stream=2)
    x = noise
    for i in range(steps):
        z = source.normal(i) if eta else None
        x = made.step(
            model.noise(x, times[i]), steps - i, x, eta=eta, variance_noise=z
        ).prev_sample
    assert torch.allclose(ours.x, x, rtol=0, atol=1e-5)
