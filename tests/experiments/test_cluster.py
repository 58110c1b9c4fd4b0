"""The paper's setting, as far as a small machine can say.

Every distinct training takes two steps on small stand-in pictures with a tiny network, and one of
each kind is run to its end; every distinct network is laid out at its true size on the `meta`
device, where tensors have shapes and no numbers; and each kind of network takes two true steps at
256x256 with one picture a batch.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.runner.spec import NAMES, Subject, load_experiment, resolved
from sdeflow.build import build_network
from sdeflow.config import TrainConfig
from sdeflow.training import train
from sdeflow.training.learner import Learner
from sdeflow.training.plan import plan

CLASSES = 2
OF_THE_NETWORK = (
    "network", "size", "image_size", "condition", "embedding", "embedding_scale",
    "class_condition", "super_resolution", "checkpointing",
)  # fmt: skip
# A training of each kind of network and of each prediction: experiment, problem, arm.
KINDS = {
    "plain": ("fast", "ffhq", "baseline"),
    "shared": ("fast", "ffhq", "etsdm"),
    "classes": ("conditional", "lsun-classes", "etsdm"),
    "super-resolution": ("conditional", "ffhq-super", "etsdm"),
    "table": ("embedding", "ffhq", "table"),
    "score": ("alternatives", "ffhq", "score"),
    "velocity": ("alternatives", "ffhq", "velocity"),
    "data": ("alternatives", "ffhq", "data"),
}


def pictures(place: Path, size: int) -> str:
    """Coloured pictures in two classes; returns what `--data` takes."""
    rng = np.random.default_rng(0)
    for name in "ab"[:CLASSES]:
        (place / "data" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "data" / name / f"{i}.png")
    return f"folder:{place / 'data'}"


def reduced(config: TrainConfig, place: Path, data: str, **values: object) -> TrainConfig:
    """Two steps of a training on the pictures."""
    return dataclasses.replace(
        config, data=data, steps=2, warmup=0, wandb="disabled", out=str(place), name="run",
        checkpoint_every=2, **values,
    )  # fmt: skip


def trainings() -> Iterator[Subject]:
    """One subject for each training at cluster scale that differs by more than seed and folder."""
    found = set()
    for name in NAMES:
        for subject in load_experiment(name, "cluster").subjects:
            alike = dataclasses.replace(resolved(subject.config), data="folder:x", seed=0)
            if subject.oracle is None and alike not in found:
                found.add(alike)
                yield subject


def test_every_network_has_the_shape_of_its_pictures() -> None:
    networks = {
        tuple(getattr(s.config, name) for name in OF_THE_NETWORK): s.config for s in trainings()
    }
    assert len(networks) > len({c.condition for c in networks.values()})
    for config in networks.values():
        assert config.size == "paper"
        side = config.image_size
        assert side == 256
        with torch.device("meta"):
            network = build_network(config, (3, side, side), CLASSES)
        x = torch.empty(1, 3, side, side, device="meta")
        c = torch.full((1,), 0.5, dtype=torch.float64)
        label = torch.zeros(1, dtype=torch.long, device="meta") if config.class_condition else None
        image = x[..., :64, :64] if config.super_resolution else None
        out = network(x, c, label, image)
        assert out.shape == x.shape
        out.sum().backward()
        assert all(p.grad is not None for p in network.parameters())


def of_kind(kind: str) -> TrainConfig:
    """The settings of one of `KINDS`."""
    experiment, problem, arm = KINDS[kind]
    (config,) = (
        s.config
        for s in load_experiment(experiment, "cluster", 1).subjects
        if (s.problem, s.arm) == (problem, arm)
    )
    return config


def small(config: TrainConfig, place: Path, data: str) -> TrainConfig:
    """Two steps of a tiny network on small pictures."""
    return reduced(
        config, place, data, image_size=32, size="tiny", batch_size=2, precision="fp32",
    )  # fmt: skip


def take_two_steps(config: TrainConfig) -> None:
    learner = Learner(plan(config))
    before = [p.detach().clone() for p in learner.weights]
    for _ in range(2):
        loss, _ = learner.advance()
        assert np.isfinite(loss), config
    assert learner.skipped == 0
    moved = [bool((p != b).any()) for p, b in zip(learner.weights, before, strict=True)]
    assert sum(moved) > len(moved) // 2, config


@pytest.mark.slow
def test_every_training_takes_two_steps(tmp_path: Path) -> None:
    data = pictures(tmp_path, 32)
    for subject in trainings():
        take_two_steps(small(subject.config, tmp_path, data))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_run_of_two_steps(tmp_path: Path, kind: str) -> None:
    run = train(small(of_kind(kind), tmp_path, pictures(tmp_path, 32)), progress=False)
    assert run.step == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_true_steps_at_256_pixels(tmp_path: Path, kind: str) -> None:
    take_two_steps(reduced(of_kind(kind), tmp_path, pictures(tmp_path, 256), batch_size=1))
