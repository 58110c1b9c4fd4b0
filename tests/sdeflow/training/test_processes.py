"""Two processes with half the batch each train as one process does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sdeflow.config import TrainConfig
from sdeflow.training import latest_checkpoint, read_metrics, train

WORKER = """
from sdeflow.config import TrainConfig
from sdeflow.training import recorder, train

recorder.Preview.draw = lambda *_: iter(())
train(TrainConfig.from_dict({config!r}))
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
    # An odd batch: the slices differ in size, and the average of gradients must know.
    config = TrainConfig(
        data="mixture", size="tiny", steps=20, batch_size=49, checkpoint_every=10, device="cpu",
        wandb="disabled", out=str(tmp_path), name="one",
    )  # fmt: skip
    train(config)
    code = WORKER.format(config=config.replace({"name": "two"}).to_dict())
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env={**common, "RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in ("0", "1")
    ]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    found = [
        latest_checkpoint(tmp_path / name / "checkpoints", ["model"]) for name in ("one", "two")
    ]
    one, two = (part[1]["model"] for part in found if part is not None)
    # Sums in another order: 20 steps of at most lr = 1e-3, in each of which Adam's normalised
    # gradient is off by some 1e-6 relative, 2e-8 in all; a coordinate whose gradient is near 0
    # amplifies that, and 1e-5 is a thousandth of what 20 steps can move a weight.
    for key, value in one.items():
        assert float((value - two[key]).abs().max()) < 1e-5, key
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for single, double in zip(*lines, strict=True):
        # Losses are means over all processes; float32 sums of 49 terms in another order.
        for name in ("loss", "grad_norm", "heldout"):
            if name in single:
                assert double[name] == pytest.approx(single[name], rel=1e-4)
