"""`sdeflow sample` end to end: its time beside the network's, and its memory against the count.

    ratio     processor time of the command over that of its calls of the network alone, on the
              small U-Net at 28 x 28, batches of 64: every call is followed by a bare one on the
              same input. `command` takes everything between the command's start and its end,
              files and figures too; `sampling` the part between the model and the samples
    memory    peak resident size of the command, a process for each count, and what it grows by
              for each sample beyond one batch, beside the size of a sample and of its log
    loop      resident size of one process that samples over and over

Torch and what the command imports are loaded before it is timed; `startup.py` times those.

    python benchmarks/sampling.py [ratio] [memory] [loop] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
COUNT, ROUNDS = 128, 2
SOLVERS = {
    "dopri5": ("--rtol", "0.1", "--atol", "0.1"),
    "dpmpp-2m": ("--steps", "15"),
    "adams": ("--rtol", "0.1", "--atol", "0.1"),
}
COUNTS = (64, 1000, 10_000)
LOOPS = 40
SDEFLOW = (sys.executable, "-c", "from sdeflow.cli import main; main()")
QUICK = ("--solver", "ddim", "--steps", "2")


def train(size: str) -> None:
    """A run in the working directory: two steps on Fashion-MNIST's shape."""
    generator = np.random.default_rng(0)
    np.savez("noise.npz", generator.integers(0, 255, (128, 28, 28), dtype=np.uint8))
    options = ("--steps", "2", "--wandb", "disabled", "--device", "cpu", "--name", "run")
    command = (*SDEFLOW, "train", "--data", "npz:noise.npz", "--size", size, *options)
    subprocess.run(command, check=True, capture_output=True)


def ratio() -> dict[str, dict[str, float]]:
    """Time of the command and of its sampling over that of the bare calls, by solver."""
    import torch

    from sdeflow import sampling
    from sdeflow.cli import cli
    from sdeflow.memory import keep_freed_memory
    from sdeflow.networks import UNet

    keep_freed_memory()
    torch.set_num_threads(1)
    calls: list[tuple[float, float]] = []
    spans: list[float] = []
    once, drawn = UNet.forward, sampling.sample

    def twice(*args: Any, **named: Any) -> torch.Tensor:
        begin = time.thread_time()
        out = once(*args, **named)
        middle = time.thread_time()
        once(*args, **named)
        calls.append((middle - begin, time.thread_time() - middle))
        return out

    def timed(*args: Any, **named: Any) -> Any:
        begin = time.thread_time()
        out = drawn(*args, **named)
        spans.append(time.thread_time() - begin)
        return out

    UNet.forward, sampling.sample = twice, timed  # type: ignore[method-assign, assignment]
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(ROUNDS + 1):
        for solver, how in SOLVERS.items():
            calls.clear()
            spans.clear()
            count = COUNT if turn else BATCH  # the first round imports, and is thrown away
            command = ["sample", "runs/run", "--solver", solver, *how, "--count", str(count)]
            begin = time.thread_time()
            with contextlib.redirect_stdout(io.StringIO()):
                cli(
                    [*command, "--batch-size", str(BATCH), "--device", "cpu"],
                    standalone_mode=False,
                )
            whole = time.thread_time() - begin
            inside, bare = np.array(calls).T
            if turn:
                # Calls as they are: what a call and its bare twin differ by is noise, whose
                # median is taken; what is outside the calls comes on top.
                call = float(np.median(inside / bare))
                outside = {"sampling": spans[0], "command": whole}
                for name, span in outside.items():
                    beside = (span - inside.sum() - bare.sum()) / bare.sum()
                    found.setdefault(solver, {}).setdefault(name, []).append(call + beside)
                found[solver].setdefault("calls", []).append(len(calls))
    return {
        solver: {name: float(np.median(values)) for name, values in row.items()}
        for solver, row in found.items()
    }


def memory() -> dict[str, Any]:
    """Peak MiB of the command for each count, and bytes a sample beyond one batch."""
    peaks = []
    for count in COUNTS:
        command = (*SDEFLOW, "sample", "runs/run", *QUICK, "--count", str(count))
        with open(os.devnull, "wb") as nowhere:
            process = subprocess.Popen(
                (*command, "--device", "cpu"), stdout=nowhere, stderr=nowhere
            )
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"{' '.join(command)} failed")
        peaks.append(usage.ru_maxrss / 1024)
    growth = (peaks[-1] - peaks[1]) * 2**20 / (COUNTS[-1] - COUNTS[1])
    return {
        "peak_mib": dict(zip(map(str, COUNTS), peaks, strict=True)),
        "bytes_a_sample": growth,
        "sample_bytes": 28 * 28 * 4,
        "log_bytes": 2 * 13 * 8,  # two attempts of thirteen columns
    }


def loop() -> dict[str, list[float]]:
    """MiB resident after each of many samplings in one process, with freed memory kept."""
    import torch

    from sdeflow.memory import keep_freed_memory
    from sdeflow.run import load_run
    from sdeflow.sampling import sample

    keep_freed_memory()
    torch.set_num_threads(1)
    run = load_run("runs/run")
    sizes = []
    for number in range(LOOPS):
        # Counts that differ, so that blocks of many sizes come and go.
        sample(run.denoiser, run.data_shape, solver="ddim", steps=2, count=16 + 7 * (number % 9))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    return {"resident_mib": sizes}


PARTS = {"ratio": ratio, "memory": memory, "loop": loop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", action="store_true", help="the figures as JSON, nothing else")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            train("small")
            for part in options.parts or PARTS:
                figures[part] = PARTS[part]()
        finally:
            os.chdir(before)
    print(json.dumps(figures) if options.json else json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
