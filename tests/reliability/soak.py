"""Train, sample and evaluate the smallest model again and again; watch memory, files, threads.

    python tests/reliability/soak.py --minutes 120 --journal soak.jsonl

Each round takes the way of a user: a run of 20 steps, resumed to 40, pictures included, then
`sdeflow sample` and `sdeflow evaluate`, all in this one process. What the process holds is written
to the journal after each round, so that a soak cut short can still be judged (`--minutes 0`).

The first half is left to caches. To the second half a straight line is fitted, through the means
of BLOCKS stretches of equal length, since what is left from one round to the next is not
independent; its 95% interval is that of least squares with BLOCKS - 2 degrees of freedom. The
bound is the least that a round could forget of its model: the upper end of the memory's slope
must stay below one copy of the smallest model's weights per round. Files and threads are counts:
their largest value in the second half may not exceed that of the first.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from sdeflow.cli import main as command
from sdeflow.config import TrainConfig
from sdeflow.training import train

BLOCKS = 10
STUDENT = 2.306  # 97.5% of Student's t with BLOCKS - 2 degrees of freedom


class _Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`: bytes asked of malloc, over all arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def heap() -> float:
    """Megabytes in use by malloc; 0 where the C library does not tell."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0.0
    mallinfo2.restype = _Heap
    info = mallinfo2()
    return float(info.uordblks + info.hblkhd) / 2**20


def measured() -> dict[str, float]:
    """What this process holds (Linux): memory in MB, open files, threads, Python's blocks."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "memory_mb": float(fields["VmRSS"].split()[0]) / 1024,
        "heap_mb": heap(),
        "blocks": float(sys.getallocatedblocks()),
        "files": float(len(os.listdir("/proc/self/fd"))),
        "threads": float(fields["Threads"]),
    }


def settings(directory: Path, number: int) -> dict[str, Any]:
    """The smallest run: points in the plane, another seed in each round."""
    return {
        "data": "mixture", "size": "tiny", "steps": 20, "batch_size": 32, "checkpoint_every": 10,
        "device": "cpu", "wandb": "disabled", "out": str(directory), "name": f"run{number % 4}",
        "resume": "auto", "seed": number,
    }  # fmt: skip


def one_round(directory: Path, number: int) -> int:
    """Train, resume, sample, evaluate, remove; returns the bytes of the model's weights."""
    asked = settings(directory, number)
    train(TrainConfig.from_dict(asked))
    run = train(TrainConfig.from_dict({**asked, "steps": 40}))
    size = sum(4 * value.numel() for value in run.denoiser.parameters())
    for line in (
        ["sample", str(run.path), "--count", "64", "--steps", "10", "--json"],
        ["evaluate", str(run.path), "--count", "64", "--steps", "10", "--resamples", "5",
         "--space", "pixels", "--json"],
    ):  # fmt: skip
        done = CliRunner().invoke(command, line)
        assert done.exit_code == 0, done.output
    shutil.rmtree(run.path)
    return size


def line_through(hours: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope per hour of a line through the means of BLOCKS blocks, and half its 95% interval."""
    blocks = min(BLOCKS, len(hours))
    t = np.array([part.mean() for part in np.array_split(np.asarray(hours), blocks)])
    y = np.array([part.mean() for part in np.array_split(np.asarray(values), blocks)])
    t = t - t.mean()
    slope = float(t @ y / (t @ t))
    left = y - y.mean() - slope * t
    error = np.sqrt(left @ left / max(blocks - 2, 1) / (t @ t))
    return slope, float(STUDENT * error)


def judge(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """What the second half of a soak shows; `grown` names what did not stay within its bound.

    Args:
        rows: one for each round: `hours`, `weights_mb` and what `measured` gives.
    """
    late = rows[len(rows) // 2 :]
    hours = [row["hours"] for row in late]
    rate = (len(late) - 1) / (hours[-1] - hours[0])
    bound = rate * rows[0]["weights_mb"]
    result: dict[str, Any] = {
        "hours": rows[-1]["hours"], "rounds": len(rows), "rounds_per_hour": rate,
        "bound_mb_per_hour": bound, "grown": [],
    }  # fmt: skip
    for name in ("memory_mb", "heap_mb", "blocks", "files", "threads"):
        values = [row[name] for row in rows]
        slope, error = line_through(hours, values[len(rows) // 2 :])
        result[name] = {
            "first": values[0], "half": values[len(rows) // 2], "last": values[-1],
            "largest": max(values), "slope_per_hour": slope, "within": error,
        }  # fmt: skip
        if name in ("memory_mb", "heap_mb"):
            grown = slope + error > bound
        elif name in ("files", "threads"):
            grown = max(values[len(rows) // 2 :]) > max(values[: len(rows) // 2])
        else:
            grown = False  # reported: what Python keeps shows where a slope comes from
        result["grown"] += [name] if grown else []
    return result


def soak(minutes: float, directory: Path, journal: Path) -> None:
    """Rounds for so many minutes, at least 2 BLOCKS; each appends a line to the journal."""
    began, number = time.monotonic(), 0
    while time.monotonic() - began < 60 * minutes or number < 2 * BLOCKS:
        size = one_round(directory, number)
        gc.collect()
        row = {"hours": (time.monotonic() - began) / 3600, "weights_mb": size / 2**20}
        with journal.open("a") as file:
            file.write(json.dumps({**row, **measured()}) + "\n")
        number += 1


def main() -> int:
    """Soak, print, and fail if anything grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120, help="0: only judge the journal")
    parser.add_argument("--journal", type=Path, help="default: a temporary file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        journal = asked.journal or Path(directory) / "soak.jsonl"
        if asked.minutes > 0:
            journal.write_text("")
            soak(asked.minutes, Path(directory), journal)
        result = judge([json.loads(line) for line in journal.read_text().splitlines()])
    print(json.dumps(result, indent=1))
    return int(bool(result["grown"]))


if __name__ == "__main__":
    sys.exit(main())
