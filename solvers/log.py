"""What a solver did: the status of every sample and a log of every attempted step.

For every sample, with `n` attempts of which `a` are accepted,

    accepted + rejected = n,   sum of accepted dt = t_end - t0,   sum of stages = evaluations.

The third holds because the evaluations that prepare an attempt (a first step size, the fresh first
stage behind a break point) are counted with it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Status", "StepLog"]

_LINES = 4096  # of text made at a time


class Status(IntEnum):
    """How the integration of one sample ended."""

    ok = 0
    max_evaluations = 1
    step_underflow = 2
    non_finite = 3


class StepLog:
    """Every attempt of every sample, in the order in which they were made.

    Attributes (each (N,), one element per attempt, once `finish` was called):
        sample: index of the sample in the batch, int64.
        t: time at which the attempt starts, float64.
        dt: its signed length; `t + dt` is its end, float64.
        error: weighted error ratio, at most 1 where accepted; NaN where nothing was estimated.
        accepted: bool.
        stages: evaluations of the field that this attempt cost, int64.
        order: order of the formula used, int64.

    Further attributes:
        evaluations: evaluations of the field per sample, (B,) int64, counted as they happen.
        calls: batched calls of the field.
        extra: further columns, (N,) each, that a caller attaches under names of its own.
    """

    sample: NDArray[np.int64]
    t: NDArray[np.float64]
    dt: NDArray[np.float64]
    error: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    stages: NDArray[np.int64]
    order: NDArray[np.int64]

    _TYPES = (
        ("sample", np.int64),
        ("t", np.float64),
        ("dt", np.float64),
        ("error", np.float64),
        ("accepted", np.bool_),
        ("stages", np.int64),
        ("order", np.int64),
    )

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.evaluations = np.zeros(batch, np.int64)
        self.calls = 0
        self.extra: dict[str, NDArray[Any]] = {}
        self._attempts: list[tuple[Any, ...]] = []
        self._fill([])

    def record(
        self,
        sample: NDArray[np.int64],
        t: float | NDArray[np.float64],
        dt: float | NDArray[np.float64],
        error: float | NDArray[np.float64],
        accepted: bool | NDArray[np.bool_],
        stages: int | NDArray[np.int64],
        order: int | NDArray[np.int64],
    ) -> None:
        """Note one attempt of the samples `sample`, (n,); a scalar stands for all of them.

        The arrays are kept, not copied: the caller must not write to them again.
        """
        self._attempts.append((sample, t, dt, error, accepted, stages, order))

    def finish(self) -> None:
        """Make the columns from what was recorded, once, at the end."""
        self._fill(self._attempts)
        self._attempts = []  # the columns hold it all; kept too, a log would take twice its size

    @classmethod
    def joined(cls, logs: Sequence[StepLog]) -> StepLog:
        """One log of finished ones, their samples numbered through, with what was attached."""
        whole = cls(sum(log.batch for log in logs))
        whole.calls = sum(log.calls for log in logs)
        whole.evaluations = np.concatenate([log.evaluations for log in logs])
        offsets = np.cumsum([0, *(log.batch for log in logs)])
        for name, _ in cls._TYPES[1:]:
            setattr(whole, name, np.concatenate([getattr(log, name) for log in logs]))
        whole.sample = np.concatenate(
            [log.sample + offset for log, offset in zip(logs, offsets, strict=False)]
        )
        for name in logs[0].extra:
            whole.extra[name] = np.concatenate([log.extra[name] for log in logs])
        return whole

    def _fill(self, attempts: list[tuple[Any, ...]]) -> None:
        sizes = [len(attempt[0]) for attempt in attempts]
        columns = zip(*attempts, strict=True) if attempts else [()] * len(self._TYPES)
        for (name, dtype), entries in zip(self._TYPES, columns, strict=True):
            setattr(self, name, _column(entries, sizes, dtype))

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def attempts(self) -> NDArray[np.int64]:
        """Attempts per sample, (B,)."""
        return np.bincount(self.sample, minlength=self.batch)

    @property
    def steps(self) -> NDArray[np.int64]:
        """Accepted steps per sample, (B,)."""
        return np.bincount(self.sample[self.accepted], minlength=self.batch)

    @property
    def rejections(self) -> NDArray[np.int64]:
        """Rejected steps per sample, (B,)."""
        return self.attempts - self.steps

    def of(self, sample: int) -> dict[str, NDArray[Any]]:
        """The columns of one sample, in the order of its attempts."""
        chosen = self.sample == sample
        return {name: values[chosen] for name, values in self.columns().items()}

    def of_first(self, count: int) -> StepLog:
        """The log of samples 0, ..., count - 1 alone; itself where there are no others."""
        if self.batch <= count:
            return self
        part, chosen = StepLog(count), self.sample < count
        for name, _ in self._TYPES:
            setattr(part, name, getattr(self, name)[chosen])
        part.extra = {name: values[chosen] for name, values in self.extra.items()}
        part.evaluations, part.calls = self.evaluations[:count], self.calls
        return part

    def attach(self, name: str, values: NDArray[Any]) -> None:
        """Add a column under a name of the caller's; one value per attempt.

        Raises:
            ValueError: if the name is taken by the log or the length is not that of the log.
        """
        if name in {known for known, _ in self._TYPES}:
            raise ValueError(f"name={name!r} is a column of the log already; choose another")
        if len(values) != len(self):
            raise ValueError(
                f"column {name!r} has {len(values)} values; the log has {len(self)} attempts"
            )
        self.extra[name] = values

    def columns(self) -> dict[str, NDArray[Any]]:
        """All columns by name, the attached ones last: equal lengths, ready for a table."""
        return {**{name: getattr(self, name) for name, _ in self._TYPES}, **self.extra}

    def save_npz(self, path: str | Path) -> None:
        """Write the columns, `evaluations` and `calls` to a compressed NumPy archive."""
        columns: dict[str, Any] = self.columns()
        np.savez_compressed(
            path, **columns, evaluations=self.evaluations, calls=np.int64(self.calls)
        )

    def save_csv(self, path: str | Path) -> None:
        """Write the columns as text, one line per attempt; floats as shortest exact decimals."""
        columns = self.columns()
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            # Numbers as Python objects take ten times the room: a part of the lines at a time.
            for first in range(0, len(self), _LINES):
                parts = [values[first : first + _LINES] for values in columns.values()]
                texts = [(p.astype(int) if p.dtype == bool else p).tolist() for p in parts]
                writer.writerows(zip(*texts, strict=True))

    def summary(self) -> str:
        """The log in one line."""
        low, mean, high = _spread(self.evaluations)
        accepted = int(np.count_nonzero(self.accepted))
        return (
            f"{self.batch} samples: {mean:.1f} evaluations per sample ({low} to {high}), "
            f"{self.calls} batched calls, {accepted} steps accepted, "
            f"{len(self) - accepted} rejected"
        )


def _column(entries: Sequence[Any], sizes: list[int], dtype: type[Any]) -> NDArray[Any]:
    """One column out of arrays (n,) and of numbers that stand for n equal values."""
    arrays = [isinstance(entry, np.ndarray) for entry in entries]
    if not any(arrays):
        return np.repeat(np.array(entries, dtype), sizes)
    if not all(arrays):
        entries = [
            entry if known else np.full(size, entry)
            for entry, known, size in zip(entries, arrays, sizes, strict=True)
        ]
    return np.concatenate(entries).astype(dtype)


def _spread(values: NDArray[np.int64]) -> tuple[int, float, int]:
    if not len(values):
        return 0, 0.0, 0
    return int(values.min()), float(values.mean()), int(values.max())
