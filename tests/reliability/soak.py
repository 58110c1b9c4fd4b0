"""Train, sample and evaluate the smallest model again and again; watch memory, files, threads.

    python tests/reliability/soak.py --minutes 120

Prints one JSON object: rounds, and for each quantity its first, last and largest value and the
slope of a straight line fitted to the second half, per hour. The first half is left to caches.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdeflow.config import TrainConfig
from sdeflow.metrics import Pixels, compare
from sdeflow.run import load_run
from sdeflow.sampling import sample
from sdeflow.training import recorder, train


def measured() -> dict[str, float]:
    """Resident memory in MB, open files, threads of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "memory_mb": float(fields["VmRSS"].split()[0]) / 1024,
        "files": float(len(os.listdir("/proc/self/fd"))),
        "threads": float(fields["Threads"]),
    }


def one_round(directory: Path, number: int) -> None:
    """A run of 40 steps, resumed once; 64 samples; their distance to held-out data."""
    settings: dict[str, Any] = {
        "data": "mixture", "size": "tiny", "steps": 20, "batch_size": 32, "checkpoint_every": 10,
        "device": "cpu", "wandb": "disabled", "out": str(directory), "name": f"run{number % 4}",
        "resume": "auto", "seed": number,
    }  # fmt: skip
    train(TrainConfig.from_dict(settings))
    run = train(TrainConfig.from_dict({**settings, "steps": 40}))
    again = load_run(run.path)
    drawn = sample(again.denoiser, again.data_shape, count=64, on_failure="return", seed=number)
    x = torch.nan_to_num(drawn.x).clamp(-100, 100)
    generator = torch.Generator().manual_seed(number)
    reference = torch.randn(64, 2, generator=generator)
    compare({"run": [x]}, reference, [reference.flip(0)], Pixels((2,)), resamples=5)
    for path in sorted(run.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def soak(minutes: float, directory: Path) -> dict[str, Any]:
    """Rounds for so many minutes, and what they left behind."""
    recorder.Preview.draw = lambda *_: iter(())  # type: ignore[method-assign, assignment]
    began, rows, hours = time.monotonic(), [], []
    while (passed := time.monotonic() - began) < 60 * minutes or len(rows) < 4:
        one_round(directory, len(rows))
        gc.collect()
        rows.append(measured())
        hours.append(passed / 3600)
    late = slice(len(rows) // 2, None)
    result: dict[str, Any] = {"minutes": minutes, "rounds": len(rows)}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        slope = float(np.polyfit(hours[late], values[late], 1)[0])
        result[name] = {
            "first": values[0], "half": values[late][0], "last": values[-1],
            "largest": values.max(), "slope_per_hour": slope,
        }  # fmt: skip
    return result


def main() -> int:
    """Soak, print, and fail if files or threads grow, or memory by a tenth in the second half."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120)
    with tempfile.TemporaryDirectory() as directory:
        result = soak(parser.parse_args().minutes, Path(directory))
    print(json.dumps(result, indent=1))
    grown = result["memory_mb"]["last"] / result["memory_mb"]["half"] > 1.1
    more = any(result[name]["last"] > result[name]["half"] for name in ("files", "threads"))
    return int(grown or more)


if __name__ == "__main__":
    sys.exit(main())
