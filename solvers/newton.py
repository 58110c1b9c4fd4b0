r"""Newton's polynomials through the last values of a field, with nodes of each sample's own.

With c(t) the clock, c_0, c_1, ... the nodes of a sample, newest first, and D_j the divided
differences N[c_0, ..., c_j],

    N ~ sum_j D_j omega_j(c),     omega_j(c) = prod_{i<j} (c - c_i),     S_j = omega_j(c_new)

A value at a new node c_new makes the differences that begin with it, of all orders at once:

    E_0 = N,   E_{j+1} = (E_j - D_j) / (c_new - c_j)     or     S_j E_j = N - sum_{i<j} S_i D_i

Differences are kept times their spans S_j, which leaves them at the size of N however close the
nodes lie: the second form takes them from step to step in ratios of new spans to old.

What carries the state is of shape (orders, forms, samples, elements), for F forms of the equation
beside each other. On the host its arrays are NumPy's, in the memory of the tensors: where states
are small an operation then costs a third. On other devices, and in half precision, they are
tensors. The operations and their order are the same, and act on every element apart, so that a
sample's numbers do not depend on its batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .controller import Array, ErrorNorm, rms
from .stepper import Mask, Rows, index

__all__ = ["Differences", "NewtonIntegrals"]

# Gauss-Legendre rules on [0, 1] by their number of points, exact for polynomials below twice that
# degree. Twelve points integrate the measures of `sdeflow` to rounding over steps of 1 in log-SNR.
_RULES = [
    (0.5 * (1 + points)[:, None], 0.5 * weights[:, None])
    for points, weights in map(np.polynomial.legendre.leggauss, range(1, 13))
]
_RULES.insert(0, (np.empty((0, 1)), np.empty((0, 1))))
# States with more elements are compared with their tolerance one order at a time, to save memory.
_WIDE = 1024

# States that overflow are found in the errors of their step; torch says nothing on the way either.
_quietly = np.errstate(over="ignore", invalid="ignore")

Density = Callable[[Array], Array]


class NewtonIntegrals:
    """Integrals of Newton's polynomials against measures, and their values at the end.

    Args:
        clock: c(t).
        densities: dmu/dt of F measures; None for 1.
        orders: number of nodes k.
        quadrature: number of points, up to 12.
    """

    def __init__(
        self,
        clock: Callable[[Array], Array],
        densities: Sequence[Density | None],
        orders: int,
        quadrature: int = 12,
    ) -> None:
        self.clock, self.densities = clock, densities
        self._orders, self._quadrature = orders, quadrature
        self._points, self._weights = _RULES[quadrature]
        self._allocate(0)

    def _allocate(self, batch: int) -> None:
        """Room for the polynomials at the points, and below them at the end."""
        self._batch = batch
        omega = np.ones((self._quadrature + 1, self._orders + 1, batch))
        self._inside, self._within, self._end = omega[:-1], omega[:-1, 1:], omega[-1]
        self._beyond = omega[-1, 1:]
        lines = [omega[:, j] for j in range(1, self._orders + 1)]
        self._pairs = list(itertools.pairwise(lines))
        self._products = np.empty_like(self._inside)

    def __call__(self, start: Array, stop: Array, nodes: Array, clock: Array) -> Array:
        """The table of one step.

        Args:
            start: where the integrals begin, (n,).
            stop: where they end, (n,).
            nodes: c_0, ..., c_{k-1}, (k, n).
            clock: c(stop), (n,).

        Returns:
            `W_j = int omega_j dmu` of all measures, and after them `omega_j(c(stop))`,
            (k + 1, F + 1, n) float64. Every number depends on its own sample only, to the last
            bit.
        """
        if len(start) != self._batch:
            self._allocate(len(start))
        dt = stop - start
        t = self._points * dt
        t += start  # (Q, n)
        np.subtract(self.clock(t)[:, None], nodes, out=self._within)
        np.subtract(clock, nodes, out=self._beyond)
        for lower, upper in self._pairs:
            np.multiply(lower, upper, out=upper)
        table = np.empty((self._orders + 1, len(self.densities) + 1, len(start)))
        weights = self._weights * dt
        for form, density in enumerate(self.densities):
            dmu = weights if density is None else density(t) * weights
            np.multiply(self._inside, dmu[:, None], out=self._products)
            np.add.reduce(self._products, axis=0, out=table[:, form])
        table[:, -1] = self._end
        return table


class _Rows:
    """Differences of all orders, (K + 1, F, n, elements), and the parts of them that steps use."""

    def __init__(self, values: Any) -> None:
        orders, forms, n, size = values.shape
        self.all, self.first, self.lower, self.upper = values, values[0], values[:-1], values[1:]
        lines = list(self.upper)
        self.pairs = list(itertools.pairwise(lines))
        self.terms = self.upper.reshape((orders - 1) * forms, n, size)
        self.flat = values.reshape(orders * forms * n, size)


class Differences:
    """The divided differences of all active samples, on the state's device.

    Args:
        y0: initial states (B, ...), for shape, dtype and device.
        orders: how many are kept, K.
        forms: F.
    """

    def __init__(self, y0: Tensor, orders: int, forms: int) -> None:
        self.host = _on_host(y0)
        self._shape, self._size = y0.shape[1:], math.prod(y0.shape[1:])
        self._dtype, self._device = y0.dtype, y0.device
        self._numpy = np.dtype(np.float32 if y0.dtype is torch.float32 else np.float64)
        self._xp: Any = np if self.host else torch
        shape = (orders + 1, forms, y0.shape[0], self._size)
        self._allocate(self._array(y0.new_zeros(shape)))

    def _allocate(self, kept: Any) -> None:
        """`kept`, and room for a proposal; the two change places when that is accepted."""
        self._kept, self._new = _Rows(kept), _Rows(self._xp.zeros_like(kept))
        self._start: Any = None
        self._guess: Any = None

    @_quietly
    def begin(
        self, rows: Rows, slope: Tensor, y: Tensor, second: tuple[Array, Array] | None
    ) -> None:
        """The first values of the samples `rows`, (m, ...); `second` as in `correct`."""
        where, value = self._where(rows), self._flat(slope)
        self._kept.all[0, 0, where] = value
        if second is not None:
            p, q = map(self._column, second)
            self._kept.all[0, 1, where] = value * p + self._flat(y) * q

    def newest(self) -> Tensor:
        """The last values of the first form, (n, ...), a copy."""
        return self._state(self._kept.all[0, 0] + 0)

    @_quietly
    def predict(self, y: Tensor, table: Array, scale: Array | None) -> Tensor:
        """`scale y + sum_j weight_j D_j`; and what the differences make at the new node.

        Args:
            y: states (n, ...).
            table: weights of the differences times their spans, 0 for forms not used, and after
                them the ratios of new spans to old, (K, F + 1, n).
            scale: factors of the states, (n,); None for 1.

        Returns:
            The states, (n, ...).
        """
        xp, kept, new = self._xp, self._kept, self._new
        factors = self._column(table)
        xp.multiply(kept.lower, factors[:, :-1], out=new.upper)
        guess = np.add.reduce(new.terms) if self.host else new.terms.cumsum(0)[-1]
        self._start = state = self._flat(y)
        guess += state if scale is None else state * self._column(scale)
        xp.multiply(kept.lower, factors[:, -1:], out=new.upper)
        for below, above in new.pairs:
            xp.add(below, above, out=above)
        self._guess = guess
        return self._state(guess)

    @_quietly
    def correct(
        self, slope: Tensor, weight: Array, chosen: Rows, second: tuple[Array, Array] | None
    ) -> Tensor:
        """Make the new differences; add one of them to the predicted states.

        Args:
            slope: N at the predicted states (n, ...).
            weight: of the difference to be added, (n,).
            chosen: which one, `(order F + form) n + sample`, (n,).
            second: p and q of the second form `M = p N + q u`, (n,) each; None if there is none.

        Returns:
            The states, (n, ...).
        """
        xp, new, guess = self._xp, self._new, self._guess
        new.first[0] = value = self._flat(slope)
        if second is not None:
            p, q = map(self._column, second)
            new.first[1] = value * p + guess * q
        xp.subtract(new.first, new.upper, out=new.upper)
        step = new.flat.take(chosen, 0) if self.host else new.flat[self._where(chosen)]
        step *= self._column(weight)
        step += guess
        self._guess = step
        return self._state(step)

    @_quietly
    def sizes(self, norm: ErrorNorm, w0: Array | None, w1: Array | None) -> Array:
        """Ratios of the new differences, but the first, to the tolerance of the step.

        Args:
            norm: with the tolerances.
            w0, w1: factors into the user's units at the ends of the step, (n,); None for 1.

        Returns:
            (K, F, n) float64, per unit of weight; nan where the new state is not finite.
        """
        if w0 is not None and w1 is not None:
            w0, w1 = self._column(w0), self._column(w1)
        scale = norm.tolerance(self._start, self._guess, w0, w1)
        upper = self._new.upper
        lines = upper.shape[:3]
        sizes: Array
        if self._size > _WIDE:
            parts = [rms((line / scale).reshape(-1, self._size)) for line in upper]
            sizes = np.concatenate(parts).reshape(lines)
        else:
            sizes = rms((upper / scale).reshape(math.prod(lines), self._size)).reshape(lines)
        if np.count_nonzero(sizes) < sizes.size:
            # An infinite state has an infinite tolerance: it must not pass as a small error.
            finite = self._xp.isfinite(self._guess).all(1)
            sizes[:, :, ~(finite if self.host else finite.cpu().numpy())] = np.nan
        return sizes

    def accept(self, mask: Mask | None) -> None:
        """The new differences take the place of the old, for the samples in `mask` or all."""
        if mask is not None:
            rows = self._where(np.flatnonzero(~mask))
            self._new.all[:, :, rows] = self._kept.all[:, :, rows]
        self._kept, self._new = self._new, self._kept

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""
        where, kept = self._where(rows), self._kept.all
        self._allocate(kept.take(where, 2) if self.host else kept.index_select(2, where))

    def _array(self, values: Tensor) -> Any:
        return values.numpy() if self.host else values

    def _flat(self, y: Tensor) -> Any:
        """States (n, ...) as (n, elements), without a copy where that is possible."""
        if y.requires_grad:
            y = y.detach()
        return self._array(y if y.ndim == 2 else y.reshape(y.shape[0], self._size))

    def _state(self, rows: Any) -> Tensor:
        y: Tensor = torch.from_numpy(rows) if self.host else rows
        return y if len(self._shape) == 1 else y.view(y.shape[0], *self._shape)

    def _column(self, values: Array) -> Any:
        """Host numbers (..., n) as factors (..., n, 1) of rows."""
        if self.host:
            return values.astype(self._numpy, copy=False)[..., None]
        return torch.from_numpy(values).to(self._dtype).to(self._device)[..., None]

    def _where(self, rows: Rows) -> Any:
        return rows if self.host else index(rows, self._kept.all)


def _on_host(y: Tensor) -> bool:
    """Whether NumPy can work in the memory of y."""
    return y.device.type == "cpu" and y.dtype in (torch.float32, torch.float64)
