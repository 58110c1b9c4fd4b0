"""The paper's setting, as far as a small machine can say: two steps on small stand-in pictures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.runner.spec import NAMES, Subject, load_experiment
from sdeflow.config import TrainConfig
from sdeflow.training import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Coloured pictures in two classes."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def reduced(config: TrainConfig, folder: Path, size: str) -> TrainConfig:
    return dataclasses.replace(
        config, data=f"folder:{folder}", image_size=32, size=size, steps=2, batch_size=2,
        warmup=0, precision="fp32", wandb="disabled", out=str(folder.parent), name="run",
        checkpoint_every=2,
    )  # fmt: skip


def arms() -> list[Subject]:
    """One subject for each arm of each experiment at cluster scale, first seed and problem."""
    found: dict[tuple[str, str], Subject] = {}
    for name in NAMES:
        for subject in load_experiment(name, "cluster").subjects:
            if subject.oracle is None:
                found.setdefault((name, subject.arm), subject)
    return [*found.values()]


@pytest.mark.slow
def test_the_papers_network_takes_two_steps(folder: Path) -> None:
    subject = load_experiment("fast", "cluster").subjects[0]
    assert subject.config.size == "paper"
    assert subject.config.time_distribution == "discrete"
    run = train(reduced(subject.config, folder, "paper"), progress=False)
    assert run.step == 2


@pytest.mark.slow
def test_every_arm_takes_two_steps(folder: Path) -> None:
    for number, subject in enumerate(arms()):
        config = reduced(subject.config, folder, "tiny")
        run = train(dataclasses.replace(config, name=f"run-{number}"), progress=False)
        assert run.step == 2, subject
