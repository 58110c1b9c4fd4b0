"""Training as a whole: exact resume, refusals, interruption, and what is left in the directory."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdeflow.config import TrainConfig, load_config
from sdeflow.run import latest_run, list_runs, load_run
from sdeflow.training import (
    Learner,
    TrainingInterrupted,
    latest_checkpoint,
    learner,
    plan,
    read_metrics,
    train,
)

FILES = ("model", "ema", "optimizer")


def settings(out: Path, **values: Any) -> TrainConfig:
    tiny = {
        "data": "mixture",
        "size": "tiny",
        "steps": 12,
        "batch_size": 48,
        "checkpoint_every": 4,
        "device": "cpu",
        "wandb": "disabled",
        "out": str(out),
        "name": "run",
    }
    return TrainConfig.from_dict({**tiny, **values})


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Pictures are tested once; drawing them is most of the time of so short a run."""
    if "pictures" not in request.node.name:
        monkeypatch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))


def state_of(run: Path) -> dict[str, dict[str, Tensor]]:
    found = latest_checkpoint(run / "checkpoints", FILES)
    assert found is not None
    return found[1]


def assert_same(one: Path, other: Path) -> None:
    first, second = state_of(one), state_of(other)
    for name in FILES:
        assert first[name].keys() == second[name].keys()
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), f"{name}: {key}"


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal while step `step` is taken."""
    advance = Learner.advance

    def signalled(self: Learner) -> tuple[float, float]:
        if self.step == step:
            signal.raise_signal(number)
        return advance(self)

    monkeypatch.setattr(Learner, "advance", signalled)


KILLED = """
import os, signal, sys
from sdeflow.config import TrainConfig
from sdeflow.training import Learner, recorder, train

recorder.Preview.draw = lambda *_: iter(())
advance, fatal = Learner.advance, {fatal}

def killed(self):
    if self.step == fatal:
        os.kill(os.getpid(), signal.{signal})
        if "{signal}" != "SIGKILL":
            os.kill(os.getpid(), signal.{signal})
    return advance(self)

Learner.advance = killed
train(TrainConfig.from_dict({config!r}))
"""


def in_subprocess(config: TrainConfig, fatal: int = -1, signal: str = "SIGKILL") -> int:
    code = KILLED.format(fatal=fatal, signal=signal, config=config.to_dict())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=300).returncode


def test_a_run_killed_and_resumed_equals_one_never_interrupted(tmp_path: Path) -> None:
    whole = settings(tmp_path, name="whole", steps=30, checkpoint_every=10)
    assert in_subprocess(whole) == 0
    broken = whole.replace({"name": "broken"})
    assert in_subprocess(broken, fatal=17) == -signal.SIGKILL
    assert [info.status for info in list_runs(tmp_path) if info.name == "broken"] == ["stopped"]
    assert in_subprocess(broken.replace({"resume": "auto"})) == 0
    assert_same(tmp_path / "whole", tmp_path / "broken")
    lines = [[line["step"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]
             for name in ("whole", "broken")]  # fmt: skip
    assert lines[0] == lines[1]


VARIANTS: list[dict[str, Any]] = [
    {"time_distribution": "uniform"},
    {"time_distribution": "discrete", "predict": "velocity"},
    {"time_distribution": "log-snr", "weighting": "likelihood"},
    {"time_distribution": "log-normal", "predict": "data", "weighting": "min-snr"},
    {"class_condition": True, "label_dropout": 0.3, "etsdm": True},
    {
        "time_distribution": "stratified",
        "precision": "bf16",
        "sde": "edm",
        "predict": "velocity",
    },
    {"lipschitz_weight": 0.1, "soft_truncation": 1.0},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_anywhere_and_resumed_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: dict[str, Any], number: int
) -> None:
    config, before = settings(tmp_path, **variant), signal.getsignal(number)
    train(config.replace({"name": "whole"}))
    with monkeypatch.context() as patch:
        stop_at(patch, 6, number)
        with pytest.raises(TrainingInterrupted, match=r"step 7 of 12.*--resume") as caught:
            train(config)
    assert caught.value.signal == number
    run = train(config.replace({"resume": "auto"}))
    assert run.step == 12
    assert_same(tmp_path / "whole", tmp_path / "run")
    assert signal.getsignal(number) == before  # ignored, where a shell runs this in the background


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    assert in_subprocess(settings(tmp_path), fatal=6, signal="SIGTERM") == -signal.SIGTERM
    found = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found[0].step == 4


def test_the_directory_is_enough_to_go_on_and_to_load(tmp_path: Path) -> None:
    config = settings(tmp_path, etsdm=True)
    run = train(config)
    directory = tmp_path / "run"
    assert run.path == directory
    resolved = load_config(directory / "config.yaml")
    assert resolved.steps == 12
    assert resolved.ema is not None
    assert resolved.t_max == 1.0
    loaded = load_run(directory)
    assert (loaded.step, loaded.data_shape, loaded.num_classes) == (12, (2,), 8)
    assert not loaded.denoiser.training
    assert loaded.last_loss == run.last_loss
    assert loaded.denoiser.breaks == pytest.approx((0.02, 0.04, 0.06, 0.08, 0.1))
    x, t = torch.randn(5, 2), torch.rand(5, dtype=torch.float64)
    assert torch.equal(loaded.denoiser.noise(x, t), run.denoiser.noise(x, t))
    lines = read_metrics(directory / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    heldout = [line for line in lines if "heldout" in line]
    assert [line["step"] for line in heldout] == [4, 8, 12]
    assert all(len(line["heldout_bins"]) + 1 == len(line["bin_edges"]) for line in heldout)
    record = json.loads((directory / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["step"] == 12
    # The two latest and the best are kept.
    best = json.loads((directory / "checkpoints" / "best.json").read_text())["step"]
    kept = sorted(path.name for path in (directory / "checkpoints").glob("step-*"))
    assert kept == [f"step-{step:08d}" for step in sorted({best, 8, 12})]
    assert latest_run(tmp_path) == directory
    assert load_run("run", root=tmp_path).step == 12
    assert load_run(directory, step=8).step == 8


def test_more_steps_go_on_and_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    config = settings(tmp_path, lr_schedule="constant", warmup=0)
    train(config)
    said: list[str] = []
    before = (tmp_path / "run" / "run.json").read_text()
    train(config.replace({"resume": "auto"}), say=said.append)
    assert "nothing to do" in said[-1]
    assert (tmp_path / "run" / "run.json").read_text() == before
    more = train(config.replace({"resume": str(tmp_path / "run"), "steps": 16}), say=said.append)
    assert more.step == 16
    assert any("steps 16 (was 12)" in line for line in said)
    train(config.replace({"name": "long", "steps": 16}))
    assert_same(tmp_path / "run", tmp_path / "long")


@pytest.mark.parametrize(
    ("values", "name", "table", "other"),
    [
        ({"etsdm": True}, "etsdm_edges", "[0.01,0.05, 0.1]", "[0.02, 0.1]"),
        ({"shared_noise": True}, "etsdm_edges", "[0.01,0.05, 0.1]", "[0.02, 0.1]"),
        ({"condition": "smooth"}, "smooth_shape", "[[0.5, 2],[0.01, 50]]", "[[0.5, 3.0]]"),
    ],
    ids=["edges", "levels", "steepness"],
)
def test_a_table_resumes_from_its_file_its_text_and_without_the_file(
    tmp_path: Path, values: dict[str, Any], name: str, table: str, other: str
) -> None:
    path = tmp_path / "table.json"
    path.write_text(table)
    config = settings(tmp_path, steps=1, **values, **{name: str(path)})
    saved = getattr(train(config).config, name)
    more = config.replace({"resume": "auto", "steps": 2})
    said: list[str] = []
    assert getattr(plan(more, said.append).config, name) == saved
    assert getattr(plan(more.replace({name: table}), said.append).config, name) == saved
    assert not any("table" in line or "[" in line for line in said)
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(ValueError, match=rf"cannot resume .*{flag} .*\(was "):
        plan(more.replace({name: other}))
    with pytest.raises(ValueError, match=rf"cannot resume .*{flag} .*\(was "):
        plan(more.replace({name: TrainConfig.from_dict({}).to_dict()[name]}))
    path.unlink()
    assert getattr(plan(more, said.append).config, name) == saved
    assert f"{flag} {path} is gone" in said[-2]


def test_pictures_are_drawn_while_training(tmp_path: Path) -> None:
    train(settings(tmp_path))
    samples = tmp_path / "run" / "samples"
    # A quarter of 12 steps is 3, but only checkpoints (4, 8, 12) draw.
    assert sorted(path.name for path in samples.iterdir()) == [
        "step-00000004.png",
        "step-00000008.png",
        "step-00000012",
    ]
    assert (samples / "step-00000012" / "steps.png").is_file()


# What is refused, before anything is written


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sde": "subvp"}, ["--sde subvp (was vp)", "--name"]),
        ({"predict": "data", "size": "small"}, ["--predict data", "--size small (was tiny)"]),
        ({"etsdm": True}, ["--etsdm True (was False)"]),
    ],
)
def test_another_architecture_cannot_be_resumed(
    tmp_path: Path, values: dict[str, Any], words: list[str]
) -> None:
    config = settings(tmp_path, steps=4)
    train(config)
    with pytest.raises(ValueError) as caught:
        plan(config.replace({"resume": "auto", "steps": 8, **values}))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": "mixtur"}, ["mixture"]),
        ({"etsdm": True, "condition": "log-snr"}, ["infinite"]),
        ({"resume": "/nowhere"}, ["--resume", "/nowhere"]),
        ({"device": "cuda:77"}, ["--device"]),
        ({"device": "gpu"}, ["--device", "cuda"]),
        ({"precision": "fp16"}, ["fp16", "bf16"]),
        ({"network": "unet"}, ["unet", "mlp"]),
        ({"data": "moons", "image_size": 8}, ["image_size"]),
        ({"data": "moons", "flips": True}, ["--flips", "moons", "(2,)", "images"]),
    ],
)
def test_bad_input_is_refused_and_nothing_written(
    tmp_path: Path, values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        train(settings(tmp_path / "runs", **values))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("values", "t_max"),
    [
        ({"condition": "log-snr"}, 0.999),
        ({"condition": "edm", "etsdm": True, "etsdm_at": "right"}, 0.999),
        ({"condition": "sigma"}, 1.0),
        ({"condition": "log-snr", "t_max": 0.5}, 0.5),
        ({"condition": "log-snr", "schedule": "linear"}, 1.0),
        ({"condition": "log-snr", "sde": "ve", "schedule": "linear"}, 1.0),
    ],
)
def test_training_ends_where_the_condition_is_finite(
    tmp_path: Path, values: dict[str, Any], t_max: float
) -> None:
    base = {"schedule": "zero-snr", "predict": "velocity"}
    planned = plan(settings(tmp_path, **{**base, **values}))
    assert planned.config.t_max == t_max
    told = planned.denoiser.conditioning(torch.tensor([t_max], dtype=torch.float64))
    assert bool(torch.isfinite(told).all())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"soft_truncation": 50.0}, ["soft_truncation=50", "[0, 20]"]),
        ({"time_distribution": "log-snr", "schedule": "cosine", "t_max": 1.0}, ["t_max=0.999"]),
        ({"time_distribution": "discrete", "t_min": 1e-5, "t_max": 1e-4}, ["discrete", "widen"]),
    ],
)
def test_a_plan_refuses_laws_of_time_that_training_would(
    tmp_path: Path, values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        plan(settings(tmp_path, **values))
    assert all(word in str(caught.value) for word in words), caught.value


def test_names_are_not_overwritten(tmp_path: Path) -> None:
    config = settings(tmp_path, steps=1, etsdm=True)
    train(config)
    with pytest.raises(ValueError, match=r"exists; choose another name, or go on"):
        plan(config)
    unnamed = config.replace({"name": None})
    assert plan(unnamed).directory == tmp_path / "mixture-vp-etsdm"
    (tmp_path / "mixture-vp-etsdm").mkdir()
    assert plan(unnamed).directory == tmp_path / "mixture-vp-etsdm-2"
    assert plan(unnamed.replace({"resume": "auto"})).directory == tmp_path / "mixture-vp-etsdm"


def test_loading_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sdeflow train"):
        latest_run(tmp_path / "runs")
    (tmp_path / "runs" / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="sdeflow train"):
        latest_run(tmp_path / "runs")
    with pytest.raises(ValueError, match="has no checkpoint"):
        load_run(tmp_path / "runs" / "empty")
    with pytest.raises(ValueError, match=r"did you mean .*empty"):
        load_run("emty", root=tmp_path / "runs")
    run = train(settings(tmp_path / "runs", steps=2, checkpoint_every=1))
    for path in run.path.glob("checkpoints/step-*2/ema.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    said: list[str] = []
    assert load_run(run.path, warn=said.append).step == 1
    assert "damaged" in said[0]
    for path in run.path.glob("checkpoints/step-*/ema.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged") as caught:
        load_run(run.path)
    assert "\n" not in str(caught.value)


# Steps that go wrong


def poison(monkeypatch: pytest.MonkeyPatch, steps: range, value: float = float("nan")) -> None:
    losses = Learner.losses

    def poisoned(self: Learner, step: int) -> tuple[Tensor, Tensor]:
        values, t = losses(self, step)
        return (values * value if step in steps else values), t

    monkeypatch.setattr(Learner, "losses", poisoned)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    poison(monkeypatch, range(1, 3), value)
    one = Learner(plan(settings(tmp_path)))
    one.advance()
    before = [weight.clone() for weight in (*one.weights, *one.average.parameters())]
    one.advance()
    one.advance()
    after = [*one.weights, *one.average.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (one.step, one.updates, one.skipped, one.bad) == (3, 1, 2, 2)
    one.advance()
    assert (one.skipped, one.bad) == (2, 0)
    assert all(bool(torch.isfinite(weight).all()) for weight in one.average.parameters())


def test_ten_in_a_row_end_the_run_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(6, 100))
    with pytest.raises(FloatingPointError) as caught:
        train(settings(tmp_path, steps=50))
    message = str(caught.value)
    assert "10 times in a row, last in the batch of step 16" in message
    assert "48 of the 48 samples" in message
    assert "mostly for t in [" in message
    assert "the last good checkpoint is step 12" in message
    # Step 4 was saved before the trouble, 8 and 12 during it with untouched weights.
    for step in (8, 12):
        state = state_of(tmp_path / "run")
        assert all(bool(torch.isfinite(w).all()) for w in state["ema"].values()), step
    assert list_runs(tmp_path)[0].status == "stopped"


def test_rates_and_decays() -> None:
    config = replace(TrainConfig(), lr=1.0, steps=100, warmup=4)
    rates = [learner.learning_rate(config, step) for step in range(101)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0
    assert rates[52] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    constant = replace(config, lr_schedule="constant")
    assert learner.learning_rate(constant, 99) == 1.0
    assert [learner.ema_decay(0.999, k) for k in (0, 10)] == pytest.approx([0.1, 0.55])
    assert learner.ema_decay(0.999, 10**6) == 0.999


def test_the_average_is_the_recursion(tmp_path: Path) -> None:
    one = Learner(plan(settings(tmp_path, ema=0.5)))
    expected = [weight.detach().double().clone() for weight in one.weights]
    for k in range(12):
        one.advance()
        m = min(0.5, (1 + k) / (10 + k))
        expected = [
            m * e + (1 - m) * w.detach().double()
            for e, w in zip(expected, one.weights, strict=True)
        ]
    for average, value in zip(one.average.parameters(), expected, strict=True):
        # 12 float32 interpolations of numbers of order 1: 12 roundings of 6e-8, doubled.
        torch.testing.assert_close(average.double(), value, rtol=0, atol=2e-6)
