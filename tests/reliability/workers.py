"""Runs of sdeflow in processes of their own: what the tests of kills, ranks and faults share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdeflow.config import TrainConfig
from sdeflow.training import latest_checkpoint

FILES = ("model", "ema", "optimizer")

TRAIN = """
import sys
from sdeflow.config import TrainConfig
from sdeflow.training import recorder, train

recorder.Preview.draw = lambda *_: iter(())
train(TrainConfig.from_dict({config!r}), say=lambda line: print(line, file=sys.stderr, flush=True))
"""

CLI = "import sys; from sdeflow.cli import main; main({args!r})"


def tiny(out: Path, **values: Any) -> TrainConfig:
    """Settings of the smallest run: points in the plane, twelve steps."""
    settings = {
        "data": "mixture",
        "size": "tiny",
        "steps": 12,
        "batch_size": 256,  # that of the held-out loss as well, which takes most of the time
        "checkpoint_every": 4,
        "device": "cpu",
        "wandb": "disabled",
        "out": str(out),
        "name": "run",
    }
    return TrainConfig.from_dict({**settings, **values})


def start(code: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A Python process on one thread, its stderr kept."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(code: str, count: int = 2) -> list[subprocess.Popen[str]]:
    """The same code in `count` processes that know of each other, as launchers start them."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = map(str, range(count))
    return [start(code, {**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in ranks]


def finish(
    workers: Sequence[subprocess.Popen[str]], timeout: float = 240
) -> list[tuple[int, str]]:
    """Exit code and stderr of each; whatever is left at the end of the time is killed."""
    deadline = time.monotonic() + timeout
    try:
        ends = []
        for worker in workers:
            _, said = worker.communicate(timeout=max(0.1, deadline - time.monotonic()))
            ends.append((worker.returncode, said))
        return ends
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def state_of(run: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Step and tensors of a run's latest checkpoint."""
    found = latest_checkpoint(run / "checkpoints", FILES)
    assert found is not None
    return found[0].step, found[1]


def assert_same_weights(one: Path, other: Path) -> None:
    """The latest checkpoints of two runs are equal bit by bit: weights, average, optimiser."""
    (step, first), (same, second) = state_of(one), state_of(other)
    assert step == same
    for name in FILES:
        assert first[name].keys() == second[name].keys()
        for key, value in first[name].items():
            assert value.equal(second[name][key]), f"{name}: {key}"
