r"""Brownian increments, one path per sample, that survive a rejected step.

A step over [t, t + h] needs, with $W$ a Brownian motion, the increment
$\Delta W = W(t+h) - W(t)$ and, for methods of strong order 1.5, the time integral
$\Delta Z = \int_t^{t+h} (W(s) - W(t))\,ds$. Together they are Gaussian,

$$ (\Delta W, \Delta Z) \sim N\!\left(0, \begin{pmatrix} h & h^2/2 \\ h^2/2 & h^3/3
   \end{pmatrix}\right). $$

**Rejection.** An increment that a rejected step was given has been seen: whether the step was
rejected depended on it. Drawing anew would throw away the increments that make large errors and
keep the others, which biases the path. So the path is *revealed*, never redrawn. Each sample
keeps a stack of the pieces (end, dW, dZ) of its future that it knows already. A step that ends
inside a known piece splits that piece by the bridge below; one that reaches further consumes
whole pieces and draws the rest. (Rackauckas & Nie 2017, *Adaptive methods for stochastic
differential equations via natural embeddings and rejection sampling with memory*, give the stack
for W; here it carries Z as well.) Any number of pieces takes one draw per attempt, since only the
last point of the step is new.

**Bridge.** Given (W, Z) over a piece of length L, look at its part of length r, with theta = r/L
and q = theta (1 - theta). Conditional Gaussians (W, Z, and the values at r are jointly normal with
the covariances above, and cov(W_r, Z) = r L - r^2/2, cov(Z_r, Z) = r^2 L/2 - r^3/6) give

$$ W_r = \theta(3\theta - 2) W + \frac{6q}{L} Z + c_0 \xi_1, \qquad
   Z_r = -L\theta^2(1-\theta) W + \theta^2(3 - 2\theta) Z + c_1 \xi_1 + c_2 \xi_2, $$
$$ c_0^2 = L q (1 - 3q), \qquad c_1 = \tfrac12 L^{3/2} q^{3/2} \frac{1 - 2\theta}{\sqrt{1-3q}},
   \qquad c_2 = \frac{L^{3/2} q^{3/2}}{\sqrt{12 (1 - 3q)}}, $$

whose variances were simplified until nothing cancels. Without Z: W_r = theta W + sqrt(L q) xi.
What is left of the piece is W - W_r and Z - Z_r - (L - r) W_r: the parts add up to the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .controller import column
from .noise import NoiseSource, Seeds

__all__ = ["Brownian", "BrownianPath", "Increment", "NoiseSource"]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.intp]

# Apart from the streams of those who give their samples' seeds to other sources too, such as that
# of the initial states: increments must be independent of these.
_STREAM = 0x42726F776E69616E

Increment = tuple[Tensor, Tensor | None]
"""(dW, dZ) of a step, each (B, *shape); dZ is None on a path without time integrals."""


class Brownian(Protocol):
    """What `sdeint` asks of a source of noise. Times increase along a path, whatever the solver's.

    `increment(end)` gives (dW, dZ) from every sample's position to `end` (B,); `advance(accepted)`
    moves the accepted samples there; `keep(rows)` drops all samples but `rows`.
    """

    def increment(self, end: _Floats) -> Increment: ...

    def advance(self, accepted: npt.NDArray[np.bool_]) -> None: ...

    def keep(self, rows: _Ints) -> None: ...


class _Attempt(NamedTuple):
    """The last increment: its end, length and noise of its new part, the whole pieces in it.

    `whole` is None where no sample knew anything.
    """

    end: _Floats
    part: _Floats
    new: Increment
    whole: _Ints | None


class BrownianPath:
    """One Brownian path per sample, revealed step by step; rejected steps are bridged.

    A sample's path is a function of its seed and of the ends it was asked for. It depends on
    neither the other samples nor the device.

    Args:
        seeds: One integer per sample, (B,) int64.
        shape: Shape of one sample's noise, without the batch.
        start: Where the paths begin, (B,) float64 or one number.
        area: Whether the time integrals dZ are wanted too.
        dtype: Type of the increments.
        device: Where the increments are returned.

    Raises:
        ValueError: if `seeds` is not a vector of integers.
    """

    def __init__(
        self,
        seeds: Seeds,
        shape: Sequence[int],
        start: _Floats | float,
        *,
        area: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.area = area
        self._noise = NoiseSource(
            seeds, (1 + area, *shape), dtype=dtype, device=device, stream=_STREAM
        )
        self._draws = 0
        batch = len(self._noise.seeds)
        self._position = np.array(np.broadcast_to(start, (batch,)), dtype=np.float64)
        # The known future of sample b: pieces on the levels 0 ... depth[b] - 1, the nearest last.
        # Level l ends at _ends[l, b]; its (dW, dZ) are _pieces[_slots[l, b], b], so that a piece
        # pushed in between moves indices on the host and no noise on the device.
        self._depth = np.zeros(batch, dtype=np.intp)
        self._deepest = 0
        self._ends = np.zeros((0, batch))
        self._slots = np.zeros((0, batch), dtype=np.intp)
        self._pieces = torch.zeros((0, batch, 1 + area, *shape), dtype=dtype, device=device)
        self._attempt: _Attempt | None = None

    @property
    def position(self) -> _Floats:
        """Where each path has got to, (B,)."""
        return self._position

    def increment(self, end: _Floats) -> Increment:
        """(dW, dZ) over [position, end] for every sample, one draw each.

        Args:
            end: (B,) float64, nowhere before the position.

        Returns:
            dW (B, *shape) and dZ, the same or None without `area`.
        """
        end = np.array(end, dtype=np.float64)
        noise = self._noise.normal(self._draws)
        self._draws += 1
        if self._deepest:
            return self._reveal(end, noise)
        part = end - self._position
        new = self._combine(noise, None, _fresh(part, self.area))
        self._attempt = _Attempt(end, part, new, None)
        return new

    def advance(self, accepted: npt.NDArray[np.bool_]) -> None:
        """Move the accepted samples to the end of the last increment; the others remember it."""
        if self._attempt is None:
            raise ValueError("advance() follows an increment(); ask for one first")
        end, part, new, whole = self._attempt
        self._attempt = None
        if whole is None:
            if np.count_nonzero(accepted) == len(accepted):
                self._position = end
                return
            whole = np.zeros_like(self._depth)
        rows = np.flatnonzero(~accepted & (part > 0))
        if rows.size:
            self._push(rows, end[rows], _together(new), whole[rows])
        self._depth = np.where(accepted, self._depth - whole, self._depth)
        self._deepest = int(self._depth.max(initial=0))
        self._position = np.where(accepted, end, self._position)

    def keep(self, rows: _Ints) -> None:
        """Go on with the samples `rows` only; comes between `advance` and `increment`."""
        self._noise = self._noise.select(rows)
        self._position = self._position[rows]
        self._depth = self._depth[rows]
        self._deepest = int(self._depth.max(initial=0))
        self._ends = self._ends[:, rows]
        self._slots = self._slots[:, rows]
        self._pieces = self._pieces[:, torch.from_numpy(rows).to(self._pieces.device)]

    def _reveal(self, end: _Floats, noise: Tensor) -> Increment:
        """An increment of which some sample knows a part already."""
        rows = np.arange(len(end))
        levels = np.arange(len(self._ends))[:, None]
        whole = ((levels < self._depth) & (self._ends <= end)).sum(axis=0)
        level = (
            self._depth - whole - 1
        )  # of the piece that `end` splits; -1 where it is beyond all
        nearer = self._ends[np.minimum(level + 1, len(self._ends) - 1), rows]
        last = np.where(whole > 0, nearer, self._position)
        part = end - last
        splits = (level >= 0) & (part > 0)
        below = np.maximum(level, 0)
        rest = np.where(splits, self._ends[below, rows] - end, 1.0)
        bridged = _bridge(part, rest, self.area)
        fresh = np.zeros_like(bridged)
        fresh[: 1 + 2 * self.area] = _fresh(part, self.area)
        slots = self._slots[below, rows]
        old = self._gather(slots)
        new = self._combine(noise, old, np.where(splits, bridged, fresh))
        if splits.any():
            left = old - _together(new)
            if self.area:
                left[:, 1].addcmul_(new[0], column(rest, new[0]), value=-1)
            self._scatter(np.flatnonzero(splits), slots[splits], left)
        self._attempt = _Attempt(end, part, new, whole)
        return self._chain(whole, part, new) if whole.any() else new

    def _chain(self, whole: _Ints, part: _Floats, new: Increment) -> Increment:
        """The `whole` nearest pieces of each sample and then `new`, of length `part`, as one."""
        rows = np.arange(len(whole))
        total = torch.zeros_like(_together(new))
        start = self._position
        for step in range(whole.max()):
            level = np.maximum(self._depth - 1 - step, 0)
            taken = step < whole
            piece = self._gather(self._slots[level, rows])
            piece *= column(taken.astype(np.float64), piece)
            end = np.where(taken, self._ends[level, rows], start)
            self._append(total, piece, end - start)
            start = end
        self._append(total, _together(new), part)
        return total[:, 0], total[:, 1] if self.area else None

    def _append(self, total: Tensor, piece: Tensor, length: _Floats) -> None:
        """Lengthen `total` by a piece: W = W_1 + W_2, Z = Z_1 + Z_2 + length W_1. In place."""
        if self.area:
            total[:, 1].addcmul_(total[:, 0], column(length, total[:, 0]))
        total += piece

    def _push(self, rows: _Ints, ends: _Floats, new: Tensor, whole: _Ints) -> None:
        """Remember the new pieces of some samples, below the `whole` pieces that are nearer."""
        if self._depth[rows].max() == len(self._ends):
            self._grow()
        depth = self._depth[rows]
        free = self._slots[depth, rows]
        for step in range(whole.max()):
            moved = rows[step < whole]
            level = self._depth[moved] - step
            self._ends[level, moved] = self._ends[level - 1, moved]
            self._slots[level, moved] = self._slots[level - 1, moved]
        self._ends[depth - whole, rows] = ends
        self._slots[depth - whole, rows] = free
        self._depth[rows] += 1
        self._scatter(rows, free, new)

    def _grow(self) -> None:
        """Double the room for pieces."""
        old, batch = self._ends.shape
        extra = max(2, old)
        added = np.broadcast_to(np.arange(old, old + extra)[:, None], (extra, batch))
        self._ends = np.concatenate([self._ends, np.zeros((extra, batch))])
        self._slots = np.concatenate([self._slots, added])
        room = self._pieces.new_zeros((extra, *self._pieces.shape[1:]))
        self._pieces = torch.cat([self._pieces, room])

    def _gather(self, slots: _Ints) -> Tensor:
        index = torch.from_numpy(slots).to(self._pieces.device)
        return self._pieces[index, torch.arange(len(slots), device=index.device)]

    def _scatter(self, rows: _Ints, slots: _Ints, pieces: Tensor) -> None:
        row, slot = torch.from_numpy(np.stack([rows, slots])).to(self._pieces.device)
        self._pieces[slot, row] = pieces[row]

    def _combine(self, noise: Tensor, old: Tensor | None, weights: _Floats) -> Increment:
        """The new piece: the weights' combination of noise and old piece."""
        xi = noise[:, 0]
        factors = [column(weight, xi) for weight in weights]
        w = xi * factors[0]
        if not self.area:
            return (w, None) if old is None else (w.addcmul_(old[:, 0], factors[1]), None)
        z = (xi * factors[1]).addcmul_(noise[:, 1], factors[2])
        if old is not None:
            w.addcmul_(old[:, 0], factors[3]).addcmul_(old[:, 1], factors[4])
            z.addcmul_(old[:, 0], factors[5]).addcmul_(old[:, 1], factors[6])
        return w, z


def _together(increment: Increment) -> Tensor:
    """W and Z in one tensor, (B, 1 or 2, *shape)."""
    w, z = increment
    return w.unsqueeze(1) if z is None else torch.stack([w, z], dim=1)


def _fresh(length: _Floats, area: bool) -> _Floats:
    """Weights of the noise in a piece of which nothing is known: c_0, or c_0, c_1, c_2."""
    root = np.sqrt(length)
    if not area:
        return root[None]
    cube = root * length
    return np.array([root, cube / 2, cube / math.sqrt(12.0)])


def _bridge(part: _Floats, rest: _Floats, area: bool) -> _Floats:
    """Weights of noise and old piece in the first `part` of a piece of length part + rest > 0.

    Returns:
        c_0, a without `area`; with it c_0, c_1, c_2, a_1, a_2, b_1, b_2, where
        W_r = a_1 W + a_2 Z + c_0 xi_1 and Z_r = b_1 W + b_2 Z + c_1 xi_1 + c_2 xi_2.
    """
    length = part + rest
    theta, left = part / length, rest / length
    q = theta * left
    root = np.sqrt(length * q)
    if not area:
        return np.stack([root, theta])
    width = np.sqrt(1.0 - 3.0 * q)  # between 1/2 and 1
    cube = root * length * q
    return np.stack(
        [
            root * width,
            cube * (left - theta) / (2.0 * width),
            cube / (math.sqrt(12.0) * width),
            theta * (3.0 * theta - 2.0),
            6.0 * q / length,
            -length * theta**2 * left,
            theta**2 * (3.0 - 2.0 * theta),
        ]
    )
