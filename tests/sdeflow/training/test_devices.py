"""Training on a device that is not the host and has no float64 (`pretended`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import PartialState
from pretended import DEVICE, pretending

from sdeflow.config import TrainConfig
from sdeflow.training import HeldOut, learner, plan
from sdeflow.training.learner import Learner


def steps(out: Path, device: torch.device, **values: Any) -> list[float]:
    """Loss and gradient of two steps, and what the average then leaves of held-out samples."""
    config = TrainConfig.from_dict({
        "data": "mixture", "size": "tiny", "steps": 4, "batch_size": 4, "device": "cpu",
        "precision": "fp32", "wandb": "disabled", "out": str(out), "name": "run", **values,
    })  # fmt: skip
    planned = plan(config)
    made = Learner(planned)
    assert made.device == device
    found = [*made.advance(), *made.advance()]
    data = planned.dataset
    labels = data.heldout_labels[:8] if config.class_condition else None
    held = HeldOut(made.loss, data.heldout[:8], labels, device, 64, 0, config.super_resolution)
    assert all(w.device == device for w in made.tensors()["model"].values())
    return [*found, held.evaluate(made.average).loss]


def test_a_second_run_may_take_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(device="cpu", precision="fp32")
    assert learner._accelerator(config).device.type == "cpu"
    with monkeypatch.context() as there:
        there.setattr(learner, "device_of", lambda name: DEVICE)
        there.setattr(PartialState, "default_device", DEVICE)
        assert learner._accelerator(config).device == DEVICE
    assert learner._accelerator(config).device.type == "cpu"


@pytest.mark.parametrize(
    "values",
    [
        {"data": "digits", "class_condition": True, "flips": True, "etsdm": True},
        {"lipschitz_weight": 0.1, "clip": 0.5},
        {"data": "digits", "super_resolution": 2, "soft_truncation": 1.0},
    ],
    ids=["classes", "penalty", "super-resolution"],
)
def test_steps_are_those_of_the_host(
    tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = steps(tmp_path, torch.device("cpu"), **values)
    usual = learner._accelerator

    def moved(config: TrainConfig) -> Any:
        accelerator = usual(config)
        accelerator.state.device = DEVICE
        return accelerator

    monkeypatch.setattr(learner, "_accelerator", moved)
    with pretending():
        there = steps(tmp_path, DEVICE, **values)
    # Attention and convolutions round in another order; float32 knows seven digits.
    assert there == pytest.approx(here, rel=1e-4)
