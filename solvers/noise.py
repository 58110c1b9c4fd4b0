r"""Standard normals as a pure function of (seed, step): every sample has its own endless table.

Element i of step k of a sample is a hash of the sample's seed and of (k, i), so it depends on
neither the batch the sample is in, nor its place there, nor the device, nor on how many numbers
were drawn before.

The hash is SplitMix64 (Steele, Lea, Flood 2014, *Fast splittable pseudorandom number generators*):
word c of a sample is `mix(first + c * gamma)` on 64-bit integers, with a start and an odd
increment of the sample's own, themselves hashes of (seed, stream). The two halves a, b of a word,
as signed integers, give a pair of normals (Box and Muller):

$$ r = \sqrt{-2 \log\left(|a|\, 2^{-31} + 2^{-32}\right)}, \qquad \theta = \pi b\, 2^{-31}, \qquad
   (r \cos\theta,\; r \sin\theta). $$

They are computed on the host in float32, so that a float32 and a float64 state see the same
noise; no value is beyond 6.67 in size. Steps are made in blocks, which spreads the cost of the
calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["NoiseSource", "Seeds", "sample_seeds"]

Seeds: TypeAlias = "Tensor | npt.NDArray[np.int64] | Sequence[int]"

_Words: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Numbers made at a time: enough to spread the cost of ~30 NumPy calls, few enough for the cache.
_BLOCK_NUMBERS = 1 << 15
_BLOCK_STEPS = 64


def _mix(words: _Words) -> _Words:
    """SplitMix64's finaliser, a bijection that lets each bit reach all others. In place."""
    shifted = words >> np.uint64(30)
    words ^= shifted
    words *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(words, np.uint64(27), out=shifted)
    words ^= shifted
    words *= np.uint64(0x94D049BB133111EB)
    np.right_shift(words, np.uint64(31), out=shifted)
    words ^= shifted
    return words


def _increments(words: _Words) -> _Words:
    """Odd increments from hashes; those whose bits change too rarely are repaired (ibid.)."""
    gamma = words | np.uint64(1)
    changes = (gamma ^ (gamma >> np.uint64(1))).view(np.uint8).reshape(-1, 8)
    few = np.unpackbits(changes, axis=1).sum(axis=1) < 24
    repaired: _Words = np.where(few, gamma ^ np.uint64(0xAAAAAAAAAAAAAAAA), gamma)
    return repaired


def _normals(words: _Words) -> npt.NDArray[np.float32]:
    """Two standard normals from each 64-bit word: (..., n) -> (..., 2 n), cosines first."""
    halves = words.view(np.int32).astype(np.float32)
    radius = halves[..., 0::2] * np.float32(2.0**-31)
    np.abs(radius, out=radius)
    radius += np.float32(2.0**-32)  # at most 1 in float32, so the logarithm is never positive
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)
    angle = halves[..., 1::2] * np.float32(math.pi * 2.0**-31)
    n = words.shape[-1]
    pairs = np.empty((*words.shape[:-1], 2 * n), dtype=np.float32)
    np.multiply(radius, np.cos(angle), out=pairs[..., :n])
    np.multiply(radius, np.sin(angle), out=pairs[..., n:])
    return pairs


def _as_seeds(seeds: Seeds) -> npt.NDArray[np.int64]:
    array = seeds.detach().cpu().numpy() if isinstance(seeds, Tensor) else np.asarray(seeds)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"seeds has shape {array.shape} and dtype {array.dtype}; "
            "give one integer per sample, shape (B,), for instance sample_seeds(0, B)"
        )
    return array.astype(np.int64)


def sample_seeds(seed: int, count: int, start: int = 0) -> Tensor:
    """Seeds of samples start, ..., start + count - 1 of a run.

    Sample i's seed depends on (seed, i) alone, so a run may be cut into batches of any size.

    Args:
        seed: The run's seed, any integer (taken modulo 2^64).
        count: How many seeds.
        start: Index of the first sample in the run.

    Returns:
        int64 host tensor of shape (count,).
    """
    index = np.arange(start, start + count).astype(np.uint64)
    run = _mix(np.array([seed % 2**64], dtype=np.uint64))
    return torch.from_numpy(_mix(run + (index + np.uint64(1)) * _GOLDEN).view(np.int64))


class NoiseSource:
    """Standard normals of step k for each sample of a batch, a pure function of (seed, k).

    Args:
        seeds: One integer per sample, (B,) int64.
        shape: Shape of one sample's noise, without the batch.
        dtype: Type of the normals; they carry float32 resolution in any type.
        device: Where the normals are returned; they are always made on the host.
        stream: Which table of the sample's to read: sources with different streams share nothing.
            Brownian paths have one of their own.

    Raises:
        ValueError: if `seeds` is not a vector of integers.
    """

    def __init__(
        self,
        seeds: Seeds,
        shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        stream: int = 0,
    ) -> None:
        self.seeds = _as_seeds(seeds)
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = torch.device(device)
        self.stream = stream
        table = np.array([stream % 2**64], dtype=np.uint64) * _GOLDEN
        word = _mix(self.seeds.view(np.uint64) + table)
        self._gamma = _increments(_mix(word + _GOLDEN))[:, None]
        self._first = _mix(word + _GOLDEN + _GOLDEN)[:, None]
        self._block = torch.empty(0)
        self._block_start = 0

    def normal(self, index: int) -> Tensor:
        """The standard normals of step `index` >= 0, (B, *shape); not to be written to."""
        offset = index - self._block_start
        if not 0 <= offset < self._block.shape[0]:
            self._fill(index)
            offset = 0
        return self._block[offset]

    def select(self, rows: npt.NDArray[np.intp]) -> NoiseSource:
        """The source of the samples `rows`, which keep the noise they had."""
        chosen = NoiseSource(
            self.seeds[rows], self.shape, dtype=self.dtype, device=self.device, stream=self.stream
        )
        chosen._block_start = self._block_start
        if self._block.shape[0]:
            chosen._block = self._block[:, torch.from_numpy(rows).to(self.device)]
        return chosen

    def _fill(self, index: int) -> None:
        """Make a block of steps that begins with step `index`."""
        batch, size = len(self.seeds), math.prod(self.shape)
        steps = max(1, min(_BLOCK_STEPS, _BLOCK_NUMBERS // max(1, batch * size)))
        words = (size + 1) // 2
        counter = np.arange(index * words, (index + steps) * words).astype(np.uint64)
        state = counter.reshape(steps, 1, words) * self._gamma
        state += self._first
        pairs = _normals(_mix(state))
        numbers = torch.from_numpy(pairs)[..., :size].reshape(steps, batch, *self.shape)
        self._block = numbers.to(self.device, self.dtype)
        self._block_start = index
