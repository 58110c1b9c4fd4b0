"""Solutions between the steps: interpolating polynomials, chosen times, dense output.

Inside a step, with `theta = (t - t_0) / dt` in [0, 1], the solution is a polynomial
`y(theta) = sum_p q_p theta^p`. Without better knowledge it is the cubic Hermite polynomial

    y(theta) = y_0 + theta s_0 + theta^2 (3 d - 2 s_0 - s_1) + theta^3 (s_0 + s_1 - 2 d),

with `s_i = dt * f(t_i, y_i)` and `d = y_1 - y_0`; its error is of order `dt^4`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .controller import Array, column

__all__ = ["Interpolant", "Piece", "Recorder", "hermite"]


def hermite(y0: Tensor, y1: Tensor, s0: Tensor, s1: Tensor) -> Tensor:
    """Coefficients (4, n, ...) of the cubic through two states with the slopes `s = dt * f`."""
    d = y1 - y0
    return torch.stack([y0, s0, 3 * d - 2 * s0 - s1, s0 + s1 - 2 * d])


def evaluate(coefficients: Tensor, theta: Array) -> Tensor:
    """The polynomials (p + 1, n, ...) at `theta` (n,), by Horner's rule."""
    x = column(theta, coefficients[0])
    value = coefficients[-1]
    for q in coefficients[:-1].flip(0):
        value = value * x + q
    return value


# Of one loop iteration: samples (m,), starts, ends (m,), coefficients (p + 1, m, ...).
Piece = tuple[NDArray[np.int64], Array, Array, Tensor]


class Interpolant:
    """A solution as a function of time, on `[t_0, t]` of every sample.

    Args:
        pieces: per loop iteration: samples (m,), starts, ends (m,), coefficients (p + 1, m, ...).
        batch: number of samples.
    """

    def __init__(self, pieces: list[Piece], batch: int) -> None:
        self.batch = batch
        if not pieces:
            raise ValueError("no step was accepted, so there is nothing to interpolate")
        self._coefficients = torch.cat([piece[3] for piece in pieces], dim=1)
        sample = np.concatenate([piece[0] for piece in pieces])
        start = np.concatenate([piece[1] for piece in pieces])
        stop = np.concatenate([piece[2] for piece in pieces])
        self._sign = 1.0 if stop[0] >= start[0] else -1.0
        order = np.lexsort((self._sign * start, sample))
        self._piece = order
        self._start, self._stop = start[order], stop[order]
        self._first = np.searchsorted(sample[order], np.arange(batch + 1))

    def __call__(self, t: float | Array | Tensor) -> Tensor:
        """States (B, ...) at the time `t`, one for all or one per sample (B,).

        Raises:
            ValueError: if a sample's solution does not reach that time.
        """
        wanted = np.broadcast_to(np.asarray(t, np.float64), (self.batch,))
        chosen = np.empty(self.batch, np.int64)
        for sample in range(self.batch):
            low, high = self._first[sample], self._first[sample + 1]
            inside = low < high and (
                self._sign * self._start[low]
                <= self._sign * wanted[sample]
                <= self._sign * self._stop[high - 1]
            )
            if not inside:
                reach = (
                    f"[{self._start[low]}, {self._stop[high - 1]}]" if low < high else "nothing"
                )
                raise ValueError(
                    f"t={wanted[sample]} lies outside the solution of sample {sample}, "
                    f"which covers {reach}"
                )
            found = np.searchsorted(
                self._sign * self._stop[low:high], self._sign * wanted[sample], side="left"
            )
            chosen[sample] = low + found
        start, stop = self._start[chosen], self._stop[chosen]
        where = torch.from_numpy(self._piece[chosen]).to(self._coefficients.device)
        theta = (wanted - start) / (stop - start)
        return evaluate(self._coefficients.index_select(1, where), theta)


class Recorder:
    """Collects the states at chosen times, and the polynomials of every step, as steps are made.

    Args:
        times: increasing on the loop's clock `sign * t`; None for none.
        dense: whether to keep every step's polynomial.
        sign: +1 or -1, the direction of time.
        y0: initial states (B, ...).
        t0: where they are.
    """

    def __init__(self, times: Array | None, dense: bool, sign: float, y0: Tensor, t0: float):
        self.sign = sign
        self.pieces: list[Piece] = []
        self.dense = dense
        self.states: Tensor | None = None
        if times is not None:
            self.times = np.append(sign * times, np.inf)
            self.states = torch.full(
                (len(times), *y0.shape), torch.nan, dtype=y0.dtype, device=y0.device
            )
            begin = int(np.searchsorted(self.times, sign * t0, side="right"))
            self.states[:begin] = y0
            self._next = np.full(len(y0), begin)

    def step(
        self,
        sample: NDArray[np.int64],
        s0: Array,
        s1: Array,
        y1: Tensor,
        polynomial: Callable[[], Tensor] | None,
        rows: NDArray[np.int64],
    ) -> None:
        """Note the accepted steps of the rows `rows`, which belong to `sample[rows]`.

        Args:
            sample: samples of all rows, (n,).
            s0, s1: ends of all rows' steps on the loop's clock, (n,).
            y1: states at the ends, (n, ...).
            polynomial: gives the coefficients for all rows.
            rows: the accepted ones.
        """
        if not len(rows):
            return
        coefficients: Tensor | None = None
        if self.dense and polynomial is not None:
            coefficients = polynomial()
            where = torch.from_numpy(rows).to(y1.device)
            self.pieces.append(
                (
                    sample[rows],
                    self.sign * s0[rows],
                    self.sign * s1[rows],
                    coefficients.index_select(1, where),
                )
            )
        if self.states is None:
            return
        while True:
            due = rows[self.times[self._next[sample[rows]]] <= s1[rows]]
            if not len(due):
                return
            who = sample[due]
            point = self._next[who]
            exact = self.times[point] == s1[due]
            where = torch.from_numpy(due).to(y1.device)
            value = y1.index_select(0, where)
            if not exact.all() and polynomial is not None:
                if coefficients is None:
                    coefficients = polynomial()
                theta = (self.times[point] - s0[due]) / (s1[due] - s0[due])
                between = evaluate(coefficients.index_select(1, where), theta)
                at_end = column(exact.astype(np.float64), value) > 0
                value = torch.where(at_end, value, between)
            device = y1.device
            self.states[torch.from_numpy(point).to(device), torch.from_numpy(who).to(device)] = (
                value
            )
            self._next[who] = point + 1
