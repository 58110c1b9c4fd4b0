"""One explicit Runge-Kutta step from any tableau.

    k_i = f(t + c_i dt, y + dt * sum_{j<i} a_ij k_j),   y_1 = y + dt * sum_i b_i k_i,
    error = dt * sum_i e_i k_i.

Where the last stage is evaluated at `(t_1, y_1)` it is the first stage of the next step ("first
same as last"): this follows from the tableau and is not declared. A rejected step keeps its first
stage; a step that begins at a break point evaluates its own.

Sums are chains of elementwise operations, not matrix products: these would round differently in
another batch.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .controller import Array, ErrorNorm, first_step
from .dense import hermite
from .stepper import Attempt, Evaluator, FirstStage, Mask, Rows, Span, step_factor
from .tableau import Tableau

__all__ = ["RungeKutta"]


class RungeKutta:
    """Steps of an explicit Runge-Kutta method.

    Args:
        tableau: the method's coefficients.
        field: the field to integrate.
        norm: measures the error; None to step without estimating it.
        dense: whether the steps will be interpolated.
    """

    def __init__(
        self, tableau: Tableau, field: Evaluator, norm: ErrorNorm | None, dense: bool
    ) -> None:
        self.tableau = tableau
        self.field = field
        self.norm = norm
        self.dense = dense
        # The stages that the solution needs; without an error estimate the one of an FSAL method
        # that only the estimate uses still serves as the next first stage.
        self._rows = [_terms(row) for row in tableau.a]
        self._b = _terms(tableau.b)
        self._e = _terms(tableau.error) if norm is not None else []
        # To interpolate, a method that does not end with the slope at t1 evaluates it early and
        # keeps it for the next step.
        self._eager = dense and not tableau.fsal and not tableau.interpolant
        self._fsal, self._stages = tableau.fsal, tableau.stages
        self._first = FirstStage(field)
        self._last: Tensor | None = None

    def first_steps(self, t: Array, y: Tensor, limit: Array) -> Array:
        """Evaluate the first stage; choose first steps from the field's size and change."""
        assert self.norm is not None
        self._first.value = slope = self.field(t, y)
        return first_step(self.norm, self.tableau.error_order, t, limit, y, slope, self.field)

    def cost(self) -> int:
        """Evaluations of an attempt that begins with a fresh first stage."""
        return self._stages + self._eager

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Propose one step of all samples."""
        first = self._first.at(span, y)
        # Stages are kept as dt * k, except that on a shared grid dt goes into the weights.
        factor = step_factor(span.dt, y)
        scale, column = (factor, None) if isinstance(factor, float) else (1.0, factor)
        stages = [first if column is None else first * column]
        state, last = y, first
        times = span.times(self.tableau.c)
        for i in range(1, self._stages):
            state = _combine(y, stages, self._rows[i], scale)
            last = self.field(times[i], state)
            stages.append(last if column is None else last * column)
        y1 = state if self._fsal else _combine(y, stages, self._b, scale)
        if self._eager:
            last = self.field(span.stop, y1)
        self._last = last if self._fsal or self._eager else None
        error = None
        if self.norm is not None:
            error = self.norm(_combine(None, stages, self._e, 1.0), y, y1, *span.ends())
        dense = None
        if self.dense:
            dense = partial(self._polynomial, y, y1, stages, last * factor, scale)
        tableau = self.tableau
        return Attempt(y1, error, tableau.order, tableau.error_order, dense)

    def _polynomial(
        self, y0: Tensor, y1: Tensor, stages: list[Tensor], slope: Tensor, scale: float
    ) -> Tensor:
        """Coefficients (p + 1, n, ...) of the step's interpolant; `slope` is `dt * f(t1, y1)`."""
        rows = self.tableau.interpolant
        if not rows:
            return hermite(y0, y1, stages[0] * scale, slope)
        weights = (_terms(power) for power in zip(*rows, strict=True))
        return torch.stack([y0, *(_combine(None, stages, terms, scale) for terms in weights)])

    def accept(self, mask: Mask | None) -> None:
        """Take the last stage as the next first one, or note that there is none."""
        if self._last is not None:
            self._first.renew(self._last, mask)
            self._last = None
        else:
            self._first.forget(mask)

    def restart(self, rows: Rows) -> None:
        """The first stage of these samples must be evaluated anew."""
        self._first.forget(rows)

    def select(self, rows: Rows) -> None:
        """Keep the first stages of these samples."""
        self._first.select(rows)


def _terms(row: tuple[float, ...]) -> list[tuple[int, float]]:
    return [(j, weight) for j, weight in enumerate(row) if weight]


def _combine(
    base: Tensor | None, stages: list[Tensor], terms: list[tuple[int, float]], scale: float
) -> Tensor:
    """`base + scale * sum of weight * stage`, in the order of the terms."""
    (j, weight), *rest = terms
    if base is None:
        total = stages[j] * (weight * scale)
    else:
        total = torch.add(base, stages[j], alpha=weight * scale)
    for j, weight in rest:
        total.add_(stages[j], alpha=weight * scale)
    return total
