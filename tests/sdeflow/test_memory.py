"""Keeping freed memory: told once, and freed pages are not taken anew; imports never collected."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import resource, sys
import numpy as np
from sdeflow.memory import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else False
for turn in range(8):
    if turn == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(40 * 2**20, np.uint8).fill(1)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(int(told), faults)
"""


def glibc() -> bool:
    return sys.platform.startswith("linux") and not Path("/etc/alpine-release").exists()


@pytest.mark.skipif(not glibc(), reason="needs glibc")
def test_freed_pages_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)

    def run(mode: str) -> list[int]:
        code = [sys.executable, "-c", COUNT, mode]
        done = subprocess.run(code, capture_output=True, text=True, check=True)
        return [int(word) for word in done.stdout.split()]

    told, faults = run("keep")
    assert told == 1
    # Four arrays of 40 MiB are 40960 pages of 4 KiB, and 80 huge ones.
    assert faults < 10
    assert run("leave")[1] > 10
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert run("keep")[0] == 0, "the environment's own setting wins"


def test_what_is_imported_is_not_collected() -> None:
    from sdeflow.memory import permanent

    try:
        with permanent():
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= len(made)
        gc.disable()
        with permanent():
            pass
        assert not gc.isenabled(), "whoever has turned it off is not overruled"
    finally:
        gc.enable()
        gc.unfreeze()
