"""Training with a network and with data of the caller's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdeflow
from sdeflow.data import Dataset, from_tensors
from sdeflow.training import latest_checkpoint, plan


class Own(nn.Module):
    """Knows nothing of sdeflow; told a class where it has any."""

    def __init__(self, classes: int = 0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.num_classes = classes
        self.embed = nn.Embedding(classes + 1, 3)
        self.body = nn.Sequential(nn.Linear(7, 32), nn.SiLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        told = self.embed(torch.full_like(c, self.num_classes).long() if label is None else label)
        out: Tensor = self.body(torch.cat([x, c[:, None], told], 1))
        return out


def points(count: int = 300) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))


def settings(out: Path, **values: Any) -> sdeflow.TrainConfig:
    usual = {
        "steps": 8, "batch_size": 32, "checkpoint_every": 4, "device": "cpu", "wandb": "disabled",
        "out": str(out), "name": "run", "etsdm": True,
    }  # fmt: skip
    return sdeflow.TrainConfig.from_dict({**usual, **values})


def weights(run: Path, kind: str = "ema") -> dict[str, Tensor]:
    found = latest_checkpoint(run / "checkpoints", (kind,))
    assert found is not None
    return found[1][kind]


def test_own_network_on_own_data(tmp_path: Path) -> None:
    network = Own()
    before = network.body[0].weight.detach().clone()
    run = sdeflow.train(settings(tmp_path), network=network, data=points())
    assert (run.config.network, run.config.data, run.step) == ("own", "own", 8)
    assert not torch.equal(network.body[0].weight, before)  # the module itself was trained
    again = sdeflow.load_run(run.path, network=Own(seed=1))
    for name, value in weights(run.path).items():
        torch.testing.assert_close(again.denoiser.network.state_dict()[name], value)
    drawn = sdeflow.sample(again.denoiser, again.data_shape, count=4, solver="ddim", steps=3)
    assert drawn.x.shape == (4, 3)


def test_a_run_stopped_on_the_way_is_resumed_exactly(tmp_path: Path) -> None:
    whole = sdeflow.train(settings(tmp_path / "a"), network=Own(), data=points())
    sdeflow.train(
        settings(tmp_path / "b", steps=4, lr_schedule="constant"), network=Own(), data=points()
    )
    for kind in ("model", "ema"):
        one, two = (weights(tmp_path / x / "run", kind) for x in "ab")
        assert any(not torch.equal(one[name], two[name]) for name in one)
    straight = sdeflow.train(
        settings(tmp_path / "c", lr_schedule="constant"), network=Own(), data=points()
    )
    went_on = sdeflow.train(
        settings(tmp_path / "b", lr_schedule="constant", resume="auto"),
        network=Own(seed=5),  # its weights are replaced
        data=points(),
    )
    assert went_on.step == straight.step == whole.step
    for kind in ("model", "ema"):
        one, two = weights(straight.path, kind), weights(went_on.path, kind)
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_own_labels_guide(tmp_path: Path) -> None:
    x = points()
    data = from_tensors(x, (x[:, 0] > 0).long(), heldout=50)
    assert (len(data.heldout), data.num_classes) == (50, 2)
    run = sdeflow.train(settings(tmp_path, class_condition=True), network=Own(2), data=data)
    drawn = sdeflow.sample(
        run.denoiser, (3,), count=4, label=1, guidance=2.0, steps=3, solver="ddim"
    )
    assert torch.isfinite(drawn.x).all()


def test_built_in_networks_take_own_data(tmp_path: Path) -> None:
    run = sdeflow.train(settings(tmp_path, steps=2, size="tiny"), data=points())
    assert sdeflow.load_run(run.path).data_shape == (3,)


@pytest.mark.parametrize(
    ("values", "network", "message"),
    [
        ({"network": "mlp"}, Own(), "one is given, and the settings name 'mlp' too"),
        ({"network": "own"}, None, r"give it, as in sdeflow.load_run\(run, network=...\)"),
        ({"class_condition": True}, Own(), "num_classes is 0, the data have 2 classes"),
    ],
    ids=["two", "none", "classes"],
)
def test_networks_that_do_not_suit_are_refused(
    tmp_path: Path, values: dict[str, Any], network: nn.Module | None, message: str
) -> None:
    data = from_tensors(points(), (points()[:, 0] > 0).long())
    with pytest.raises(ValueError, match=message):
        plan(settings(tmp_path, **values), network=network, data=data)


def test_loading_asks_for_the_network(tmp_path: Path) -> None:
    run = sdeflow.train(settings(tmp_path, steps=2), network=Own(), data=points())
    with pytest.raises(ValueError, match="a network of its own in Python"):
        sdeflow.load_run(run.path)
    other = sdeflow.train(settings(tmp_path, steps=2, name="b", size="tiny"), data=points())
    with pytest.raises(ValueError, match="made by sdeflow; leave yours out"):
        sdeflow.load_run(other.path, network=Own())
    with pytest.raises(ValueError, match="this run was given its data in Python"):
        sdeflow.load_data(other.config.data)


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (torch.zeros(9, 3, dtype=torch.uint8), None, "images of bytes are x / 127.5 - 1"),
        (torch.zeros(9), None, r"give floats \(N, ...\)"),
        (torch.full((9, 3), torch.inf), None, "not finite"),
        (torch.zeros(9, 3), torch.zeros(9), "give integers from 0 on"),
        (torch.zeros(9, 3), torch.zeros(8).long(), r"shape \(9,\)"),
        (torch.zeros(0, 3), torch.zeros(0).long(), "needs at least 2"),
    ],
    ids=["bytes", "flat", "infinite", "floats", "number", "empty"],
)
def test_data_that_do_not_suit_are_refused(x: Tensor, labels: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_tensors(x, labels)


def test_pictures_are_known_by_their_shape_and_range() -> None:
    data: Dataset = from_tensors(torch.rand(20, 3, 4, 4) * 2 - 1)
    assert data.is_image
    assert not from_tensors(torch.rand(20, 3, 4, 4) * 3).is_image
