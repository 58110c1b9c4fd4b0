"""Diagnostics: gradients as one by one, K as the instrument has it, no trace in the weights."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sdeflow.config import TrainConfig
from sdeflow.instruments.lipschitz import lipschitz_study
from sdeflow.report import write_run_figures
from sdeflow.run import load_run
from sdeflow.training import Learner, TrainingInterrupted, latest_checkpoint, plan, train
from sdeflow.training.diagnostics import K_SAMPLES, PER_BIN, Diagnostics
from sdeflow.training.draws import seed_of
from sdeflow.training.journal import read_metrics


def settings(out: Path, **values: Any) -> TrainConfig:
    tiny = {
        "data": "mixture", "size": "tiny", "steps": 6, "batch_size": 16, "checkpoint_every": 3,
        "device": "cpu", "wandb": "disabled", "out": str(out), "name": "run", "etsdm": True,
    }  # fmt: skip
    return TrainConfig.from_dict({**tiny, **values})


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))


def prepared(config: TrainConfig) -> tuple[Learner, Diagnostics]:
    planned = plan(config)
    learner = Learner(planned)
    for _ in range(2):  # the first step leaves the last layer's zeros behind
        learner.advance()
    data = planned.dataset
    labels = data.heldout_labels if config.class_condition else None
    breaks = learner.denoiser.breaks
    return learner, Diagnostics(learner.loss, data.heldout, labels, learner.device, breaks, 16)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"predict": "velocity", "weighting": "min-snr"},
        {"sde": "edm", "predict": "data", "etsdm": False},
        {"data": "digits", "class_condition": True, "precision": "bf16"},
    ],
    ids=["noise", "velocity", "edm", "digits"],
)
def test_gradients_are_those_of_each_sample(tmp_path: Path, values: dict[str, Any]) -> None:
    learner, diagnostics = prepared(settings(tmp_path, **values))
    before = {module: module.training for module in learner.denoiser.modules()}
    found = diagnostics.diagnose(learner.denoiser, learner.average)
    assert {module: module.training for module in learner.denoiser.modules()} == before
    assert all(weight.grad is None for weight in learner.weights)
    assert len(found.norm) == len(diagnostics.edges) - 1
    learner.denoiser.eval()
    for index in (0, len(found.norm) - 1):
        each = []
        for j in range(PER_BIN):
            row, t = diagnostics.rows[index, j : j + 1], diagnostics.t[index, j : j + 1]
            low, high = diagnostics.edges[index : index + 2]
            assert low <= float(t) <= high
            x_0, noise = diagnostics.data[row], diagnostics.noise[index, j : j + 1]
            label = None if diagnostics.labels is None else diagnostics.labels[row]
            output = learner.denoiser.raw(learner.sde.perturb(x_0, t, noise), t, label)
            loss = learner.loss(output, x_0, noise, t).sum()
            parts = torch.autograd.grad(loss, learner.weights, allow_unused=True)
            each.append(torch.cat([p.flatten() for p in parts if p is not None]).double())
        gradients = torch.stack(each)
        norms = gradients.norm(dim=1)
        noise_of_one = (gradients - gradients.mean(0)).square().sum() / (PER_BIN - 1)
        # Sums of some thousands of float32 products in another order.
        assert found.norm[index] == pytest.approx(float(norms.mean()), rel=1e-4)
        assert found.variance[index] == pytest.approx(float(norms.var()), rel=1e-2)
        assert found.noise[index] == pytest.approx(float(noise_of_one), rel=1e-3)


def test_gradients_are_at_the_levels_where_noise_is_shared(tmp_path: Path) -> None:
    learner, diagnostics = prepared(settings(tmp_path, etsdm=False, shared_noise=True))
    t = diagnostics.t
    assert t[t < 0.1].unique().tolist() == pytest.approx([1e-5, 0.02, 0.04, 0.06, 0.08])
    assert torch.equal(learner.denoiser.visited(t), t)
    found = diagnostics.diagnose(learner.denoiser, learner.average)
    assert all(math.isfinite(norm) for norm in found.norm)


def test_large_networks_are_taken_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, diagnostics = prepared(settings(tmp_path))
    whole = diagnostics.diagnose(learner.denoiser, learner.average)
    monkeypatch.setattr("sdeflow.training.diagnostics.NUMBERS", 1)
    parts = diagnostics.diagnose(learner.denoiser, learner.average)
    assert parts.noise == pytest.approx(whole.noise, rel=1e-3)
    assert parts.k == whole.k


def test_k_is_the_instruments(tmp_path: Path) -> None:
    train(settings(tmp_path, diagnostics=True))
    (line,) = (
        m for m in read_metrics(tmp_path / "run/metrics.jsonl") if m.get("k") and m["step"] == 6
    )
    run = load_run(tmp_path / "run")
    study = lipschitz_study(
        run.denoiser,
        plan(settings(tmp_path, name="other")).dataset.heldout,
        line["k_times"],
        derivative=False,
        count=K_SAMPLES,
        seed=seed_of(0, "steepness"),
    )
    noise = [row for row in study.curve if row["prediction"] == "noise"]
    # The same weights and samples; batches of another size.
    assert line["k"] == pytest.approx([row["mean"] for row in noise], rel=1e-4)
    assert line["k_times"] == [1e-5, 1e-3, 1e-2, 0.1, 0.5]
    assert line["k"][:3] == [0.0, 0.0, 0.0]
    assert line["jump_times"] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    jumps = [row["mean"] for row in study.jumps if row["prediction"] == "noise"]
    assert line["jumps"] == pytest.approx(jumps, rel=1e-4)
    files = write_run_figures(tmp_path / "run", svg=True)
    assert [file.name for file in files] == ["loss.png", "heldout.png", "diagnostics.png"]
    with (tmp_path / "run/figures/diagnostics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(rows[-1][f"K, t = {t:g}"]) for t in line["k_times"]] == line["k"]
    bins = zip(line["bin_edges"], line["bin_edges"][1:], line["grad_noise_bins"], strict=False)
    for low, high, value in bins:
        assert float(rows[-1][f"grad_noise, t {low:g} to {high:g}"]) == value


def test_nothing_but_the_record_changes_and_resuming_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(settings(tmp_path, name="without"))
    train(settings(tmp_path, name="with", diagnostics=True))
    advance = Learner.advance

    def stopped(self: Learner) -> tuple[float, float]:
        if self.step == 4:
            monkeypatch.setattr(Learner, "advance", advance)
            raise TrainingInterrupted("stopped", 2)
        return advance(self)

    monkeypatch.setattr(Learner, "advance", stopped)
    broken = settings(tmp_path, name="broken", diagnostics=True)
    with pytest.raises(TrainingInterrupted):
        train(broken)
    train(broken.replace({"resume": "auto"}))
    states = {}
    for name in ("without", "with", "broken"):
        found = latest_checkpoint(tmp_path / name / "checkpoints", ("model", "ema", "optimizer"))
        assert found is not None
        states[name] = found[1]
    for name in ("with", "broken"):
        for part, tensors in states["without"].items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, states[name][part][key]), (name, part, key)
    lines = {
        name: [m for m in read_metrics(tmp_path / name / "metrics.jsonl") if "k" in m]
        for name in states
    }
    assert lines["without"] == []
    assert [line["step"] for line in lines["with"]] == [3, 6]
    assert lines["broken"] == lines["with"]
