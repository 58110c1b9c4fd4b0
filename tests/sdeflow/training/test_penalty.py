"""The penalty on steepness in time, where its value is known: Gaussian data."""

from pathlib import Path

import pytest
import torch

from sdeflow.config import PREDICTIONS, TrainConfig
from sdeflow.denoiser import Denoiser
from sdeflow.oracle import Gaussian
from sdeflow.sde import make_sde
from sdeflow.training import Learner, plan
from sdeflow.training.penalty import GAP, LipschitzPenalty

WIDTH, DIM = 0.5, 3


@pytest.mark.parametrize("sde_name", ["vp", "subvp", "ve"])
@pytest.mark.parametrize("predict", PREDICTIONS)
def test_it_is_the_known_steepness_of_gaussian_data(sde_name: str, predict: str) -> None:
    # eps(x, t) = k(t) x with k = sigma / (alpha^2 WIDTH^2 + sigma^2), so K = |k' - k| |x| / GAP.
    sde = make_sde(sde_name)
    oracle = Gaussian(sde, torch.zeros(DIM).double(), covariance=WIDTH**2 * torch.eye(DIM))
    model = Denoiser(torch.nn.Identity(), sde, predict=predict)
    penalty = LipschitzPenalty(model, weight=0.25, below=0.1)
    t = torch.tensor([1e-3, 0.01, 0.05, 0.0999], dtype=torch.float64)
    x = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def slope(t: torch.Tensor) -> torch.Tensor:
        return sde.sigma(t) / (sde.alpha(t) ** 2 * WIDTH**2 + sde.sigma(t) ** 2)

    def output(t: torch.Tensor) -> torch.Tensor:
        scale = model.output_scale(t)[:, None]
        return oracle.predict(x, t, predict) / scale

    found = penalty(x, t, output(t), output(t + GAP))
    expected = 0.25 * (slope(t + GAP) - slope(t)).abs() * x.norm(dim=1) / GAP
    # Outputs are rounded to float32, to 6e-8 of their size, and the noise that they imply is off
    # by sigma (score), 1 (noise, velocity) or alpha/sigma (data) times that; two, over GAP.
    blown = float((sde.alpha(t) / sde.sigma(t)).max()) if predict == "data" else 1.0
    rounding = 0.25 * 2 * 6e-8 * blown * float(x.norm(dim=1).max()) / GAP
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=2 * rounding)


def test_only_early_samples_are_asked() -> None:
    penalty = LipschitzPenalty(Denoiser(torch.nn.Identity(), make_sde()), 1.0, below=0.1)
    t = torch.tensor([0.5, 0.0999, 0.1, 1e-5], dtype=torch.float64)
    assert penalty.rows(t).tolist() == [1, 3]


def test_equal_outputs_give_zero_and_a_finite_gradient() -> None:
    # A network starts at F = 0, where the norm has no derivative.
    penalty = LipschitzPenalty(Denoiser(torch.nn.Identity(), make_sde()), 1.0, below=0.1)
    output = torch.zeros(2, DIM, requires_grad=True)
    t = torch.full((2,), 0.01, dtype=torch.float64)
    value = penalty(torch.ones(2, DIM), t, output, output * 1)
    value.sum().backward()
    assert value.tolist() == [0.0, 0.0]
    assert output.grad is not None
    assert bool(torch.isfinite(output.grad).all())


def learner(out: Path, **values: object) -> Learner:
    tiny = {
        "data": "mixture", "size": "tiny", "steps": 4, "batch_size": 64, "device": "cpu",
        "wandb": "disabled", "out": str(out), "precision": "fp32",
    }  # fmt: skip
    return Learner(plan(TrainConfig.from_dict({**tiny, **values})))


@pytest.mark.parametrize("labels", [False, True])
def test_the_loss_gains_the_penalty_of_early_samples_alone(tmp_path: Path, labels: bool) -> None:
    plain = learner(tmp_path, class_condition=labels)
    steep = learner(tmp_path, class_condition=labels, lipschitz_weight=1e-3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one, other in zip(plain.weights, steep.weights, strict=True):
            one.add_(0.1 * torch.randn(one.shape, generator=generator))
            other.copy_(one)
    (before, t), (after, _) = plain.losses(0), steep.losses(0)
    early = t < 0.1
    assert 0 < int(early.sum()) < len(t)
    gained = (after - before).detach()
    # One batch of another size: the products round differently, by some 1e-6 of losses near 1.
    assert float(gained[~early].abs().max()) < 1e-4
    assert bool((gained[early] > 1e-3).all())
