"""Batches stream: beyond one batch, sampling takes the memory of what it returns."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from sdeflow.batches import batches
from sdeflow.denoiser import Denoiser
from sdeflow.sampling import sample
from sdeflow.sde import make_sde

GROWTH = """
import json, resource, sys
import torch
from sdeflow.denoiser import Denoiser
from sdeflow.sampling import sample
from sdeflow.sde import make_sde

class Half(torch.nn.Module):
    def forward(self, x, c):
        return 0.5 * torch.tanh(x)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

given = json.loads(sys.argv[1])
model, how = Denoiser(Half(), make_sde()), {**given["how"], "batch_size": given["batch"]}
sample(model, (given["size"],), count=given["batch"], **how)
before = peak()
out = sample(model, (given["size"],), count=given["count"], **how)
grew = peak() - before
print(grew, out.x.nbytes, sum(column.nbytes for column in out.log.columns().values()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize(
    ("given", "states", "logs"),
    [
        # 64 MiB of samples; a second copy of them would be 2.
        ({"size": 8192, "count": 2048, "batch": 64, "how": {"solver": "ddim", "steps": 4}}, 1, 1),
        # The same when each ends as E[x_0 | x].
        (
            {"size": 8192, "count": 2048, "batch": 64,
             "how": {"solver": "ddim", "steps": 4, "final": "denoise"}},
            1, 1,
        ),
        # Some 25 MiB of log, which is there twice while those of the batches become one.
        ({"size": 2, "count": 20_000, "batch": 500, "how": {"solver": "dopri5"}}, 1, 2),
    ],
    ids=["samples", "denoised", "log"],
)  # fmt: skip
def test_memory_grows_by_what_is_returned(given: dict, states: int, logs: int) -> None:
    code = [sys.executable, "-c", GROWTH, json.dumps(given)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    grew, x, log = map(int, done.stdout.split())
    # The allocator's remains and the spread of a batch: a quarter, and a few MiB.
    assert grew < 1.25 * (states * x + logs * log) + 2**23


def test_batches_by_default_have_a_size_that_fits() -> None:
    def sizes(count: int, shape: tuple[int, ...]) -> list[int]:
        return [rows.stop - rows.start for rows, _ in batches(count, None, None, shape)]

    assert sizes(64, (1, 28, 28)) == [64]
    assert sizes(1000, (1, 28, 28)) == [334, 334, 332]
    assert sizes(40, (3, 256, 256)) == [16, 16, 8]
    assert sizes(10_000, (2,)) == [10_000]


def test_failures_are_numbered_over_all_batches() -> None:
    class Picky(torch.nn.Module):
        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return torch.where(x[:, :1] > 50, torch.nan, 0.5 * x)

    noise = torch.zeros(9, 2)
    noise[5] = 60.0
    model = Denoiser(Picky(), make_sde())
    how = {"noise": noise, "batch_size": 2, "solver": "ddim", "steps": 3}
    out = sample(model, on_failure="return", **how)
    assert np.flatnonzero(~out.ok).tolist() == [5]
    assert "1 of 9 samples failed: sample 5:" in out.failure
