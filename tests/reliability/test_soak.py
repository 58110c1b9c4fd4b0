"""A short soak: two minutes here, two hours with `python tests/reliability/soak.py`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("soak.py")


def judged(grows: dict[str, float], rounds: int = 100) -> list[str]:
    """The verdict on pretended rounds, 100 an hour, of a model of 0.2 MB; `grows`: by how much."""
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    soak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(soak)
    noise = np.random.default_rng(0).normal(size=(rounds, 2))
    rows = []
    for k in range(rounds):
        row = {
            "hours": k / 100, "weights_mb": 0.2, "memory_mb": 400 + 0.5 * noise[k, 0],
            "heap_mb": 130 + 0.1 * noise[k, 1], "blocks": 1e6, "files": 11.0, "threads": 1.0,
        }  # fmt: skip
        # Caches fill in the first rounds, which must not count.
        row["memory_mb"] += 20 * min(1.0, k / 30)
        rows.append({name: value + k * grows.get(name, 0.0) for name, value in row.items()})
    return list(soak.judge(rows)["grown"])


def test_what_grows_is_found_and_noise_is_not() -> None:
    assert judged({}) == []
    assert judged({"memory_mb": 0.25}) == ["memory_mb"]  # a model and a quarter a round
    assert judged({"heap_mb": 0.25}) == ["heap_mb"]
    assert judged({"heap_mb": 0.05}) == []
    assert judged({"files": 1 / 40, "threads": 1 / 40}) == ["files", "threads"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_two_minutes_leave_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--minutes", "2"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
