r"""Adams methods of fixed order on a shared grid, with weights that are exact for any measure.

The equation is `du = N dmu`, N the field and mu a function of time with a known density (dt itself
by default). N is interpolated by a polynomial in time through k nodes, L_j their Lagrange basis:

    u(t1) = u(t0) + sum_j w_j N_j,     w_j = int_{t0}^{t1} L_j(t) dmu(t)

for any step sequence. The integrals are taken by Gauss-Legendre quadrature, all steps at once,
before the first step; the weights of a step add up to mu(t1) - mu(t0).

    ab-k     k nodes behind the step: a predictor                         order k
    abm-k    the same, then a corrector of one node more: as soon as the  order k + 1
             predicted point has been evaluated, the step to it is
             taken again with that slope

The corrected state is the base of the next step while the slope at the predicted point is kept
(PEC), so that both cost one evaluation per step. The state after a step is the predicted one.
Both start with fewer nodes, at the beginning and behind a break point; the orders above need first
steps that are short beside the others, otherwise ab has order 2 and abm order 3 at most.

`-falling` lowers the order again at the end, so that the last step has one node: of use where the
field has become rough on the scale of the last steps. So do the `-published` variants, those of
the literature on diffusion samplers; and where they have two nodes,

    N_mid (mu(t1) - mu(t0)),     N_mid the interpolation at the middle of the step

takes the place of the integral (Lu et al. 2022, arXiv 2211.01095, for k = 2; Zhao et al. 2023,
arXiv 2302.04867, B(h) = exp(h) - 1, for predictor and corrector). ab-3-published is the 3M formula
of the former, whose second difference has half of its exact weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .controller import Array
from .dense import hermite
from .registry import Measure, MethodInfo, Problem, register
from .stepper import Attempt, Mask, Rows, Span, Stepper, index

__all__ = ["Adams", "adams_weights", "add_slopes", "integrals"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def adams_weights(measure: Measure, start: Array, end: Array, nodes: Array) -> Array:
    """Weights of the interpolating polynomials, integrated against the measure.

    Args:
        measure: mu and its density.
        start: where the integrals begin, (S,).
        end: where they end, (S,).
        nodes: the k nodes of each integral, (S, k), distinct.

    Returns:
        (S, k) float64; each row adds up to mu(end) - mu(start) to rounding.
    """
    weights = integrals(measure.density, start, end, nodes)
    # What quadrature may have missed of the measure goes to the nearest node.
    total = measure.mu(end) - measure.mu(start)
    weights[:, 0] += total - weights.sum(1)
    return weights


def integrals(density: Callable[[Array], Array], start: Array, end: Array, nodes: Array) -> Array:
    """The same for a measure of which only the density is known."""
    half = 0.5 * (end - start)
    t = start[:, None] + half[:, None] * (1 + _NODES)  # (S, Q)
    dmu = half[:, None] * _WEIGHTS * density(t.ravel()).reshape(t.shape)
    bases = _lagrange(t[:, None, :], nodes[:, :, None])
    return np.stack([(basis * dmu).sum(1) for basis in bases], 1)


def _lagrange(t: Array, nodes: Array) -> list[Array]:
    """The Lagrange basis of nodes (S, k, 1) at times (S, 1, Q): k arrays (S, Q)."""
    k = nodes.shape[1]
    out = []
    for j in range(k):
        basis = np.ones_like(t[:, 0])
        for i in range(k):
            if i != j:
                basis = basis * (t[:, 0] - nodes[:, i]) / (nodes[:, j] - nodes[:, i])
        out.append(basis)
    return out


def _published(measure: Measure, start: Array, end: Array, nodes: Array, predict: bool) -> Array:
    """Weights as they were published, (S, k)."""
    k = nodes.shape[1]
    total = measure.mu(end) - measure.mu(start)
    if k == 2:
        middle = 0.5 * (start + end)
        basis = _lagrange(middle[:, None, None], nodes[:, :, None])
        return total[:, None] * np.concatenate(basis, 1)
    weights = adams_weights(measure, start, end, nodes)
    if k == 3 and predict:
        # w = integral of (1, s, s^2) against the Newton form; half of the last is left out.
        h = end - start
        r0, r1 = (start - nodes[:, 1]) / h, (nodes[:, 1] - nodes[:, 2]) / h
        square = sum(weights[:, j] * ((nodes[:, j] - start) / h) ** 2 for j in range(3))
        second = np.stack([1 / r0, -1 / r0 - 1 / r1, 1 / r1], 1) / (r0 + r1)[:, None]
        weights = weights - 0.5 * np.asarray(square)[:, None] * second
    return weights


class Adams:
    """The stepper of `ab-k` and `abm-k`.

    Args:
        problem: with the grid that all samples share.
        order: number of nodes k of the predictor.
        corrected: whether a corrector follows.
        falling: lower the order again at the end.
        published: variants of the literature instead of the exact weights.

    Raises:
        ValueError: if the problem has no grid.
    """

    def __init__(
        self,
        problem: Problem,
        order: int,
        corrected: bool = False,
        falling: bool = False,
        published: bool = False,
    ) -> None:
        if problem.grid is None:
            raise ValueError("Adams methods of fixed order need a grid; give dt or grid")
        self.field, self.order, self.corrected = problem.field, order, corrected
        self.falling, self.published, self.dense = falling, published, problem.dense
        self.measure = problem.measure or Measure(lambda t: t, np.ones_like)
        self._grid = problem.grid
        self._step = 0
        self._slopes: list[Tensor] = []
        self._base: Tensor | None = None
        self._pending: Tensor | None = None
        self._plan(0)

    def _plan(self, first: int) -> None:
        """All weights from grid point `first` on, if no break point follows."""
        self._first = first
        self._predict, self._correct = self._tables(self._weigh)

    def _tables(
        self, weigh: Callable[[Array, Array, Array, bool], Array]
    ) -> tuple[list[Sequence[float]], list[Sequence[float]]]:
        """Weights of every predictor and corrector, by step, from those of (start, end, nodes)."""
        grid = self._grid[self._first :]
        steps = len(grid) - 1
        count = np.minimum(np.arange(steps) + 1, self.order)
        if self.falling:
            count = np.minimum(count, np.arange(steps, 0, -1))
        tables: list[list[Sequence[float]]] = [[()] * steps, [()] * steps]
        for k in np.unique(count):
            at = np.flatnonzero(count == k)
            for table, ahead in zip(tables, (0, 1)[: 1 + self.corrected], strict=False):
                nodes = grid[at[:, None] + ahead - np.arange(k + ahead)]
                weights = weigh(grid[at], grid[at + 1], nodes, ahead == 0)
                for i, row in zip(at, weights.tolist(), strict=True):
                    table[i] = row
        return tables[0], tables[1]

    def _weigh(self, start: Array, end: Array, nodes: Array, predict: bool) -> Array:
        if self.published:
            return _published(self.measure, start, end, nodes, predict and not self.corrected)
        return adams_weights(self.measure, start, end, nodes)

    def first_steps(self, t: Array, y: Tensor, limit: Array) -> Array:
        """The whole way: steps are those of the grid."""
        return np.abs(limit)

    def cost(self) -> int:
        """One evaluation."""
        return 1

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Evaluate where the last step led, correct that step, predict the next."""
        i = self._step - self._first
        slopes = [self.field(span.start, y), *self._slopes]
        base = y
        if self.corrected and self._base is not None:
            base = add_slopes(self._base, slopes, self._correct[i - 1])
        weights = self._predict[i]
        y1 = add_slopes(base, slopes, weights)
        self._slopes = slopes[: self.order]
        return self._attempt(y1, base, slopes, len(weights))

    def _attempt(self, y1: Tensor, base: Tensor, slopes: list[Tensor], nodes: int) -> Attempt:
        """The step from `base` to `y1`."""
        self._pending = base
        order = nodes + self.corrected
        dense = partial(self._polynomial, self._step, base, y1, slopes) if self.dense else None
        return Attempt(y1, None, order, order, dense)

    def _polynomial(self, step: int, y0: Tensor, y1: Tensor, slopes: list[Tensor]) -> Tensor:
        """Between the ends of a step: the cubic with their slopes, the far one extrapolated."""
        ends = self._grid[step : step + 2]
        count = len(slopes)
        nodes = self._grid[step - np.arange(count)]
        far = [float(b[0, 0]) for b in _lagrange(ends[1:, None, None], nodes[None, :, None])]
        rate = (ends[1] - ends[0]) * self.measure.density(ends)
        slope = add_slopes(torch.zeros_like(y0), slopes, far)
        return hermite(y0, y1, slopes[0] * float(rate[0]), slope * float(rate[1]))

    def accept(self, mask: Mask | None) -> None:
        """The corrected state becomes the base."""
        self._base = self._pending
        self._step += 1

    def restart(self, rows: Rows) -> None:
        """Begin anew with one node."""
        self._slopes, self._base = [], None
        self._plan(self._step)

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""
        if self._base is not None:
            where = index(rows, self._base)
            self._base = self._base.index_select(0, where)
            self._slopes = [slope.index_select(0, where) for slope in self._slopes]


def add_slopes(base: Tensor, slopes: list[Tensor], weights: Sequence[float]) -> Tensor:
    """base + sum_j weights_j slopes_j."""
    out = torch.add(base, slopes[0], alpha=weights[0])
    for slope, weight in zip(slopes[1:], weights[1:], strict=False):
        out.add_(slope, alpha=weight)
    return out


def _make(problem: Problem, order: int, corrected: bool, ending: str) -> Stepper:
    return Adams(problem, order, corrected, ending != "", ending == "published")


def _register(order: int, corrected: bool, ending: str = "") -> None:
    name = f"ab{'m' * corrected}-{order}{'-' * bool(ending)}{ending}"
    what = f"Adams-{'Moulton, predictor and corrector' if corrected else 'Bashforth'}"
    how = {
        "": "exact weights",
        "falling": "exact weights, lower order at the end",
        "published": "as published for diffusion",
    }[ending]
    # On grids of equal steps, where the first step, and one with one node at the end, rules.
    rank = min(order + 1, 3) if corrected and not ending else min(order, 2)
    info = MethodInfo(
        name, "ode", rank, adaptive=False, evaluations=1, measured=True, note=f"{what}, {how}"
    )
    register(info, partial(_make, order=order, corrected=corrected, ending=ending))


for _order in range(1, 6):
    for _corrected in (False, True):
        _register(_order, _corrected)
        if _order > 1:
            _register(_order, _corrected, "falling")
        if 1 < _order <= 3 + _corrected:
            _register(_order, _corrected, "published")
