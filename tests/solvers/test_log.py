"""The step log: columns, files, summary."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from solvers import StepLog


@pytest.fixture
def log() -> StepLog:
    """Two samples: both try 0.5, the second is rejected; it tries 0.25 twice; one shared step."""
    log = StepLog(2)
    both, one = np.array([0, 1]), np.array([1])
    log.record(both, np.zeros(2), np.full(2, 0.5), np.array([0.3, 1.7]), np.array([True, False]),
               3, 2)  # fmt: skip
    log.record(one, np.zeros(1), np.full(1, 0.25), np.array([0.5]), np.array([True]),
               np.array([2]), 2)  # fmt: skip
    log.record(one, np.array([0.25]), np.full(1, 0.25), np.array([0.1]), np.array([True]), 2,
               np.array([3]))  # fmt: skip
    log.record(both, 0.5, 0.5, np.nan, True, 2, 2)
    log.evaluations[:] = 5, 9
    log.calls = 9
    log.finish()
    return log


def test_columns(log: StepLog) -> None:
    assert len(log) == 6
    np.testing.assert_array_equal(log.sample, [0, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(log.t, [0, 0, 0, 0.25, 0.5, 0.5])
    np.testing.assert_array_equal(log.dt, [0.5, 0.5, 0.25, 0.25, 0.5, 0.5])
    np.testing.assert_array_equal(log.error, [0.3, 1.7, 0.5, 0.1, np.nan, np.nan])
    np.testing.assert_array_equal(log.accepted, [1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(log.stages, [3, 3, 2, 2, 2, 2])
    np.testing.assert_array_equal(log.order, [2, 2, 2, 3, 2, 2])
    assert [log.columns()[name].dtype.kind for name in log.columns()] == list("ifffbii")


def test_counts(log: StepLog) -> None:
    np.testing.assert_array_equal(log.attempts, [2, 4])
    np.testing.assert_array_equal(log.steps, [2, 3])
    np.testing.assert_array_equal(log.rejections, [0, 1])
    np.testing.assert_array_equal(log.of(1)["dt"], [0.5, 0.25, 0.25, 0.5])
    assert log.summary() == (
        "2 samples: 7.0 evaluations per sample (5 to 9), 9 batched calls, 5 steps accepted, "
        "1 rejected"
    )


def test_files_hold_every_bit(log: StepLog, tmp_path: Path) -> None:
    log.t[3] = 0.1 + 0.2
    log.attach("sigma", np.sqrt(log.t))
    log.save_npz(tmp_path / "steps.npz")
    log.save_csv(tmp_path / "steps.csv")
    with np.load(tmp_path / "steps.npz") as saved:
        for name, values in log.columns().items():
            np.testing.assert_array_equal(saved[name], values)
        np.testing.assert_array_equal(saved["evaluations"], log.evaluations)
        assert saved["calls"] == 9
    with open(tmp_path / "steps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*StepLog(0).columns(), "sigma"]
    for name, values in log.columns().items():
        np.testing.assert_array_equal(np.array([float(row[name]) for row in rows]), values)


def test_attached_columns_must_fit(log: StepLog) -> None:
    with pytest.raises(ValueError, match="column of the log already"):
        log.attach("dt", log.dt)
    with pytest.raises(ValueError, match="has 2 values; the log has 6 attempts"):
        log.attach("sigma", np.zeros(2))


def test_an_empty_log_has_empty_columns() -> None:
    log = StepLog(0)
    assert len(log) == 0
    assert log.summary().startswith("0 samples: 0.0 evaluations")
    assert all(len(values) == 0 for values in log.columns().values())


def test_joined_logs_number_samples_through(log: StepLog) -> None:
    log.attach("sigma", np.sqrt(log.t))
    whole = StepLog.joined([log, log])
    assert (whole.batch, whole.calls, len(whole)) == (4, 18, 12)
    np.testing.assert_array_equal(whole.evaluations, [5, 9, 5, 9])
    for number in range(4):
        for name, values in whole.of(number).items():
            want = number if name == "sample" else log.of(number % 2)[name]
            np.testing.assert_array_equal(values, np.broadcast_to(want, values.shape))


def test_log_of_the_first_samples(log: StepLog) -> None:
    log.attach("sigma", np.sqrt(log.t))
    assert log.of_first(2) is log
    part = log.of_first(1)
    assert (part.batch, len(part), part.evaluations.tolist()) == (1, 2, [5])
    for name, values in part.columns().items():
        np.testing.assert_array_equal(values, log.of(0)[name])
