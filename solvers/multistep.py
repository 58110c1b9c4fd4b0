r"""Adams methods of variable step and order, per sample, at one evaluation per step.

The equation is `du = N dmu`: N the field, mu a function of time with a known density (time itself
by default). Through its last values at the nodes c_0, c_1, ... of a monotone clock c(t), newest
first, N is a polynomial in Newton's form, with divided differences D_j = N[c_0, ..., c_j]:

    N ~ sum_j D_j omega_j(c),     omega_j(c) = prod_{i<j} (c - c_i)

A step of order k integrates it against the measure, by Gauss-Legendre quadrature to rounding:

    predict     u_p = u_0 + sum_{j<k} W_j D_j,      W_j = int_{t_0}^{t_1} omega_j dmu
    evaluate    N(t_1, u_p): the one evaluation, which also makes the new differences
                E_0 = N,  E_{j+1} = (E_j - D_j) / (c(t_1) - c_j)
    correct     u_1 = u_p + W_k E_k
    error       |W_j E_j| is what order j would have missed, for j = 1 ... K

and the step's value is kept as the next node (PEC). The last formula prices every order, so the
order moves by one towards the longest step. The corrected state is better than the predicted one
whose error is measured: on smooth problems ten times and more, about as good where N turns within
a step. A step is accepted up to `ALLOWANCE` times the tolerance, and steps are aimed at the
tolerance itself or below, so that few are lost.

**Two forms.** With v = g u the same equation reads dv = M dnu, M = p N + q u (`Gauge`). Both are
exact, but N may be smooth where M is not, and the other way about. Both are carried; each sample
uses the form whose predictions were better lately. This costs no evaluation.

**Closing steps.** What is evaluated at the end, or in front of a break point, serves that step
alone. Where the differences at hand predict an error below the tolerance, it is left out.

The formulas are those of Krogh (1973) and Shampine and Gordon (1975), with `dmu` and c(t) in the
place of time. With one node this is DDIM in the charts of `sdeflow`; with fixed orders it contains
the exact forms of DEIS, DPM-Solver++(2M) and UniPC (see `adams`).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .controller import PI, Array, column, first_step
from .dense import hermite
from .memory import Memory
from .newton import Differences, NewtonIntegrals
from .registry import Measure, MethodInfo, Problem, register
from .stepper import Attempt, Mask, Rows, Span, Stepper, Time, index

__all__ = ["ALLOWANCE", "GAINS", "ORDER", "Multistep"]

ORDER = 4
"""The highest order of the predictor; the corrector's is one more."""
ALLOWANCE = 6.0
"""A step is accepted while its estimate is below this multiple of the tolerance."""
GAINS = PI(p=0.3, i=0.6, safety=0.85, max_factor=5.0)
"""Control that answers faster than is usual: up to `ALLOWANCE` no step is lost to it."""

# Another order is taken if it promises steps longer by this factor, another form if its errors
# were smaller by that one, in a mean with half its weight on the last step (logarithms).
_ORDER_GAIN = float(np.log(1.1))
_FORM_GAIN = float(np.log(3.0))
_MEMORY = 0.5
_SMALL = 1e-8  # the smallest error that is told from 0


class Multistep:
    """The stepper of `adams`.

    Args:
        problem: with a norm to be controlled by; without one every step has the highest order
            that its history allows.
        order: highest order K of the predictor.
    """

    def __init__(self, problem: Problem, order: int = ORDER) -> None:
        self.field, self.norm, self.dense = problem.field, problem.norm, problem.dense
        measure = problem.measure or Measure(lambda t: t, np.ones_like)
        self.measure, self.gauge = measure, measure.gauge
        densities = [None if problem.measure is None else measure.density]
        if self.gauge is not None:
            densities.append(self.gauge.density)
        self._highest = order
        self._powers = np.arange(order + 1)[:, None]
        self._js = self._powers[1:]
        quadrature = 12 if problem.measure is not None else order // 2 + 1
        self._integrals = NewtonIntegrals(measure.clock, densities, order, quadrature)
        # Entry [j, k]: whether a predictor of order k has the difference D_j.
        self._within = np.tri(order + 1, order, -1).T.copy()
        # What speaks for order j + 1 in the place of order k, entry [j, k], in logarithms.
        j, k = self._js, np.arange(order + 1)
        self._bonus = np.where(np.abs(j - k) > 1, -np.inf, np.where(j == k, _ORDER_GAIN, 0.0))
        if order > 1:
            self._bonus[0] = -np.inf
        forms, batch = len(densities), problem.y0.shape[0]
        self._differences = Differences(problem.y0, order, forms)
        self._now = Memory(
            np.zeros((order, batch)),
            np.ones((order + 1, batch)),
            np.zeros(batch, np.int64),
            np.ones(batch, np.int64),
            np.zeros(batch, np.int64),
            np.zeros((forms, batch)),
            np.zeros((order, forms, batch)),
            np.ones(batch),
        )
        self._next: Memory | None = None
        self._everyone = np.arange(batch)
        self._forms = np.arange(forms)[:, None]
        self._fresh = self._ramping = True

    def first_steps(self, t: Array, y: Tensor, limit: Array) -> Array:
        """The longest steps that the measure allows, or steps chosen by the field's change."""
        assert self.norm is not None
        if self.measure.longest is not None:
            return np.minimum(self.measure.longest(t), np.abs(limit))
        density = self.measure.density
        self._begin(self._everyone, t, y)
        slope = self._differences.newest() * column(density(t), y)

        def rate(time: Array, state: Tensor) -> Tensor:
            return self.field(time, state) * column(density(time), state)

        return first_step(self.norm, 2, t, limit, y, slope, rate)

    def cost(self) -> int:
        """One evaluation, one more where a sample begins anew."""
        return 2 if self._fresh else 1

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Predict, evaluate, correct; estimate the error and choose the next order and form."""
        n, everyone = y.shape[0], self._everyone
        start, stop = _each(span.start, n), _each(span.stop, n)
        if self._fresh:
            rows = np.flatnonzero(self._now.count == 0)
            if len(rows):
                self._begin(rows, start[rows], y.index_select(0, index(rows, y)))
            self._fresh = False
        now, measure, gauge, norm = self._now, self.measure, self.gauge, self.norm
        forms, clock = len(now.fame), measure.clock(stop)
        table = self._integrals(start, stop, now.nodes, clock)
        integrals, spans = table[:, :-1], table[:, -1]
        if self._ramping:
            # Nodes that hold nothing leave the products as they are.
            spans[:] = spans[np.minimum(self._powers, now.count), everyone]
        ratio = second = None
        if gauge is not None:
            scale = gauge.scale(stop)
            integrals[:, 1] /= scale
            ratio = np.where(now.form == 1, gauge.scale(start) / scale, 1.0)
            second = gauge.field(stop), gauge.state(stop)
        factors = table[:-1] / now.spans[:-1, None]
        used = factors[:, :-1]
        used *= self._within.take(now.order, 1)[:, None]
        if gauge is not None:
            used *= now.form == self._forms
        guess = self._differences.predict(y, factors, ratio)
        weight = None if norm is None or norm.weight is None else norm.weight(stop)
        # Where a sample's own order and form stand among all, and those of one order less.
        chosen = (now.order if forms == 1 else now.order * forms + now.form) * n + everyone
        below = chosen - forms * n
        integrals = integrals / spans[:, None]  # for differences times their spans, as kept
        last = integrals.take(chosen)  # W_k
        skipped, estimate = self._skip(span.closing, spans, last, below, weight)
        if skipped is not None:
            last = np.where(skipped, 0.0, last)
        dense = None
        first = self._differences.newest() if self.dense else None
        slope = self._evaluate(stop, guess, skipped)
        y1 = self._differences.correct(slope, last, chosen, second)
        if first is not None:
            dense = partial(self._polynomial, y, y1, start, stop, (first, slope))
        nodes = np.empty_like(now.nodes)
        nodes[0], nodes[1:] = clock, now.nodes[:-1]
        count = np.minimum(now.count + 1, self._highest + 1) if self._ramping else now.count
        if norm is None:
            order = np.minimum(count, self._highest)
            self._next = Memory(
                nodes, spans, count, order, now.form, now.fame, now.size, now.weight
            )
            return Attempt(y1, None, now.order, now.order.astype(np.float64), dense)
        size = self._differences.sizes(norm, None if weight is None else now.weight, weight)
        errors = np.abs(integrals[1:])  # (K, F, n)
        errors *= size
        if weight is not None:
            errors *= weight
        np.maximum(errors, _SMALL, out=errors)  # keeps nan
        own = errors.take(below)
        if skipped is not None and estimate is not None:
            own = np.where(skipped, estimate, own)
        fame, form = self._choose_form(errors)
        errors = errors[:, 0] if gauge is None else errors[:, form, everyone]
        order = self._choose_order(errors, count)
        ruling = np.minimum(order, now.order)
        aim = errors.take((ruling - 1) * n + everyone)
        good = own <= ALLOWANCE
        if np.count_nonzero(good) < n:
            ruling, aim = np.where(good, ruling, now.order), np.where(good, aim, own)
        kept = now.weight if weight is None else weight
        self._next = Memory(nodes, spans, count, order, form, fame, size, kept)
        longest = None if measure.longest is None else measure.longest(stop)
        error = own / ALLOWANCE
        return Attempt(y1, error, now.order, ruling + 1.0, dense, control=aim, longest=longest)

    def accept(self, mask: Mask | None) -> None:
        """The new value becomes a node."""
        assert self._next is not None
        self._differences.accept(mask)
        self._now = self._next if mask is None else self._next.merge(self._now, mask)
        self._next = None
        if self._ramping:
            self._ramping = bool(self._now.count.min() <= self._highest)

    def restart(self, rows: Rows) -> None:
        """Nothing before the break point is remembered."""
        now = self._now
        # Copies, for some may be shared with what came before.
        now.count, now.order, now.form = now.count.copy(), now.order.copy(), now.form.copy()
        now.fame = now.fame.copy()
        now.count[rows], now.order[rows], now.form[rows] = 0, 1, 0
        now.fame[:, rows] = 0.0
        self._fresh = self._ramping = True

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""
        self._now = self._now.select(rows)
        self._differences.select(rows)
        self._everyone = np.arange(len(rows))

    def _begin(self, rows: Rows, t: Array, y: Tensor) -> None:
        """The first node of these samples."""
        now, gauge = self._now, self.gauge
        second = None if gauge is None else (gauge.field(t), gauge.state(t))
        self._differences.begin(rows, self.field.at(rows, t, y), y, second)
        now.nodes[0, rows] = self.measure.clock(t)
        now.spans[:, rows] = 1.0
        now.count[rows] = 1
        if self.norm is not None and self.norm.weight is not None:
            now.weight = now.weight.copy()
            now.weight[rows] = self.norm.weight(t)

    def _skip(
        self,
        closing: Mask | bool,
        spans: Array,
        last: Array,
        below: Rows,
        weight: Array | None,
    ) -> tuple[Mask | None, Array | None]:
        """The samples that need no evaluation at the end of this step, and their errors."""
        if closing is False or self.dense:
            return None, None
        now = self._now
        skipped = np.broadcast_to(closing, now.count.shape)
        if self.norm is None:
            return skipped, None
        own = now.order, self._everyone
        estimate = np.abs(last * (spans[own] / now.spans[own])) * now.size.take(below)
        if weight is not None:
            estimate = estimate * weight
        skipped = skipped & (now.count > now.order) & (estimate <= 1)
        return (skipped, estimate) if skipped.any() else (None, None)

    def _evaluate(self, stop: Array, guess: Tensor, skipped: Mask | None) -> Tensor:
        """N at the predicted states; 0 where that is left out."""
        if skipped is None:
            return self.field(stop, guess)
        slope = torch.zeros_like(guess)
        rows = np.flatnonzero(~skipped)
        if len(rows):
            where = index(rows, guess)
            value = self.field.at(rows, stop[rows], guess.index_select(0, where))
            slope.index_copy_(0, where, value)
        return slope

    def _choose_form(self, errors: Array) -> tuple[Array, NDArray[np.int64]]:
        """Mean log errors of the forms (F, n), and the form to go on with."""
        now = self._now
        if self.gauge is None:
            return now.fame, now.form
        present = np.log(errors[now.order - 1, :, self._everyone].T)
        fame = _MEMORY * now.fame + (1 - _MEMORY) * present
        own = np.where(now.form == 1, fame[1], fame[0])
        other = np.where(now.form == 1, fame[0], fame[1])
        return fame, np.where(other < own - _FORM_GAIN, 1 - now.form, now.form)

    def _choose_order(self, errors: Array, count: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next order: the one that promises the longest steps, or one more to begin with."""
        order, highest = self._now.order, self._highest
        reach = np.log(errors)
        reach /= -(self._js + 1)
        reach += self._bonus.take(order, 1)
        best: NDArray[np.int64] = reach.argmax(0) + 1
        if self._ramping:
            best = np.where(count <= highest, np.minimum(order + 1, highest), best)
        return best

    def _polynomial(
        self, y0: Tensor, y1: Tensor, start: Array, stop: Array, slopes: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Between the ends of a step: the cubic through them with their slopes."""
        density, dt = self.measure.density, stop - start
        first = slopes[0] * column(density(start) * dt, y0)
        return hermite(y0, y1, first, slopes[1] * column(density(stop) * dt, y0))


def _each(t: Time, n: int) -> Array:
    return t if isinstance(t, np.ndarray) else np.full(n, t)


def _one(t: Array) -> float:
    return 1.0


def _make(problem: Problem) -> Stepper:
    return Multistep(problem)


register(
    MethodInfo(
        "adams",
        "ode",
        ORDER + 1,
        adaptive=True,
        evaluations=1,
        measured=True,
        controller=GAINS,
        note="Adams, variable step and order, predictor and corrector, exact weights",
    ),
    _make,
)
