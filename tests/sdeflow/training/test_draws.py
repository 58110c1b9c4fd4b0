"""Randomness is a function of (seed, step, index): no history, no dependence on processes."""

import pytest
import torch

from sdeflow.sde import make_sde
from sdeflow.training import Draws, TimeDistribution

LAW = TimeDistribution("stratified", make_sde("vp"), 1e-5, 1.0)
CPU = torch.device("cpu")


def draws(batch: int = 50, rank: int = 0, processes: int = 1, seed: int = 0) -> Draws:
    return Draws(seed, 70, batch, LAW, 0.1, rank, processes)


def test_a_step_does_not_depend_on_those_before() -> None:
    one, other = draws(), draws()
    for step in range(5):
        one.batch(step), one.noise(step, (2,), CPU)
    for name in ("index", "t", "flip", "drop"):
        assert torch.equal(getattr(one.batch(3), name), getattr(other.batch(3), name))
    assert torch.equal(one.noise(3, (2,), CPU), other.noise(3, (2,), CPU))


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_share_out_one_global_batch(processes: int) -> None:
    whole, parts = draws(), [draws(50, rank, processes) for rank in range(processes)]
    for name in ("index", "t", "flip", "drop"):
        joined = torch.cat([getattr(part.batch(2), name) for part in parts])
        assert torch.equal(joined, getattr(whole.batch(2), name))
    noise = torch.cat([part.noise(2, (3, 4), CPU) for part in parts])
    assert torch.equal(noise, whole.noise(2, (3, 4), CPU))
    assert noise.shape == (50, 3, 4)


def test_every_process_needs_a_sample() -> None:
    with pytest.raises(ValueError, match=r"--batch-size is 3 over 4 processes.* at least 4"):
        draws(3, 0, 4)
    assert [len(draws(4, rank, 4).batch(0).index) for rank in range(4)] == [1] * 4


def test_every_epoch_sees_every_sample_once() -> None:
    source = draws()
    rows = torch.cat([source.batch(step).index for step in range(7)])  # 350 rows, 5 epochs of 70
    epochs = rows.view(5, 70)
    for epoch in epochs:
        assert torch.equal(torch.sort(epoch).values, torch.arange(70))
    assert not torch.equal(epochs[0], epochs[1])


def test_steps_seeds_and_samples_differ() -> None:
    noise = torch.cat(
        [draws(seed=seed).noise(step, (1,), CPU) for seed in (0, 1) for step in (0, 1)]
    )
    assert len(torch.unique(noise)) == len(noise)
    assert not torch.equal(draws().batch(0).t, draws().batch(1).t)
