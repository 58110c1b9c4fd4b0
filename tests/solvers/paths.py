"""Brownian paths for tests: one that is known on a fine grid, one that redraws (wrongly)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from solvers import NoiseSource, sample_seeds
from solvers.brownian import Increment


class GridPath:
    """A path whose values and time integrals are known at multiples of `length / cells`.

    Queries begin and end on the grid (`snap`: at the nearest point of it); methods with other
    steps then share the path.
    """

    def __init__(self, batch: int, shape: Sequence[int], length: float, cells: int, seed: int):
        self.start, self.snap = 0.0, False
        noise = NoiseSource(sample_seeds(seed, batch), (2, *shape), dtype=torch.float64)
        self.cell = h = length / cells
        xi = torch.stack([noise.normal(k) for k in range(cells)])
        self.dw = math.sqrt(h) * xi[:, :, 0]
        self.dz = h / 2 * self.dw + h**1.5 / math.sqrt(12) * xi[:, :, 1]
        zero = torch.zeros_like(self.dw[:1])
        self.w = torch.cat([zero, self.dw.cumsum(0)])
        self.integral = torch.cat([zero, (self.dz + h * self.w[:-1]).cumsum(0)])
        self.rows = np.arange(batch)
        self.position = np.zeros(batch, np.int64)
        self.end = self.position

    def rewound(self, start: float = 0.0, snap: bool = False) -> GridPath:
        """The same path from its beginning, which is at `start` on the clock."""
        self.start, self.snap = start, snap
        self.rows = np.arange(self.w.shape[1])
        self.position = np.zeros(len(self.rows), np.int64)
        return self

    def increment(self, end: npt.NDArray[np.float64]) -> Increment:
        place = (end - self.start) / self.cell
        self.end = np.rint(place).astype(np.int64)
        assert self.snap or np.abs(place - self.end).max() < 1e-6
        w0, w1 = self.w[self.position, self.rows], self.w[self.end, self.rows]
        h = torch.from_numpy((self.end - self.position) * self.cell)
        h = h.view(-1, *[1] * (w0.ndim - 1))
        z = self.integral[self.end, self.rows] - self.integral[self.position, self.rows] - h * w0
        return w1 - w0, z

    def advance(self, accepted: npt.NDArray[np.bool_]) -> None:
        self.position = np.where(accepted, self.end, self.position)

    def keep(self, rows: npt.NDArray[np.intp]) -> None:
        self.rows, self.position = self.rows[rows], self.position[rows]


class Redrawn:
    """Fresh noise on every attempt: what many solvers do, and what biases them."""

    def __init__(self, batch: int, shape: Sequence[int], seed: int) -> None:
        self.noise = NoiseSource(sample_seeds(seed, batch), (2, *shape), dtype=torch.float64)
        self.position = np.zeros(batch)
        self.end = self.position
        self.draws = 0

    def increment(self, end: npt.NDArray[np.float64]) -> Increment:
        self.end = np.array(end)
        xi: Tensor = self.noise.normal(self.draws)
        self.draws += 1
        h = torch.from_numpy(self.end - self.position).view(-1, *[1] * (xi.ndim - 2))
        w = h.sqrt() * xi[:, 0]
        return w, h / 2 * w + h**1.5 / math.sqrt(12) * xi[:, 1]

    def advance(self, accepted: npt.NDArray[np.bool_]) -> None:
        self.position = np.where(accepted, self.end, self.position)

    def keep(self, rows: npt.NDArray[np.intp]) -> None:
        self.noise, self.position = self.noise.select(rows), self.position[rows]
