"""Images given their smaller versions: each sample keeps its own, whatever the solver does."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sdeflow.batches import device_of
from sdeflow.cli import cli
from sdeflow.config import TrainConfig
from sdeflow.data import load_data
from sdeflow.denoiser import Denoiser
from sdeflow.guidance import innermost
from sdeflow.instruments.derivative import precise, state_of
from sdeflow.instruments.lipschitz import lipschitz_study
from sdeflow.instruments.step_sizes import Setting, step_study, tight_solver
from sdeflow.instruments.told import noise_told
from sdeflow.likelihood import log_likelihood
from sdeflow.networks import make_network
from sdeflow.precision import in_float64
from sdeflow.run import Run, load_run
from sdeflow.sampling import encode, sample
from sdeflow.sde import make_sde
from sdeflow.super_resolution import Paired, check_images, first_images, low_resolution
from sdeflow.training import Learner, plan
from sdeflow.verify import draw_probe


def model(num_classes: int = 0) -> Denoiser:
    network = make_network(
        "unet", "tiny", data_shape=(1, 8, 8), num_classes=num_classes, image_channels=1
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape))
    return Denoiser(network.double().eval(), make_sde(), predict="velocity")


def test_low_resolution_is_the_mean_of_blocks() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert low_resolution(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert first_images(torch.cat([x, 2 * x]), 2, 3)[:, 0, 0, 0].tolist() == [2.5, 5.0, 2.5]


@pytest.mark.parametrize("shape", [(2,), (1, 8, 7), (1, 9, 9)])
def test_data_without_a_smaller_version_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="super_resolution=2"):
        check_images(shape, 2)


def test_the_network_sees_the_image_and_nothing_else_of_it() -> None:
    one = model()
    x, t = torch.randn(3, 1, 8, 8).double(), torch.full((3,), 0.3, dtype=torch.float64)
    image = torch.randn(3, 1, 4, 4).double()
    found = one.raw(x, t, None, image)
    # Enlarged by repeating pixels, an image is its own enlargement.
    large = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(found, one.raw(x, t, None, large))
    assert not torch.allclose(found, one.raw(x, t, None, -image))


def test_an_image_too_few_or_too_many_is_refused() -> None:
    x, t = torch.randn(2, 1, 8, 8).double(), 0.3
    with pytest.raises(ValueError, match="needs an image"):
        model().noise(x, t)
    plain = Denoiser(make_network("unet", "tiny", data_shape=(1, 8, 8)).double(), make_sde())
    with pytest.raises(ValueError, match="not trained for super-resolution"):
        plain.raw(x, t, None, x)
    with pytest.raises(ValueError, match="3 images for 2 samples"):
        sample(model(), (1, 8, 8), count=2, image=torch.zeros(3, 1, 4, 4))
    with pytest.raises(ValueError, match="takes no image"):
        make_network("mlp", data_shape=(2,), image_channels=1)


def test_pairs_by_number_are_the_models_own_answers() -> None:
    one = model(num_classes=4)
    x = torch.randn(3, 1, 8, 8).double()
    t = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    image, label = torch.randn(5, 1, 4, 4).double(), torch.tensor([3, 1, 0, 2, 2])
    rows = torch.tensor([4, 0, 1])
    found = Paired(one, image, label).noise(x, t, rows)
    assert torch.equal(found, one.predict(x, t, "noise", label[rows], image[rows]))
    guided = Paired(one.given(guidance=3.0), image, label).noise(x, t, rows)
    null = torch.full((3,), 4)
    plain = one.predict(x, t, "noise", null, image[rows])
    # Twice the batch in one call: products may be summed in another order.
    torch.testing.assert_close(guided, plain + 3 * (found - plain), rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="5 images for 3 samples"):
        Paired(one, image).noise(x, t)


@pytest.mark.parametrize("solver", ["dopri5", "adams", "ddim", "dpmpp-sde"])
def test_each_sample_keeps_its_image(solver: str) -> None:
    # Samples leave an adaptive batch one after the other; alone, each must come out the same.
    one = model(num_classes=3)
    noise = torch.randn(4, 1, 8, 8).double() * torch.tensor([0.2, 1, 3, 8]).reshape(4, 1, 1, 1)
    image, label = torch.randn(4, 1, 4, 4).double(), torch.tensor([0, 1, 2, 0])
    settings: dict[str, Any] = {"solver": solver, "guidance": 1.5, "dtype": torch.float64}
    settings |= {"steps": 6} if solver in ("ddim", "dpmpp-sde") else {"rtol": 1e-3, "atol": 1e-3}
    whole = sample(one, noise=noise, image=image, label=label, **settings)
    if "steps" not in settings:
        assert len(set(whole.log.evaluations.tolist())) > 1
    last = sample(one, noise=noise[3:], image=image[3:], label=label[3:], first=3, **settings)
    # The same arithmetic but for the order of sums, amplified by the flow.
    torch.testing.assert_close(whole.x[3:], last.x, rtol=1e-6, atol=1e-6)
    other = sample(one, noise=noise[3:], image=image[:1], label=label[3:], first=3, **settings)
    assert float((other.x - last.x).abs().max()) > 1e-4


def settings(out: Path, **values: Any) -> TrainConfig:
    tiny = {
        "data": "digits", "size": "tiny", "steps": 4, "batch_size": 16, "device": "cpu",
        "wandb": "disabled", "out": str(out), "super_resolution": 2,
    }  # fmt: skip
    return TrainConfig.from_dict({**tiny, **values})


def test_training_gives_each_sample_its_own_smaller_version(tmp_path: Path) -> None:
    learner = Learner(plan(settings(tmp_path, flips=True)))
    seen: list[torch.Tensor] = []
    learner.model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    batch = learner.draws.batch(0)
    learner.losses(0)
    x_0 = learner.dataset.train[batch.index]
    x_0[batch.flip] = x_0[batch.flip].flip(-1)
    assert torch.equal(seen[3], low_resolution(x_0, 2))


@pytest.mark.parametrize("values", [{"data": "mixture"}, {"super_resolution": 3}])
def test_refusals(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="super_resolution="):
        plan(settings(tmp_path, **values))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny labelled super-resolution run, from the command line."""
    out = tmp_path_factory.mktemp("runs")
    args = ["--data", "digits", "--size", "tiny", "--steps", "4", "--batch-size", "16"]
    args += ["--super-resolution", "2", "--class-condition", "--device", "cpu"]
    args += ["--wandb", "disabled", "--out", str(out), "--name", "x2"]
    done = CliRunner().invoke(cli, ["train", *args])
    assert done.exit_code == 0, done.stderr
    return load_run(out / "x2")


def test_the_commands_give_held_out_images(trained: Run, tmp_path: Path) -> None:
    assert list((trained.path / "samples").glob("*.png"))
    args = ["--solver", "ddim", "--steps", "3", "--device", "cpu", "--json"]
    out = tmp_path / "out"
    more = ["--count", "5", "--label", "0,1", "--guidance", "2", "--out", str(out)]
    done = CliRunner().invoke(cli, ["sample", str(trained.path), *args, *more])
    assert done.exit_code == 0, done.stderr
    image = first_images(load_data("digits").heldout, 2, 5)
    expected = sample(
        trained.denoiser, (1, 8, 8), solver="ddim", steps=3, count=5, image=image, guidance=2.0,
        label=torch.tensor([0, 1, 0, 1, 0]),
    )  # fmt: skip
    assert np.array_equal(np.load(out / "samples.npz")["x"], expected.x.numpy())
    more = ["--count", "30", "--space", "pixels", "--resamples", "5", "--out", str(tmp_path / "e")]
    done = CliRunner().invoke(cli, ["evaluate", str(trained.path), *args, *more])
    assert done.exit_code == 0, done.stderr
    assert "x2" in json.loads(done.stdout)["runs"][0]["about"]


def test_a_checkpoint_has_a_probe(trained: Run) -> None:
    assert draw_probe(trained.denoiser, trained.data_shape) is not None


@pytest.mark.parametrize("command", ["likelihood", "lipschitz"])
def test_commands_without_images_refuse_in_a_line(trained: Run, command: str) -> None:
    done = CliRunner().invoke(cli, [command, str(trained.path), "--count", "4"])
    assert done.exit_code == 2
    assert "image" in done.stderr
    assert done.stderr.count("\n") == 1


def pairs(guidance: float = 1.0) -> Paired:
    one = model(num_classes=3).float().requires_grad_(False)
    of = one if guidance == 1 else one.given(guidance=guidance)
    return Paired(of, torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_pairs_are_a_model_to_sample_and_to_encode(guidance: float) -> None:
    paired = pairs(guidance)
    settings: dict[str, Any] = {"solver": "ddim", "steps": 4}
    drawn = sample(paired, (1, 8, 8), count=4, **settings)
    direct = sample(
        innermost(paired), (1, 8, 8), image=paired.image, label=paired.label, guidance=guidance,
        count=4, **settings,
    )  # fmt: skip
    assert torch.equal(drawn.x, direct.x)
    parts = sample(paired, (1, 8, 8), count=4, batch_size=3, **settings)
    # The same arithmetic but for the order of sums.
    torch.testing.assert_close(parts.x, drawn.x, rtol=1e-3, atol=1e-3)
    latent = encode(paired, drawn.x, batch_size=3, **settings)
    chosen = encode(paired, drawn.x[2:], label=torch.tensor([2, 3]), **settings)
    torch.testing.assert_close(latent.x[2:], chosen.x, rtol=1e-3, atol=1e-3)
    found = log_likelihood(paired, drawn.x, t_min=0.5, rtol=0.1, atol=0.1, batch_size=3)
    assert bool(found.log_prob.isfinite().all())
    with pytest.raises(ValueError, match="4 images for 3 samples"):
        sample(paired, (1, 8, 8), count=3, **settings)
    with pytest.raises(ValueError, match="labels run from 0 to 3"):
        sample(paired, (1, 8, 8), count=1, label=4, **settings)
    if guidance == 1:
        twice = sample(paired, (1, 8, 8), count=4, guidance=2.0, batch_size=3, **settings)
        guided = Paired(innermost(paired).given(guidance=2.0), paired.image, paired.label)
        direct = sample(guided, (1, 8, 8), count=4, **settings)
        torch.testing.assert_close(twice.x, direct.x, rtol=1e-3, atol=1e-3)
    else:
        with pytest.raises(ValueError, match=r"guided by 1\.5 already"):
            sample(paired, (1, 8, 8), count=4, guidance=2.0, **settings)
    again = sample(paired.given(), (1, 8, 8), count=4, batch_size=3, **settings)
    assert torch.equal(again.x, parts.x)
    with pytest.raises(ValueError, match="has one for each sample already"):
        sample(paired, (1, 8, 8), count=4, image=paired.image, **settings)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_pairs_are_a_model_to_measure(guidance: float) -> None:
    paired = pairs(guidance)
    x_0 = torch.rand(4, 1, 8, 8) * 2 - 1
    steps = 1e-4
    study = lipschitz_study(
        in_float64(paired), x_0, [0.3], steps=(steps,), measure=("noise",), in_x=True, count=8
    )
    found = {row["quantity"]: row["mean"] for row in study.curve}
    # First order in the step.
    assert found["step"] == pytest.approx(found["total"], rel=1e-2)
    assert found["in x"] > 0
    in_turn = lipschitz_study(paired, x_0, [0.3], measure=("noise",), count=4, batch_size=3)
    assert in_turn.settings["dtype"] == "float32"
    outcomes = step_study(
        paired, [Setting("ddim", steps=4)], (1, 8, 8), count=4, reference_tolerance=1e-2
    )
    assert bool(outcomes.reference.ok.all())
    assert outcomes.reference.x.dtype == torch.float32
    x, t = torch.randn(4, 1, 8, 8), torch.full((4,), 0.05, dtype=torch.float64)
    told = noise_told(paired, x, t, 0.3)
    assert not torch.equal(told, paired.noise(x, t))
    assert not torch.equal(told, paired.noise(x, 0.3))


def test_guidance_and_pairs_are_where_their_network_is() -> None:
    one = model(num_classes=3).float()
    far = copy.deepcopy(one).to("meta")
    image = torch.zeros(2, 1, 4, 4)
    for wrap in (lambda of: of.given(), lambda of: Paired(of.given(), image)):
        assert device_of(wrap(far)).type == "meta"
        assert state_of(wrap(one)) == (torch.float32, torch.device("cpu"))
        assert state_of(in_float64(wrap(one)))[0] == torch.float64
        assert state_of(precise(wrap(copy.deepcopy(one).bfloat16())))[0] == torch.float32
        assert tight_solver(wrap(one)) == "dopri5"
