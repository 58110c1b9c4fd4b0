"""Models are asked in evaluation mode, and left as they were."""

import pytest
import torch
from torch import nn

from sdeflow import Denoiser, Time, encode, make_sde, sample
from sdeflow.instruments.budget import error_budget
from sdeflow.instruments.lipschitz import lipschitz_study
from sdeflow.instruments.sensitivity import sensitivity_study
from sdeflow.instruments.step_sizes import Setting, step_study
from sdeflow.likelihood import log_likelihood
from sdeflow.modes import evaluating
from sdeflow.super_resolution import Paired

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
LOOSE = {"rtol": 0.1, "atol": 0.1}


class Net(nn.Module):
    """One linear layer with all that differs between training and use."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.out = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3)

    def forward(self, x, c):
        return self.out(self.drop(self.norm(x))) + 0.1 * c[:, None]


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: sample(m, (3,), solver="ddim", steps=3, count=4).x,
        lambda m: sample(m.given(guidance=1.0), (3,), solver="ddim", steps=3, count=4).x,
        lambda m: encode(m, X, solver="euler", steps=3).x,
        lambda m: log_likelihood(m, X, t_min=0.1, **LOOSE).log_prob,
        lambda m: lipschitz_study(m, X, [0.1], measure=["noise"], count=4).curve[0]["mean"],
        lambda m: sensitivity_study(m, X, times=[0.1], count=4).rows[0]["mean"],
        lambda m: step_study(m, [Setting(tolerance=0.1)], (3,), count=2).outcomes[0].error,
        lambda m: error_budget(m, (3,), count=2, steps=2, bins=1, floor=1e-4).causes[0]["rms"],
    ],
)
def test_as_in_evaluation_mode_and_left_as_it_was(ask):
    torch.manual_seed(0)
    model = Denoiser(Net(), make_sde()).requires_grad_(False)
    expected = ask(model.eval())
    model.train()
    model.network.norm.eval()  # frozen by its owner
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.testing.assert_close(ask(model), expected, rtol=0, atol=0)
    assert model.training
    assert model.network.drop.training
    assert not model.network.norm.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_restored_after_an_error():
    model = Denoiser(Net(), make_sde())
    with pytest.raises(ValueError, match="t_min"):
        sample(model, (3,), t_min=2.0)
    assert all(part.training for part in model.modules())
    with evaluating([Paired(model, X), None]):
        assert not model.network.drop.training
    assert all(part.training for part in model.modules())


class Single(nn.Module):
    """Makes float32 of its condition, as the embeddings of guided-diffusion do."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x, c):
        return self.out(x) + self.embed((1000 * c)[:, None].float() * torch.ones(4))


def test_networks_that_make_float32_are_refused_in_float64_with_the_remedy():
    model = Denoiser(Single(), make_sde(), Time()).requires_grad_(False)
    with pytest.raises(ValueError, match=r"\.to\(x\.dtype\)"):
        error_budget(model, (3,), count=2, steps=2, floor=1e-4)
    with pytest.raises(ValueError, match=r"\.to\(x\.dtype\)"):
        step_study(model, [Setting()], (3,), count=2)
    step_study(model, [Setting()], (3,), count=2, reference_tolerance=1e-4)
