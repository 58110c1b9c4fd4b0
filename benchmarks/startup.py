"""How long commands take to start: help, and sampling from a tiny run, beside importing torch.

    help      sdeflow --help
    torch     python -c "import torch"
    sample    sdeflow sample on a two-step training of the 2-D mixture, 16 samples, with its files
    beyond    sample - torch

Commands take turns, several rounds over, one thread each. Time is that of the processor (user and
system), so that others on the machine disturb less; the figure is the median of the rounds, the
spread their range.

    python benchmarks/startup.py [--json] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile

import numpy as np

SDEFLOW = (sys.executable, "-c", "from sdeflow.cli import main; main()")
TRAIN = (
    "train", "--data", "mixture", "--size", "tiny", "--steps", "2", "--wandb", "disabled",
    "--device", "cpu", "--name", "tiny",
)  # fmt: skip


def seconds(command: tuple[str, ...], folder: str) -> float:
    """Processor time of a command and its children.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the figures as JSON, nothing else")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing (5)")
    options = parser.parse_args()
    commands = {
        "help": (*SDEFLOW, "--help"),
        "torch": (sys.executable, "-c", "import torch"),
        "sample": (*SDEFLOW, "sample", "runs/tiny"),
    }
    with tempfile.TemporaryDirectory() as folder:
        seconds((*SDEFLOW, *TRAIN), folder)
        # The first round reads files into memory and is thrown away.
        rounds = [
            {name: seconds(command, folder) for name, command in commands.items()}
            for _ in range(options.rounds + 1)
        ][1:]
    for row in rounds:
        row["beyond"] = row["sample"] - row["torch"]
    table = {name: np.array([row[name] for row in rounds]) for name in rounds[0]}
    if options.json:
        print(
            json.dumps({f"{name}_s": round(float(np.median(v)), 3) for name, v in table.items()})
        )
        return
    for name, values in table.items():
        spread = f"{values.min():.2f} to {values.max():.2f}"
        print(f"{name:10}{np.median(values):8.2f}{spread:>16}  s")


if __name__ == "__main__":
    main()
