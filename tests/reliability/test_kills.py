"""Fifty random ends of processes that train; what is left always goes on to the same weights."""

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from offline import records
from reliability.workers import TRAIN, assert_same_weights, finish, start, state_of, tiny

KILLS = int(os.environ.get("SDEFLOW_KILLS", "50"))
STEPS = 600

VARIANTS: list[dict[str, Any]] = [
    {"time_distribution": "uniform", "ema": 0.9},
    {"time_distribution": "stratified", "precision": "bf16", "sde": "edm", "predict": "velocity"},
    {"time_distribution": "discrete", "class_condition": True, "label_dropout": 0.3},
    {"time_distribution": "log-snr", "weighting": "likelihood", "etsdm": True},
    {"time_distribution": "log-normal", "predict": "data", "weighting": "min-snr"},
]
ENDS = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
}
READY = "import sys; print('ready', flush=True)\n"


def until_ready(config: Any) -> Any:
    """A process that has imported everything and begins to train."""
    code = TRAIN.format(config=config.to_dict())
    code = code.replace("train(TrainConfig", READY + "train(TrainConfig")
    worker = start(code)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v["time_distribution"])
def test_killed_at_random_and_resumed_is_bit_identical(
    tmp_path: Path, variant: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path, steps=STEPS, checkpoint_every=40, **variant)
    whole, broken = config.replace({"name": "whole"}), config.replace({"resume": "auto"})
    began = time.monotonic()
    worker = until_ready(whole)
    ready = time.monotonic()
    assert finish([worker])[0][0] == 0
    length = time.monotonic() - ready
    assert length < ready - began + 240
    rng = random.Random(variant["time_distribution"])
    killed: dict[str, int] = {}
    runs = 0
    share = -(-KILLS // len(VARIANTS))
    while sum(killed.values()) < share or not _finished(tmp_path / "run"):
        worker = until_ready(broken)
        if sum(killed.values()) >= share:
            assert finish([worker])[0][0] == 0
            continue
        name = list(ENDS)[sum(killed.values()) % len(ENDS)]
        time.sleep(rng.uniform(0, length / 2))
        for number in ENDS[name]:
            if worker.poll() is None:
                os.kill(worker.pid, number)
                time.sleep(rng.uniform(0, 0.01))
        ((code, said),) = finish([worker])
        if code == 0:  # it was done before the signal came: begin anew, there are kills left
            assert_same_weights(tmp_path / "run", tmp_path / "whole")
            runs += 1
            shutil.rmtree(tmp_path / "run")
            continue
        killed[name] = killed.get(name, 0) + 1
        if name in ("SIGTERM", "SIGINT") and "stopped at step" in said:
            assert "checkpoint written; go on with --resume" in said
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    with capsys.disabled():
        print(f"\n{variant['time_distribution']}: {sum(killed.values())} kills survived {killed}")


def _finished(run: Path) -> bool:
    return any(run.glob("checkpoints/step-*")) and state_of(run)[0] == STEPS


@pytest.mark.slow
def test_wandbs_record_survives_a_kill(tmp_path: Path) -> None:
    """What was logged before SIGKILL can be read back record by record, and the run goes on."""
    config = tiny(tmp_path, steps=100_000, wandb="offline", checkpoint_every=50)
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_API_KEY"}
    worker = start(TRAIN.format(config=config.to_dict()), environment)
    lines = tmp_path / "run" / "metrics.jsonl"
    for _ in range(1200):
        if lines.exists() and len(lines.read_text().splitlines()) > 4:
            break
        time.sleep(0.1)
    time.sleep(3)  # wandb writes what it has every two seconds
    worker.kill()
    finish([worker])
    (path,) = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(100):  # wandb's own process ends by itself
        size = path.stat().st_size
        time.sleep(0.2)
        if path.stat().st_size == size:
            break
    kinds = [record.WhichOneof("record_type") for record in records(path)]
    assert "history" in kinds  # wandb holds back the last two seconds
    assert "run" in kinds
    again = config.replace({"steps": state_of(tmp_path / "run")[0] + 5, "resume": "auto"})
    assert finish([start(TRAIN.format(config=again.to_dict()), environment)])[0][0] == 0
    assert len(list((tmp_path / "run").glob("wandb/offline-run-*"))) == 2
