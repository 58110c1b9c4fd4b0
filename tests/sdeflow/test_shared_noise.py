"""The noise level itself shared: few levels near 0, in training and in sampling."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sdeflow.cli import cli
from sdeflow.conditioning import LogSNR, SharedNoise
from sdeflow.config import TrainConfig
from sdeflow.denoiser import Denoiser
from sdeflow.oracle import Gaussian
from sdeflow.run import load_run
from sdeflow.samplers import samplers
from sdeflow.sampling import encode, sample
from sdeflow.sde import make_sde
from sdeflow.training import Learner, plan, train
from sdeflow.training.heldout import HeldOut

LEVELS = [1e-5, 0.02, 0.04, 0.06, 0.08]


def settings(out: Path, **values: Any) -> TrainConfig:
    tiny = {
        "data": "mixture", "size": "tiny", "steps": 4, "batch_size": 256, "device": "cpu",
        "wandb": "disabled", "out": str(out), "name": "run", "shared_noise": True,
    }  # fmt: skip
    return TrainConfig.from_dict({**tiny, **values})


def levels_in(t: torch.Tensor) -> list[float]:
    return t[t < 0.1].unique().tolist()


def test_the_first_level_is_moved_off_zero() -> None:
    shared = SharedNoise(make_sde(), least=1e-4)
    t = torch.tensor([0.0, 1e-6, 0.01, 0.02, 0.0999, 0.1, 0.7], dtype=torch.float64)
    expected = torch.tensor([1e-4, 1e-4, 1e-4, 0.02, 0.08, 0.1, 0.7], dtype=torch.float64)
    torch.testing.assert_close(shared.visited(t), expected, rtol=1e-12, atol=0)
    assert torch.equal(shared(t), shared.visited(t))
    # So a condition that is infinite at 0 can be shared, too.
    sde = make_sde()
    told = SharedNoise(sde, of=LogSNR(sde), least=1e-4)
    assert torch.equal(told(t), sde.log_snr(expected)) or bool(
        torch.isclose(told(t), sde.log_snr(expected)).all()
    )


@pytest.mark.parametrize("least", [0.0, 0.02, 0.5])
def test_bad_first_levels(least: float) -> None:
    with pytest.raises(ValueError, match="least"):
        SharedNoise(make_sde(), least=least)


def test_training_and_held_out_times_are_the_levels(tmp_path: Path) -> None:
    learner = Learner(plan(settings(tmp_path)))
    _, t = learner.losses(0)
    assert levels_in(t) == pytest.approx(LEVELS)
    assert len(t[t > 0.1].unique()) > 200
    heldout = HeldOut(learner.loss, learner.dataset.heldout, None, learner.device, 256)
    assert levels_in(heldout.t) == pytest.approx(LEVELS)


@pytest.mark.parametrize("law", ["uniform", "log-snr", "log-normal"])
def test_the_held_out_objective_is_that_of_the_law_of_times(tmp_path: Path, law: str) -> None:
    # A fresh network answers 0: its error is |eps|^2 / d at all times, 1 on average.
    learner = Learner(plan(settings(tmp_path, time_distribution=law)))
    heldout = HeldOut(learner.loss, learner.dataset.heldout, None, learner.device, 256)
    found = heldout.evaluate(learner.denoiser)
    # Of d = 2 and 1024 probes to a bin, the means spread by 1/32; a bin may hold nearly all mass.
    assert found.loss == pytest.approx(1, abs=5 / 32)


class Exact(torch.nn.Module):
    """The noise prediction of Gaussian data, which remembers what it was asked."""

    condition_dtype = torch.float64

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Gaussian(make_sde(), torch.zeros(2).double(), width=0.5)
        self.asked: list[float] = []

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        self.asked += c.unique().tolist()
        return self.oracle.predict(x, c, "noise")


@pytest.mark.parametrize("solver", ["ddim", "dpmpp-2m", "euler", "dpmpp-sde"])
def test_sampling_visits_the_levels_alone(solver: str) -> None:
    network = Exact()
    model = Denoiser(network, make_sde(), SharedNoise(make_sde()))
    drawn = sample(model, (2,), solver=solver, steps=40, count=3)
    near = sorted({t for t in network.asked if t < 0.1})
    assert set(near) <= set(LEVELS)
    # The last level is where it ends: it is reached, and asked about only by the next step.
    assert near[:1] != [LEVELS[0]]
    assert drawn.settings["t_min"] == LEVELS[0]
    assert drawn.settings["times"][-2:] == pytest.approx([0.02, 1e-5])
    assert drawn.settings["steps"] == len(drawn.settings["times"]) - 1 <= 40
    assert bool(drawn.ok.all())
    guided = model.given()
    assert guided.quantised
    assert torch.equal(sample(guided, (2,), solver=solver, steps=40, count=3).x, drawn.x)


def test_samples_of_gaussian_data_come_out_right() -> None:
    # The exact flow scales x by std(end)/std(start); DDIM's error is of first order in its steps.
    network, sde = Exact(), make_sde()
    model = Denoiser(network, sde, SharedNoise(sde, least=1e-3))
    noise = torch.randn(50, 2, dtype=torch.float64)
    drawn = sample(model, noise=noise, solver="ddim", steps=500, dtype=torch.float64)
    std = [float((sde.alpha(t) * 0.5) ** 2 + sde.sigma(t) ** 2) ** 0.5 for t in (1e-3, 1.0)]
    ratio = (drawn.x / noise).mean()
    # Five steps of 0.02 below 0.1 change x by some 0.07 each there; half of the square is lost.
    assert float(ratio) == pytest.approx(std[0] / std[1], rel=0.05)


# Stages inside a step, noise added before one, or times rounded to float32.
BESIDE = (
    "midpoint", "bosh3", "rk4", "dopri", "tsit5", "sra", "heun-edm-churn", "torchdiffeq/",
    "torchsde/",
)  # fmt: skip


@pytest.mark.parametrize("solver", [sampler.name for sampler in samplers()])
def test_no_solver_asks_beside_the_levels(solver: str) -> None:
    network = Exact()
    model = Denoiser(network, make_sde(), SharedNoise(make_sde()))
    true_times: list[float] = []
    predict = model.predict

    def watched(x: torch.Tensor, t: torch.Tensor, *rest: Any) -> torch.Tensor:
        true_times.extend(t.tolist())
        return predict(x, t, *rest)

    model.predict = watched  # type: ignore[method-assign]
    settings: dict[str, Any] = {"solver": solver, "steps": 12, "count": 2}
    if solver.startswith(BESIDE):
        with pytest.raises(ValueError, match="between the ends of its steps"):
            sample(model, (2,), **settings)
        assert not true_times
    else:
        sample(model, (2,), **settings)
        t = torch.tensor(true_times, dtype=torch.float64)
        torch.testing.assert_close(model.visited(t), t, rtol=1e-8, atol=0)


def test_what_chooses_its_own_times_is_refused() -> None:
    model = Denoiser(Exact(), make_sde(), SharedNoise(make_sde()))
    with pytest.raises(ValueError, match="--steps"):
        sample(model, (2,), solver="dopri5", count=2)
    with pytest.raises(ValueError, match="--steps"):
        encode(model, torch.zeros(2, 2))


def test_a_run_end_to_end(tmp_path: Path) -> None:
    run = train(settings(tmp_path))
    loaded = load_run(run.path)
    assert loaded.denoiser.quantised
    assert list((run.path / "samples").glob("*.png"))
    with pytest.raises(ValueError, match="shared noise levels"):
        loaded.told({"etsdm": True})
    refused = CliRunner().invoke(cli, ["sample", str(run.path), "--count", "2"])
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    args = ["sample", str(run.path), "--count", "2", "--solver", "ddim", "--steps", "5"]
    assert CliRunner().invoke(cli, args).exit_code == 0
