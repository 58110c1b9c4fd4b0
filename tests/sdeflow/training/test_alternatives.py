"""The alternatives to sharing time, trained for a few steps: exact resume, settings kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdeflow.config import TrainConfig, load_config
from sdeflow.run import load_run
from sdeflow.training import Learner, latest_checkpoint, train

FILES = ("model", "ema", "optimizer")
ALTERNATIVES: dict[str, dict[str, Any]] = {
    "lipschitz": {"lipschitz_weight": 1e-4},
    "lipschitz-velocity": {"lipschitz_weight": 1e-4, "predict": "velocity", "sde": "ve"},
    "soft-truncation": {"soft_truncation": 1.0},
    "shared-noise": {"shared_noise": True, "time_distribution": "uniform"},
    "sigma-floor": {"sigma_floor": 0.02},
    "super-resolution": {"data": "digits", "super_resolution": 2, "lipschitz_weight": 1e-4},
    "power": {"condition": "smooth", "smooth_shape": "power:3", "smooth_scale": 0.2},
    "equalised": {"condition": "smooth", "smooth_shape": "[[0.001, 80.0], [0.5, 2.0]]"},
    "table": {"embedding": "table"},
    "fourier": {"embedding": "fourier", "embedding_scale": 0.1},
}


def settings(out: Path, name: str, **values: Any) -> TrainConfig:
    tiny = {
        "data": "mixture", "size": "tiny", "steps": 6, "batch_size": 32, "checkpoint_every": 3,
        "device": "cpu", "wandb": "disabled", "out": str(out), "name": name,
    }  # fmt: skip
    return TrainConfig.from_dict({**tiny, **values})


@pytest.mark.parametrize("which", sorted(ALTERNATIVES))
def test_resumed_training_equals_one_never_stopped(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
    values = ALTERNATIVES[which]
    whole = train(settings(tmp_path, "whole", **values))
    config = settings(tmp_path, "broken", **values)
    with monkeypatch.context() as patch:
        advance = Learner.advance

        def fails(self: Learner) -> tuple[float, float]:
            if self.step == 4:
                raise FloatingPointError("stopped")
            return advance(self)

        patch.setattr(Learner, "advance", fails)
        with pytest.raises(FloatingPointError):
            train(config)
    broken = train(config.replace({"resume": "auto"}))
    for name in FILES:
        found = [latest_checkpoint(run.path / "checkpoints", FILES) for run in (whole, broken)]
        first, second = (pair[1][name] for pair in found if pair is not None)
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]), key
    saved = load_config(broken.path / "config.yaml")
    loaded = load_run(broken.path)
    for name, value in values.items():
        assert getattr(saved, name) == getattr(loaded.config, name) == value
