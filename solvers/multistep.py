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

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .controller import PI, Array, column, first_step, rms
from .dense import hermite
from .registry import Measure, MethodInfo, Problem, register
from .stepper import Attempt, Mask, Rows, Span, Stepper, Time, index, select

__all__ = ["ALLOWANCE", "GAINS", "ORDER", "Multistep", "newton_integrals"]

ORDER = 4
"""The highest order of the predictor; the corrector's is one more."""
ALLOWANCE = 6.0
"""A step is accepted while its estimate is below this multiple of the tolerance."""
GAINS = PI(p=0.3, i=0.6, safety=0.85, max_factor=5.0)
"""Control that answers faster than is usual: up to `ALLOWANCE` no step is lost to it."""

# Another order is taken if it promises steps longer by this factor, another form if its errors
# were smaller by that one, in a mean with half its weight on the last step (logarithms).
_ORDER_GAIN = float(np.log(1.1))
_FORM_GAIN = float(np.log(1.5))
_MEMORY = 0.5
_SMALL = 1e-8  # the smallest error that is told from 0
# Gauss-Legendre rules on [0, 1] by their number of points, exact for polynomials below twice that
# degree. Twelve points integrate the measures of `sdeflow` to rounding over steps of 1 in log-SNR.
_RULES = [
    (0.5 * (1 + points)[:, None], 0.5 * weights[:, None])
    for points, weights in map(np.polynomial.legendre.leggauss, range(1, 13))
]
_RULES.insert(0, (np.empty((0, 1)), np.empty((0, 1))))


def newton_integrals(
    clock: Callable[[Array], Array],
    densities: list[Callable[[Array], Array]],
    start: Array,
    stop: Array,
    nodes: Array,
    quadrature: int = 12,
) -> Array:
    """Integrals of Newton's polynomials against measures, `W_j = int omega_j dmu`.

    Args:
        clock: c(t).
        densities: dmu/dt of F measures.
        start: where the integrals begin, (n,).
        stop: where they end, (n,).
        nodes: c_0, ..., c_{k-1}, (k, n).
        quadrature: number of points, up to 12.

    Returns:
        (k + 1, F, n) float64. Every number depends on its own sample only, to the last bit.
    """
    dt = stop - start
    points, weights = _RULES[quadrature]
    t = start + dt * points  # (Q, n)
    c = clock(t)
    omega = np.empty((quadrature, len(nodes) + 1, len(start)))
    omega[:, 0] = 1.0
    np.subtract(c[:, None], nodes, out=omega[:, 1:])
    for j in range(1, len(nodes)):
        omega[:, j + 1] *= omega[:, j]
    integrals = np.empty((len(nodes) + 1, len(densities), len(start)))
    weights = weights * dt
    for form, density in enumerate(densities):
        dmu = density(t) * weights
        np.add.reduce(omega * dmu[:, None], axis=0, out=integrals[:, form])
    return integrals


@dataclass
class _Memory:
    """What is known of every active sample; n samples, K the highest order, F forms.

    Attributes:
        nodes: clock at the last K nodes, newest first, (K, n).
        spans: products of the distances from the newest node to the j next, (K + 1, n).
        differences: 0, then the divided differences D_0 ... D_{K-1} times `spans`, which keeps
            them at the size of N, (K + 1, n, F, ...).
        count: nodes that hold something, (n,), at most K + 1.
        order: of the next predictor, (n,).
        form: of the next step, (n,).
        fame: mean logarithms of the errors of both forms, (F, n).
        size: ratios to the tolerance of D_1 ... D_K times `spans`, per unit of weight, (K, F, n).
    """

    nodes: Array
    spans: Array
    differences: Tensor
    count: NDArray[np.int64]
    order: NDArray[np.int64]
    form: NDArray[np.int64]
    fame: Array
    size: Array

    def merge(self, old: _Memory, mask: Mask) -> _Memory:
        """This memory where the mask (n,) is set, `old` elsewhere."""
        chosen = torch.from_numpy(mask).to(self.differences.device)
        chosen = chosen.view((1, -1) + (1,) * (self.differences.ndim - 2))
        return _Memory(
            np.where(mask, self.nodes, old.nodes),
            np.where(mask, self.spans, old.spans),
            torch.where(chosen, self.differences, old.differences),
            np.where(mask, self.count, old.count),
            np.where(mask, self.order, old.order),
            np.where(mask, self.form, old.form),
            np.where(mask, self.fame, old.fame),
            np.where(mask, self.size, old.size),
        )

    def select(self, rows: Rows) -> _Memory:
        """The samples `rows` only."""
        return _Memory(
            self.nodes[:, rows],
            self.spans[:, rows],
            self.differences.index_select(1, index(rows, self.differences)),
            self.count[rows],
            self.order[rows],
            self.form[rows],
            self.fame[:, rows],
            self.size[:, :, rows],
        )


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
        self._densities = [measure.density]
        if self.gauge is not None:
            self._densities.append(self.gauge.density)
        self._highest = order
        self._js = np.arange(1, order + 1)[:, None]
        self._quadrature = 12 if problem.measure is not None else order // 2 + 1
        # What speaks for order j + 1 in the place of order k, entry [j, k], in logarithms.
        j, k = self._js, np.arange(order + 1)
        self._bonus = np.where(np.abs(j - k) > 1, -np.inf, np.where(j == k, _ORDER_GAIN, 0.0))
        if order > 1:
            self._bonus[0] = -np.inf
        forms, shape = len(self._densities), tuple(problem.y0.shape[1:])
        batch = len(problem.y0)
        self._now = _Memory(
            np.zeros((order, batch)),
            np.ones((order + 1, batch)),
            problem.y0.new_zeros((order + 1, batch, forms, *shape)),
            np.zeros(batch, np.int64),
            np.ones(batch, np.int64),
            np.zeros(batch, np.int64),
            np.zeros((forms, batch)),
            np.zeros((order, forms, batch)),
        )
        self._next: _Memory | None = None
        self._everyone = np.arange(batch)
        self._fresh = self._ramping = True

    def start(self, t: Time, y: Tensor, limit: Time, suggest: bool) -> Array | None:
        """The longest steps that the measure allows, or steps chosen by the field's change."""
        if not suggest:
            return None
        assert self.norm is not None
        assert isinstance(t, np.ndarray)
        assert isinstance(limit, np.ndarray)
        if self.measure.longest is not None:
            return np.minimum(self.measure.longest(t), np.abs(limit))
        density = self.measure.density
        self._begin(self._everyone, t, y)
        slope = self._now.differences[1, :, 0] * column(density(t), y)

        def rate(time: Array, state: Tensor) -> Tensor:
            return self.field(time, state) * column(density(time), state)

        return first_step(self.norm, 2, t, limit, y, slope, rate)

    def cost(self) -> int:
        """One evaluation, one more where a sample begins anew."""
        return 2 if self._fresh else 1

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Predict, evaluate, correct; estimate the error and choose the next order and form."""
        n, everyone = len(y), self._everyone
        start, stop = _each(span.start, n), _each(span.stop, n)
        if self._fresh:
            rows = np.flatnonzero(self._now.count == 0)
            if len(rows):
                self._begin(rows, start[rows], y.index_select(0, index(rows, y)))
            self._fresh = False
        now, measure = self._now, self.measure
        clock = measure.clock(stop)
        integrals = newton_integrals(
            measure.clock, self._densities, start, stop, now.nodes, self._quadrature
        )
        ratio = None
        if self.gauge is not None:
            scale = self.gauge.scale(stop)
            ratio = self.gauge.scale(start) / scale
            integrals[:, 1] /= scale
        spans = np.empty((self._highest + 1, n))
        spans[0] = 1.0
        np.subtract(clock, now.nodes, out=spans[1:])
        if self._ramping:
            spans[1:] = np.where(self._js <= now.count, spans[1:], 1.0)
        for j in range(1, self._highest):
            spans[j + 1] *= spans[j]
        guess, shed = self._predict(y, ratio, integrals, spans)
        form = 0 if ratio is None else now.form
        weight = None
        if self.norm is not None and self.norm.weight is not None:
            weight = self.norm.weight(stop)
        skipped, estimate = self._skip(span.closing, integrals, weight)
        # From here on for differences times their spans, as these are kept.
        integrals /= spans[:, None]
        last = integrals[now.order, form, everyone]  # W_k
        if skipped is not None:
            last = np.where(skipped, 0.0, last)
        slope = self._evaluate(stop, guess, skipped)
        differences, new = self._differences(slope, guess, stop, shed)
        y1 = torch.addcmul(guess, self._take(new), column(last, y))
        nodes = np.empty_like(now.nodes)
        nodes[0], nodes[1:] = clock, now.nodes[:-1]
        count = np.minimum(now.count + 1, self._highest + 1)
        dense = None
        if self.dense:
            slopes = (now.differences[1, :, 0], slope)
            dense = partial(self._polynomial, y, y1, start, stop, slopes)
        if self.norm is None:
            order = np.minimum(count, self._highest)
            self._next = _Memory(
                nodes, spans, differences, count, order, now.form, now.fame, now.size
            )
            return Attempt(y1, None, now.order, now.order.astype(np.float64), dense)
        size = self._sizes(new, y, y1, start, stop)
        errors = np.abs(integrals[1:]) * size  # (K, F, n)
        if weight is not None:
            errors *= weight
        errors = np.maximum(errors, _SMALL)  # keeps nan
        own = errors[now.order - 1, form, everyone]
        fame, now_form = self._choose_form(errors)
        ruling_errors = errors[:, 0] if ratio is None else errors[:, now_form, everyone]
        order = self._choose_order(ruling_errors, count)
        ruling = np.minimum(order, now.order)
        aim = ruling_errors[ruling - 1, everyone]
        if skipped is not None:
            own = np.where(skipped, estimate, own)
        rejected = ~(own <= ALLOWANCE)
        if rejected.any():
            ruling, aim = np.where(rejected, now.order, ruling), np.where(rejected, own, aim)
        self._next = _Memory(nodes, spans, differences, count, order, now_form, fame, size)
        longest = None if measure.longest is None else measure.longest(stop)
        return Attempt(
            y1,
            own / ALLOWANCE,
            now.order,
            (ruling + 1).astype(np.float64),
            dense,
            control=aim,
            longest=longest,
        )

    def accept(self, mask: Mask | None) -> None:
        """The new value becomes a node."""
        assert self._next is not None
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
        self._everyone = np.arange(len(rows))

    def _begin(self, rows: Rows, t: Array, y: Tensor) -> None:
        """The first node of these samples."""
        now, where = self._now, index(rows, y)
        slope = self.field.at(rows, t, y)
        now.differences[1, where, 0] = slope
        if self.gauge is not None:
            p, q = column(self.gauge.field(t), y), column(self.gauge.state(t), y)
            now.differences[1, where, 1] = slope * p + y * q
        now.nodes[0, rows] = self.measure.clock(t)
        now.spans[:, rows] = 1.0
        now.count[rows] = 1

    def _predict(
        self, y: Tensor, ratio: Array | None, integrals: Array, spans: Array
    ) -> tuple[Tensor, Tensor]:
        """u_p, (n, ...), and the sums of the kept differences at the new clock, `_differences`."""
        now, k = self._now, self._highest
        table = np.empty((2, k + 1, len(y), integrals.shape[1]))
        table[:, 0] = 0.0
        used = integrals[:-1] / now.spans[:-1, None]
        used *= (self._js <= now.order)[:, None]
        table[0, 1:] = used.transpose(0, 2, 1)
        table[1, 1:] = (spans[:-1] / now.spans[:-1])[:, :, None]
        # Sums over j, of every element apart: both at once.
        sums = (now.differences * _columns(table, y)).cumsum_(1)
        if ratio is None:
            return y + sums[0, -1].squeeze(1), sums[1]
        steps = sums[0, -1]
        data = torch.addcmul(steps[:, 1], y, column(ratio, y))
        return select(now.form == 1, data, y + steps[:, 0]), sums[1]

    def _skip(
        self, closing: Mask | bool, integrals: Array, weight: Array | None
    ) -> tuple[Mask | None, Array | None]:
        """The samples that need no evaluation at the end of this step, and their errors."""
        if closing is False or self.dense:
            return None, None
        now = self._now
        skipped = np.broadcast_to(closing, now.count.shape)
        if self.norm is None:
            return skipped, None
        form = 0 if self.gauge is None else now.form
        everyone = self._everyone
        last = integrals[now.order, form, everyone] / now.spans[now.order, everyone]
        estimate = np.abs(last) * now.size[now.order - 1, form, everyone]
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

    def _differences(
        self, slope: Tensor, guess: Tensor, stop: Array, shed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The differences to keep, and E_0 ... E_K times their spans, (K + 1, n, F, ...)."""
        if self.gauge is None:
            value = slope.unsqueeze(1)
        else:
            p, q = column(self.gauge.field(stop), slope), column(self.gauge.state(stop), slope)
            value = torch.stack([slope, torch.addcmul(slope * p, guess, q)], 1)
        # E_{j+1} = E_j - D_j, with the spans in.
        both = torch.zeros((len(shed) + 1, *shed.shape[1:]), dtype=shed.dtype, device=shed.device)
        new = both[1:]
        torch.sub(value, shed, out=new)
        return both[:-1], new

    def _take(self, new: Tensor) -> Tensor:
        """Every sample's difference of its own order and form, (n, ...)."""
        now = self._now
        n, forms = new.shape[1:3]
        rows = now.order * n + self._everyone
        if forms > 1:
            rows = rows * forms + now.form
        return new.flatten(0, 2).index_select(0, index(rows, new))

    def _sizes(self, new: Tensor, y: Tensor, y1: Tensor, start: Array, stop: Array) -> Array:
        """Ratios to the tolerance of D_1 ... D_K with their new spans, per unit of weight."""
        assert self.norm is not None
        scale = self.norm.tolerance(y, y1, start, stop)
        values = new[1:] / scale.unsqueeze(1)
        orders, n, forms = values.shape[:3]
        sizes: Array = rms(values.flatten(0, 2)).reshape(orders, n, forms)
        sizes = sizes.transpose(0, 2, 1)
        if not sizes.all():
            # An infinite state has an infinite tolerance: it must not pass as a small error.
            lost = ~torch.isfinite(y1).flatten(1).all(1).cpu().numpy()
            sizes[:, :, lost] = np.nan
        return sizes

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
        reach += self._bonus[:, order]
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


def _columns(values: Array, like: Tensor) -> Tensor:
    """Host numbers (..., n, F) as (..., n, F, 1, ..., 1) with dtype and device of `like`."""
    if like.dtype is torch.float32:
        out = torch.from_numpy(values.astype(np.float32)).to(like.device)
    else:
        out = torch.from_numpy(values).to(like.dtype).to(like.device)
    return out.view(*out.shape, *(1,) * (like.ndim - 1))


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
