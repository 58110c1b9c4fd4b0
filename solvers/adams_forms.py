r"""The Adams method of fixed order in two forms of one equation, whichever predicts better.

With v = g u the equation du = N dmu reads dv = M dnu, M = p N + q u (`Gauge`). Both are exact, but
N may be smooth where M is not, and the other way about. Every step is predicted and corrected in
both, from one state and one evaluation. What the corrector changes is the error of the prediction;
each sample goes on in the form whose errors were smaller lately: their mean logarithm, with half
of its weight on the last step, decides, and the other form must have been better by `GAIN`.

    abm-4-two-forms    abm-4-falling (`adams`) where the equation has one form only
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .adams import Adams, add_slopes, integrals
from .controller import Array, rms
from .registry import Gauge, MethodInfo, Problem, register
from .stepper import Attempt, Rows, Span, Stepper, index, select

__all__ = ["GAIN", "TwoForms"]

GAIN = 2.7
"""The other form is taken if its errors were smaller by this factor."""
_MEMORY = 0.5  # weight of the past in the mean logarithm
_SMALL = 1e-12  # the smallest error that is told from 0


class TwoForms(Adams):
    """The stepper of `abm-4-two-forms`.

    Args:
        problem: with the grid that all samples share.
        gauge: the second form.
        order: number of nodes k of the predictor.

    Raises:
        ValueError: if the problem has no grid.
    """

    def __init__(self, problem: Problem, gauge: Gauge, order: int = 4) -> None:
        self.gauge = gauge
        self._seconds: list[Tensor] = []
        self._guesses: tuple[Tensor, Tensor] | None = None
        self._fame: Array | None = None
        self._second = np.zeros(problem.y0.shape[0], np.bool_)
        super().__init__(problem, order, corrected=True, falling=True)

    def _plan(self, first: int) -> None:
        super()._plan(first)
        grid, gauge = self._grid[first:], self.gauge
        scale = gauge.scale(grid)
        self._ratio = (scale[:-1] / scale[1:]).tolist()
        self._field, self._state = gauge.field(grid).tolist(), gauge.state(grid).tolist()

        def weigh(start: Array, end: Array, nodes: Array, _: bool) -> Array:
            return integrals(gauge.density, start, end, nodes) / gauge.scale(end)[:, None]

        self._others = self._tables(weigh)

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Evaluate where the last step led, correct that step, predict the next: in both forms."""
        i = self._step - self._first
        slope = self.field(span.start, y)
        slopes = [slope, *self._slopes]
        seconds = [slope * self._field[i] + y * self._state[i], *self._seconds]
        base = y
        if self._base is not None:
            pair = self._both(self._base, slopes, seconds, i - 1, corrected=True)
            base = select(self._second, pair[1], pair[0])
            self._judge(pair)
        self._guesses = self._both(base, slopes, seconds, i, corrected=False)
        y1 = select(self._second, self._guesses[1], self._guesses[0])
        self._slopes, self._seconds = slopes[: self.order], seconds[: self.order]
        return self._attempt(y1, base, slopes, len(self._predict[i]))

    def _both(
        self, base: Tensor, slopes: list[Tensor], seconds: list[Tensor], i: int, corrected: bool
    ) -> tuple[Tensor, Tensor]:
        """The state behind step i, by either form."""
        first = (self._correct if corrected else self._predict)[i]
        second = self._others[corrected][i]
        return (
            add_slopes(base, slopes, first),
            add_slopes(base * self._ratio[i], seconds, second),
        )

    def _judge(self, pair: tuple[Tensor, Tensor]) -> None:
        """Choose each sample's form by what the corrector changed."""
        assert self._guesses is not None
        changes = zip(pair, self._guesses, strict=True)
        errors = np.stack([np.maximum(rms(new - old), _SMALL) for new, old in changes])
        with np.errstate(invalid="ignore"):  # of samples that fail
            errors = np.log(errors)
            if self._fame is not None:
                errors = _MEMORY * self._fame + (1 - _MEMORY) * errors
            ahead = errors[0] - errors[1]
        self._fame = errors
        gain = np.log(GAIN)
        self._second = np.where(self._second, ahead > -gain, ahead > gain)

    def restart(self, rows: Rows) -> None:
        """Begin anew with one node, in the first form."""
        self._seconds, self._guesses, self._fame = [], None, None
        self._second = np.zeros_like(self._second)
        super().restart(rows)

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""
        super().select(rows)
        self._second = self._second[rows]
        if not self._seconds:
            return
        where = index(rows, self._seconds[0])
        self._seconds = [second.index_select(0, where) for second in self._seconds]
        if self._guesses is not None:
            first, second = self._guesses
            self._guesses = first.index_select(0, where), second.index_select(0, where)
        if self._fame is not None:
            self._fame = self._fame[:, rows]


def _make(problem: Problem) -> Stepper:
    gauge = problem.measure and problem.measure.gauge
    return TwoForms(problem, gauge) if gauge else Adams(problem, 4, corrected=True, falling=True)


register(
    MethodInfo(
        "abm-4-two-forms",
        "ode",
        2,
        adaptive=False,
        evaluations=1,
        measured=True,
        note="abm-4-falling in two forms of the equation, the better one for each sample",
    ),
    _make,
)
