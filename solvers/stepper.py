"""What the loop asks of a method: the `Stepper` protocol, and the field that steppers evaluate.

A stepper proposes one step of every active sample at a time. The loop decides: it clips steps at
break points and the end, accepts or rejects per sample, drops finished samples, and keeps the log.
A stepper therefore owns whatever it remembers from step to step (slopes, history, noise) and
changes it only when it is told to:

    first_steps   before the first step, if asked      -> suggest its sizes
    step     propose a step; nothing it remembers changes that a rejection would have to undo
    accept   the samples in the mask take their proposals; the others try again
    restart  these samples stand at a break point: forget what lies behind it
    select   keep these samples only, in this order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .controller import Array, column

__all__ = [
    "Attempt",
    "Counter",
    "Evaluator",
    "Field",
    "FirstStage",
    "Mask",
    "Rows",
    "Span",
    "Stepper",
    "Time",
]

Field = Callable[..., Tensor]
Time = float | Array
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(slots=True)
class Span:
    """The stretch of time that one step covers, for all active samples.

    Every entry is an array (n,), or a float where all samples step alike (a fixed grid).

    Attributes:
        t0, t1: the ends, exactly.
        dt: `t1 - t0`, signed.
        start, stop: the ends as the field may see them: next to a break point they are the
            neighbouring floats inside the span, so that no evaluation falls on its other side.
        closing: samples whose step ends at a break point or the end, (n,), or True or False for
            all: what is evaluated there is of no use to the step behind.
    """

    t0: Time
    t1: Time
    dt: Time
    start: Time
    stop: Time
    closing: Mask | bool = False

    def ends(self) -> tuple[Array, Array]:
        """t0 and t1, of every sample."""
        assert isinstance(self.t0, np.ndarray)
        assert isinstance(self.t1, np.ndarray)
        return self.t0, self.t1

    def at(self, c: float) -> Time:
        """The time at the fraction `c` of the step; never outside [start, stop]."""
        if c == 0:
            return self.start
        return self.stop if c == 1 else self.start + c * (self.stop - self.start)

    def times(self, fractions: tuple[float, ...]) -> Sequence[Time]:
        """The same for several fractions at once."""
        if not isinstance(self.start, np.ndarray):
            return [self.at(c) for c in fractions]
        table = np.multiply.outer(fractions, self.stop - self.start)
        table += self.start
        return [self.stop if c == 1 else t for c, t in zip(fractions, table, strict=True)]


@dataclass(slots=True)
class Attempt:
    """A proposed step.

    Attributes:
        y: new states (n, ...).
        error: weighted error ratios (n,), not finite where the step failed; None without estimate.
        order: order of the formula, for the log.
        local_order: how the error scales with the step, `error ~ dt ** local_order`, for control;
            a number, or one per sample.
        control: ratios (n,) that the next steps are to be chosen by, where these are not `error`.
        longest: the longest next steps (n,), unsigned; None for no limit.
        dense: gives the coefficients (p + 1, n, ...) of the polynomial in theta that interpolates
            the step, by increasing power; None where there is none.
    """

    y: Tensor
    error: Array | None
    order: int | NDArray[np.int64]
    local_order: float | Array
    dense: Callable[[], Tensor] | None = None
    control: Array | None = None
    longest: Array | None = None


class Stepper(Protocol):
    """A method, with what it remembers of every active sample."""

    def first_steps(self, t: Array, y: Tensor, limit: Array) -> Array:
        """Sizes (n,) > 0 to begin with at `(t, y)`; asked for under control, or not at all.

        `limit` is the signed time to the first point that may not be passed.
        """

    def cost(self) -> int:
        """The most evaluations of the field that the next attempt of any sample can take."""

    def step(self, span: Span, y: Tensor) -> Attempt:
        """Propose a step over `span` from the states `y` (n, ...)."""

    def accept(self, mask: Mask | None) -> None:
        """The last proposal holds for the samples in `mask` (n,), or for all (None)."""

    def restart(self, rows: Rows) -> None:
        """The samples `rows` passed a break point: what was learnt before it is void."""

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`, in this order."""


class Counter(Protocol):
    """Counts evaluations and follows the batch; an `Evaluator` is one."""

    calls: int

    def spent(self) -> int | NDArray[np.int64]:
        """Evaluations since the last time this was asked: one number for all, or (n,)."""

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""


class Evaluator:
    """The field, as steppers see it: takes host times, counts evaluations, checks what it returns.

    Args:
        field: `field(t, y, *args) -> dy/dt`; t a float64 host tensor (n,), y and the result
            (n, ...) of the same shape and dtype.
        args: tensors with one row per sample, handed to the field after the state.
        batch: number of samples.
    """

    def __init__(self, field: Field, args: Sequence[Tensor], batch: int) -> None:
        self.field = field
        self.args = tuple(args)
        self.calls = 0
        self._batch = batch
        self._shared = 0
        self._extra: NDArray[np.int64] | None = None
        self._checked = False

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        """The field at `(t, y)` for all active samples."""
        self._shared += 1
        self.calls += 1
        slope = self.field(times(t, y.shape[0]), y, *self.args)
        if not self._checked:
            self._check(slope, y)
        return slope

    def at(self, rows: Rows, t: Array, y: Tensor) -> Tensor:
        """The field for the samples `rows` only, with their times (m,) and states (m, ...)."""
        if len(rows) == self._batch:
            return self(t, y)
        if self._extra is None:
            self._extra = np.zeros(self._batch, np.int64)
        self._extra[rows] += 1
        self.calls += 1
        where = index(rows, y)
        args = (arg.index_select(0, where.to(arg.device)) for arg in self.args)
        return self.field(times(t, y.shape[0]), y, *args)

    def spent(self) -> int | NDArray[np.int64]:
        """Evaluations since the last time this was asked: one number for all, or (n,)."""
        shared, extra = self._shared, self._extra
        self._shared, self._extra = 0, None
        return shared if extra is None else shared + extra

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`. Evaluations not yet asked for stay with their samples."""
        self._batch = len(rows)
        if self._extra is not None:
            self._extra = self._extra[rows]
        self.args = tuple(arg.index_select(0, index(rows, arg)) for arg in self.args)

    def _check(self, slope: Tensor, y: Tensor) -> None:
        self._checked = True
        if not isinstance(slope, Tensor) or slope.shape != y.shape or slope.dtype != y.dtype:
            got = (
                f"{tuple(slope.shape)} {slope.dtype}"
                if isinstance(slope, Tensor)
                else type(slope).__name__
            )
            raise ValueError(
                f"field returned {got} for a state {tuple(y.shape)} {y.dtype}; "
                "it must return a tensor of the state's shape and dtype"
            )


class FirstStage:
    """The field where the next step begins, kept over rejections.

    Args:
        field: the field.
    """

    def __init__(self, field: Evaluator) -> None:
        self.field = field
        self.value: Tensor | None = None
        self._stale: Mask | None = None

    def at(self, span: Span, y: Tensor) -> Tensor:
        """The field at the start of `span`, evaluated for the samples that need it anew."""
        if self.value is None or (self._stale is not None and self._stale.all()):
            self.value = self.field(span.start, y)
        elif self._stale is not None and self._stale.any():
            rows = np.flatnonzero(self._stale)
            where = index(rows, y)
            assert isinstance(span.start, np.ndarray)
            fresh = self.field.at(rows, span.start[rows], y.index_select(0, where))
            self.value = self.value.index_copy(0, where, fresh)
        self._stale = None
        return self.value

    def renew(self, value: Tensor, mask: Mask | None) -> None:
        """`value` holds for the samples in the mask (n,), or for all."""
        assert self.value is not None
        self.value = value if mask is None else select(mask, value, self.value)

    def forget(self, rows: Mask | Rows | None) -> None:
        """These samples, or all, moved on."""
        if rows is None:
            self.value, self._stale = None, None
        elif self.value is not None:
            stale = np.zeros(self.value.shape[0], np.bool_)
            stale[rows] = True
            self._stale = stale if self._stale is None else self._stale | stale

    def select(self, rows: Rows) -> None:
        """Keep only the samples `rows`."""
        if self.value is not None:
            self.value = self.value.index_select(0, index(rows, self.value))
        if self._stale is not None:
            self._stale = self._stale[rows]


def times(t: Time, batch: int) -> Tensor:
    """Host float64 tensor (batch,) of `t`."""
    if isinstance(t, np.ndarray):
        return torch.from_numpy(t)
    return torch.full((batch,), t, dtype=torch.float64)


def index(rows: Rows, like: Tensor) -> Tensor:
    """`rows` as an index tensor on the device of `like`."""
    return torch.from_numpy(rows).to(like.device)


def select(mask: Mask, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where the mask (n,) is set, of `old` elsewhere."""
    chosen = torch.from_numpy(mask).to(new.device).view((-1,) + (1,) * (new.ndim - 1))
    return torch.where(chosen, new, old)


def step_factor(dt: Time, like: Tensor) -> float | Tensor:
    """`dt` as a factor for states: a float, or a tensor (n, 1, ..., 1)."""
    return column(dt, like) if isinstance(dt, np.ndarray) else dt
