r"""Every random number of a training run, as a function of where it is used.

A draw depends on (seed, step, index in the global batch) alone, never on what was drawn before, on
the number of processes or on a restart:

    data      the permutation of epoch e is that of a generator seeded by hash(seed, e); sample i
              of step n is entry (n B + i) mod N of epoch (n B + i) // N
    t, flips, dropped labels   drawn for the whole batch from hash(seed, step); each process keeps
              its slice
    smallest time of a batch (soft truncation)   from hash(seed, step), of its own
    noise     in blocks of `BLOCK` samples, block b from hash(seed, step, b); a process draws only
              the blocks its slice meets
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from .loss import TimeDistribution
from .truncation import SoftTruncation

__all__ = ["Batch", "Draws", "seed_of"]

BLOCK = 32  # samples per noise generator: few enough to share out, enough to amortise seeding


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part; the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Batch:
    """What one process needs for one step.

    Attributes:
        index: rows of the training set, int64 (b,).
        t: times, float64 on the host (b,).
        flip: which samples are mirrored, bool (b,).
        drop: which labels are replaced by the null label, bool (b,).
        kept: share of the law of times that this batch was drawn from, 1 without soft truncation.
    """

    index: Tensor
    t: Tensor
    flip: Tensor
    drop: Tensor
    kept: float = 1.0


class Draws:
    """The random numbers of a run.

    Args:
        seed: seed of the run.
        size: number of training samples.
        batch_size: samples a step, over all processes.
        time: distribution of training times.
        label_dropout: share of labels dropped.
        rank: this process.
        processes: how many there are; slices of the batch may differ by one sample.
        truncation: law of a batch's smallest time, or None.

    Raises:
        ValueError: there are more processes than samples in a batch.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        batch_size: int,
        time: TimeDistribution,
        label_dropout: float = 0.0,
        rank: int = 0,
        processes: int = 1,
        truncation: SoftTruncation | None = None,
    ) -> None:
        if batch_size < processes:
            raise ValueError(
                f"--batch-size is {batch_size} over {processes} processes: each needs a sample a "
                f"step; give at least {processes}, or start fewer"
            )
        self.seed, self.size, self.batch_size, self.time = seed, size, batch_size, time
        self.label_dropout, self.truncation = label_dropout, truncation
        self.first = rank * batch_size // processes
        self.last = (rank + 1) * batch_size // processes
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Batch:
        """The draws of step `step`, from 0, for this process."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "batch", step))
        start = self._start(step)
        t = self.time.sample(self.batch_size, generator, start)
        flip = torch.rand(self.batch_size, generator=generator) < 0.5
        drop = torch.rand(self.batch_size, generator=generator) < self.label_dropout
        mine = slice(self.first, self.last)
        return Batch(self._rows(step), t[mine], flip[mine], drop[mine], 1 - start)

    def _start(self, step: int) -> float:
        """Share of the law of times below this batch's smallest time."""
        if self.truncation is None:
            return 0.0
        generator = torch.Generator().manual_seed(seed_of(self.seed, "truncation", step))
        u = torch.rand(1, generator=generator, dtype=torch.float64)
        return self.time.below(float(self.truncation.quantile(u)))

    def _rows(self, step: int) -> Tensor:
        place, stop = step * self.batch_size + self.first, step * self.batch_size + self.last
        parts = []
        while place < stop:
            epoch, offset = divmod(place, self.size)
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
                self._permutation = torch.randperm(self.size, generator=generator)
                self._epoch = epoch
            parts.append(self._permutation[offset : offset + stop - place])
            place += len(parts[-1])
        return torch.cat(parts)

    def noise(self, step: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Standard normal noise for this process's samples, float32 (b, *shape), on `device`."""
        parts = []
        generator = torch.Generator(device)
        for block in range(self.first // BLOCK, -(-self.last // BLOCK)):
            generator.manual_seed(seed_of(self.seed, "noise", step, block))
            parts.append(torch.randn(BLOCK, *shape, generator=generator, device=device))
        skip = self.first - self.first // BLOCK * BLOCK
        return torch.cat(parts)[skip : skip + self.last - self.first]
