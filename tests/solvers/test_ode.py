"""What `odeint` promises: ends, break points, statuses, independence of the batch, the log."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from solvers import PI, PID, I, Measure, Solution, SolverError, Status, odeint
from solvers.tableau import TABLEAUS
from tests.problems import (
    CONSTANT,
    DECAY,
    RICCATI,
    ROTATION,
    ZERO,
    Problem,
    column,
    jump,
    stiff,
)

ADAPTIVE = [name for name in TABLEAUS if TABLEAUS[name].error]
Field = Callable[..., Tensor]


class Recorder:
    """A field that notes every time it is asked for, and counts evaluations per sample."""

    def __init__(self, field: Field, batch: int) -> None:
        self.field = field
        self.times: list[np.ndarray] = []
        self.counts = np.zeros(batch, int)
        self.calls = 0

    def __call__(self, t: Tensor, y: Tensor, sample: Tensor) -> Tensor:
        assert t.dtype is torch.float64
        assert t.device.type == "cpu"
        assert t.shape == (len(y),)
        self.times.append(t.numpy().copy())
        self.counts[sample.cpu().numpy()] += 1
        self.calls += 1
        return self.field(t, y)

    @property
    def all_times(self) -> np.ndarray:
        return np.concatenate(self.times)


def start(batch: int = 8, size: int = 3, **options: object) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    y0 = 0.2 + 0.4 * torch.rand(batch, size, generator=generator, dtype=torch.float64)
    return y0.to(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("problem", [DECAY, RICCATI, ZERO, CONSTANT], ids=lambda p: p.name)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (-0.5, 0.7)])
def test_adaptive_solutions(
    method: str, problem: Problem, t0: float, t1: float, device: torch.device
) -> None:
    y0 = start(dtype=torch.float32, device=device)
    solution = odeint(problem.field, y0, t0, t1, method=method, rtol=1e-5, atol=1e-5)
    assert solution.y.dtype is torch.float32
    assert solution.y.device.type == device.type
    assert (solution.t == t1).all()
    assert solution.ok.all()
    # Some tens of steps, each off by at most 1e-5 (1 + |y|), on fields that expand little.
    torch.testing.assert_close(solution.y, problem.exact(t0, y0, t1), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("controller", [I(), PI(), PID()], ids=lambda c: c.name)
def test_error_follows_the_tolerance(controller: PID) -> None:
    y0 = start()
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        solution = odeint(
            RICCATI.field, y0, 0, 2, rtol=tolerance, atol=tolerance, controller=controller
        )
        error = (solution.y - RICCATI.exact(0, y0, 2)).abs().max().item()
        assert error < 10 * tolerance
        errors.append(error)
        assert solution.controller == controller
    assert errors[2] < errors[1] < errors[0]


def test_stiff_relaxation_is_stable_and_stays_accurate() -> None:
    problem = stiff(1000.0)
    y0 = start(4, 2)
    solution = odeint(problem.field, y0, 0, 1, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(solution.y, problem.exact(0, y0, 1), rtol=0, atol=1e-5)
    # Stability, not accuracy, limits the step: |1000 dt| < 3.3 for this method.
    assert np.abs(solution.log.dt[solution.log.accepted]).max() < 0.01


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "heun"])
def test_steps_of_a_zero_field_grow_to_the_end(method: str) -> None:
    solution = odeint(ZERO.field, start(), 0, 1, method=method)
    assert torch.equal(solution.y, start())
    assert solution.log.rejections.sum() == 0
    # From 1e-6 in steps ten times as long each: 1e-6 * (10^n - 1) / 9 reaches 1 at n = 7.
    assert solution.log.attempts.max() <= 8


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("breaks", [(), (0.3, 0.6), (0.0, 1.0, -2.0)])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_log_identities_and_times_inside(
    method: str, dense: bool, breaks: tuple[float, ...], t0: float, t1: float
) -> None:
    y0 = start(5, 2)
    field = Recorder(RICCATI.field, 5)
    solution = odeint(
        field, y0, t0, t1, method=method, rtol=1e-4, atol=1e-4, args=(torch.arange(5),),
        breaks=breaks, dense=dense,
    )  # fmt: skip
    log = solution.log
    assert field.all_times.min() >= 0
    assert field.all_times.max() <= 1
    np.testing.assert_array_equal(log.evaluations, field.counts)
    assert log.calls == field.calls
    np.testing.assert_array_equal(log.steps + log.rejections, log.attempts)
    for sample in range(5):
        own = log.of(sample)
        taken = own["accepted"]
        assert own["stages"].sum() == log.evaluations[sample]
        # Each dt is a rounded difference of times below 1.
        assert own["dt"][taken].sum() == pytest.approx(t1 - t0, abs=1e-14)
        np.testing.assert_array_equal(own["accepted"], own["error"] <= 1)
        reached = own["t"][taken] + own["dt"][taken]
        np.testing.assert_allclose(own["t"][taken][1:], reached[:-1], rtol=0, atol=1e-15)
        assert own["t"][0] == t0
        for edge in breaks:
            if 0 < edge < 1:
                assert edge in own["t"]


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("t0", [0.0, 1.0])
def test_fixed_steps_keep_the_same_promises(method: str, dense: bool, t0: float) -> None:
    field = Recorder(RICCATI.field, 5)
    solution = odeint(
        field, start(5, 2), t0, 1 - t0, method=method, dt=0.3, breaks=(0.5,),
        args=(torch.arange(5),), dense=dense,
    )  # fmt: skip
    log = solution.log
    assert field.all_times.min() >= 0
    assert field.all_times.max() <= 1
    np.testing.assert_array_equal(log.evaluations, field.counts)
    assert log.calls == field.calls
    assert 0.5 in log.t
    assert log.accepted.all()
    assert np.isnan(log.error).all()
    for sample in range(5):
        own = log.of(sample)
        assert own["stages"].sum() == log.evaluations[sample]
        assert own["dt"].sum() == pytest.approx(1 - 2 * t0, abs=1e-14)
    assert solution.controller is None


@pytest.mark.parametrize("method", [*ADAPTIVE, "fixed"])
@pytest.mark.parametrize("at", [1 / 3, 0.5, 0.1])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("closed", ["left", "right"])
def test_a_jump_at_a_break_point_costs_no_accuracy(
    method: str, at: float, t0: float, t1: float, closed: str
) -> None:
    """Piecewise constant slopes: exact on both sides if no stage falls on the wrong one."""
    problem = jump(at)
    seen: list[np.ndarray] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(t.numpy().copy())
        first = t < at if closed == "left" else t <= at
        return column(torch.where(first, 1.0, -2.0), y).expand_as(y).clone()

    y0 = start(3, 2)
    options = {"method": "rk4", "dt": 0.07} if method == "fixed" else {"method": method}
    solution = odeint(field, y0, t0, t1, breaks=(at,), **options)  # type: ignore[arg-type]
    torch.testing.assert_close(solution.y, problem.exact(t0, y0, t1), rtol=0, atol=1e-14)
    assert solution.log.rejections.sum() == 0
    assert at not in np.concatenate(seen)
    ends = np.stack([solution.log.t, solution.log.t + solution.log.dt])
    assert not ((ends.min(0) < at - 1e-15) & (ends.max(0) > at + 1e-15)).any()


def test_break_points_save_rejections_and_the_step_is_resumed() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(column(t, y) < 0.4, -y, -3 * y)

    y0 = start(4, 2)
    blind = odeint(field, y0, 0, 1, rtol=1e-8, atol=1e-8)
    told = odeint(field, y0, 0, 1, rtol=1e-8, atol=1e-8, breaks=(0.4,))
    assert (told.log.rejections < blind.log.rejections).all()
    assert (told.log.evaluations < blind.log.evaluations).all()
    own = told.log.of(0)
    edge = int(np.flatnonzero(own["t"] == 0.4)[0])
    # The step before the break was cut; the one behind it is as long as was planned before.
    assert own["dt"][edge] > own["dt"][edge - 1]


@pytest.mark.parametrize("method", ["heun", "dopri5", "dopri8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 33])
def test_a_sample_does_not_know_its_batch(method: str, dtype: torch.dtype, size: int) -> None:
    """Bit for bit: alone, in batches of other sizes, and in another order."""
    batch = 64
    y0 = start(batch, size, dtype=dtype)
    y0[::5] *= 4

    def run(samples: Tensor) -> Solution:
        return odeint(
            RICCATI.field, y0[samples], 0.0, 1.3, method=method, rtol=1e-4, atol=1e-5,
            breaks=(0.4,), trajectory=(0.2, 0.9), weight=lambda t: 1 + t,
        )  # fmt: skip

    whole = run(torch.arange(batch))
    assert len(np.unique(whole.log.evaluations)) > 1
    for samples in (torch.tensor([5]), torch.tensor([63]), torch.randperm(batch)[:7],
                    torch.randperm(batch)):  # fmt: skip
        part = run(samples)
        assert torch.equal(part.y, whole.y[samples])
        assert part.trajectory is not None
        assert whole.trajectory is not None
        assert torch.equal(part.trajectory, whole.trajectory[:, samples])
        for position, sample in enumerate(samples.tolist()):
            mine, same = part.log.of(position), whole.log.of(sample)
            for name in ("t", "dt", "error", "accepted", "stages"):
                np.testing.assert_array_equal(mine[name], same[name])


@pytest.mark.parametrize("method", ["dopri5", "heun", "fixed"])
@pytest.mark.parametrize("when", [0.0, 0.35])
def test_samples_that_are_not_finite_leave_the_others_alone(method: str, when: float) -> None:
    y0 = start(64, 2)
    sick = torch.tensor([3, 17, 63])
    sample = torch.arange(64)

    def field(t: Tensor, y: Tensor, who: Tensor) -> Tensor:
        bad = torch.isin(who, sick) & (t >= when)
        return torch.where(column(bad, y) > 0, torch.nan, RICCATI.field(t, y))

    options = {"method": "rk4", "dt": 0.1} if method == "fixed" else {"method": method}
    with pytest.raises(SolverError, match="3 of 64 samples failed: sample 3: non_finite at t="):
        odeint(field, y0, 0, 1, args=(sample,), **options)  # type: ignore[arg-type]
    solution = odeint(
        field, y0, 0, 1, args=(sample,), on_failure="return", **options  # type: ignore[arg-type]
    )  # fmt: skip
    bad = np.isin(np.arange(64), sick.numpy())
    np.testing.assert_array_equal(solution.status == Status.non_finite, bad)
    np.testing.assert_array_equal(solution.status == Status.ok, ~bad)
    assert (solution.t[bad] <= when).all()
    assert np.isfinite(solution.dt[bad]).all()
    assert (solution.dt[bad] > 0).all()
    assert torch.isfinite(solution.y).all()
    clean = odeint(RICCATI.field, y0, 0, 1, **options)  # type: ignore[arg-type]
    assert torch.equal(solution.y[~bad], clean.y[~bad])
    if method != "fixed":
        # What a sick sample reached before is right.
        reached = solution.t[bad]
        for i, t in zip(sick.tolist(), reached, strict=True):
            exact = RICCATI.exact(0, y0[i : i + 1], float(t))
            torch.testing.assert_close(solution.y[i : i + 1], exact, rtol=0, atol=1e-4)


def test_a_solution_that_blows_up_ends_as_step_underflow_or_non_finite() -> None:
    """y' = y^2 from 1 is 1 / (1 - t): no step reaches t = 1."""
    y0 = torch.tensor([[1.0], [0.25]], dtype=torch.float64)
    solution = odeint(lambda t, y: y * y, y0, 0, 2, on_failure="return")
    assert solution.status[0] in (Status.step_underflow, Status.non_finite)
    # The last state is 1 / (1 - t): the distance from the pole is the tolerance, amplified.
    assert solution.t[0] == pytest.approx(1, abs=1e-3)
    assert solution.status[1] == Status.ok
    torch.testing.assert_close(solution.y[1, 0].item(), 0.5, rtol=1e-3, atol=0)


def test_steps_below_dt_min_end_the_sample_and_are_never_accepted() -> None:
    y0 = start(3, 2)
    solution = odeint(stiff(1e4).field, y0, 0, 1, dt_min=1e-3, first_step=0.1, on_failure="return")
    assert (solution.status == Status.step_underflow).all()
    assert (np.abs(solution.log.dt) >= 1e-3).all()
    assert (solution.dt < 1e-3).all()
    with pytest.raises(SolverError, match="step_underflow at t=0, dt="):
        odeint(stiff(1e4).field, y0, 0, 1, dt_min=1e-3, first_step=0.1)
    # A step that is short because a break point is near is no underflow.
    assert odeint(ZERO.field, y0, 0, 1, dt_min=0.05, first_step=0.1, breaks=(0.101,)).ok.all()


@pytest.mark.parametrize("method", ["dopri5", "heun", "rk4"])
def test_the_budget_is_per_sample_and_never_exceeded(method: str) -> None:
    y0 = torch.tensor([[1.0, 1.0], [1e-3, 0.0]], dtype=torch.float64)
    field = Recorder(ROTATION.field, 2)
    options = {"dt": 0.01} if method == "rk4" else {}
    solution = odeint(
        field, y0, 0, 10, method=method, rtol=1e-6, atol=1e-6, max_evaluations=300,
        args=(torch.arange(2),), on_failure="return", **options,  # type: ignore[arg-type]
    )  # fmt: skip
    assert solution.status[0] == Status.max_evaluations
    assert field.counts.max() <= 300
    assert field.counts[0] > 280
    np.testing.assert_array_equal(field.counts, solution.log.evaluations)
    assert 0 < solution.t[0] < 10
    error = (solution.y[:1] - ROTATION.exact(0, y0[:1], float(solution.t[0]))).abs().max()
    assert error < 1e-2


def test_finished_samples_cost_nothing() -> None:
    y0 = torch.ones(16, 2, dtype=torch.float64)
    rate = torch.linspace(1, 60, 16, dtype=torch.float64)
    sizes: list[int] = []

    def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        sizes.append(len(y))
        return -column(rate, y) * y

    solution = odeint(field, y0, 0, 1, rtol=1e-6, atol=1e-6, args=(rate,))
    assert sum(sizes) == solution.log.evaluations.sum()
    assert sizes[-1] < 16
    torch.testing.assert_close(
        solution.y[:, 0], torch.exp(-rate), rtol=0, atol=1e-5
    )  # a few units of the tolerance


def test_weight_puts_the_error_in_the_users_units() -> None:
    """With u = y / 1000 and weight 1000, the steps for u are those for y."""
    y0 = start(6, 2)
    plain = odeint(RICCATI.field, y0, 0, 1, rtol=1e-5, atol=1e-6)
    scaled = odeint(
        lambda t, u: RICCATI.field(t, 1024 * u) / 1024, y0 / 1024, 0, 1, rtol=1e-5, atol=1e-6,
        weight=lambda t: np.full(len(t), 1024.0),
    )  # fmt: skip
    # A power of two scales without rounding.
    assert torch.equal(scaled.y * 1024, plain.y)
    np.testing.assert_array_equal(scaled.log.dt, plain.log.dt)


@pytest.mark.parametrize("method", ["dopri5", "torchdiffeq/dopri5"])
def test_a_measure_stands_for_the_time(method: str) -> None:
    """dy = N dmu with mu = t^2 is dy/dt = 2 t N."""
    y0 = start(3, 2)
    measure = Measure(mu=lambda t: t * t, density=lambda t: 2 * t)
    plain = odeint(RICCATI.field, y0, 0.1, 1, method=method)
    same = odeint(lambda t, y: -y * y, y0, 0.1, 1, method=method, measure=measure)
    torch.testing.assert_close(same.y, plain.y, rtol=0, atol=1e-12)


def test_nothing_to_interpolate_where_nothing_succeeded() -> None:
    solution = odeint(
        lambda t, y: y * torch.nan, start(), 0, 1, dense=True, trajectory=(0.0, 0.5),
        on_failure="return",
    )  # fmt: skip
    assert (solution.status == Status.non_finite).all()
    assert solution.interpolant is None
    assert solution.trajectory is not None
    assert torch.equal(solution.trajectory[0], start())
    assert solution.trajectory[1].isnan().all()


def test_states_of_any_shape_and_half_precision() -> None:
    for shape in ((4,), (4, 0), (0, 2), (2, 3, 5)):
        y0 = torch.rand(shape)
        torch.testing.assert_close(
            odeint(DECAY.field, y0, 0, 1).y, DECAY.exact(0, y0, 1), rtol=1e-4, atol=1e-4
        )
    y0 = torch.rand(3, 2).bfloat16()
    solution = odeint(DECAY.field, y0, 0, 1, rtol=0.05, atol=0.05)
    assert solution.y.dtype is torch.bfloat16
    torch.testing.assert_close(solution.y, DECAY.exact(0, y0, 1), rtol=0.1, atol=0.1)


def test_nothing_is_recorded_for_gradients() -> None:
    y0 = torch.ones(2, 2, requires_grad=True)
    assert not odeint(DECAY.field, y0, 0, 1).y.requires_grad


def test_interpolant_covers_the_solution_and_nothing_else() -> None:
    solution = odeint(DECAY.field, start(), 1.0, 0.0, dense=True, rtol=1e-8, atol=1e-8)
    assert solution.interpolant is not None
    at = np.linspace(0, 1, 8)
    exact = torch.stack([DECAY.exact(1.0, start()[i], float(t)) for i, t in enumerate(at)])
    torch.testing.assert_close(solution.interpolant(at), exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(solution.interpolant(0.0), solution.y, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match=r"t=1\.5 lies outside"):
        solution.interpolant(1.5)


GOOD = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dopri4"}, "method='dopri4' .*did you mean.*'dopri5'"),
        ({"method": "nonsense"}, "choose from .*euler"),
        ({"method": "rk4"}, "estimates no error.*give dt or grid"),
        ({"rtol": -1e-3}, r"rtol=-0\.001 must be"),
        ({"atol": float("nan")}, "atol=nan must be"),
        ({"rtol": 0, "atol": 0}, "no room for any error"),
        ({"dt": -0.1}, r"dt=-0\.1 must be positive"),
        ({"dt": 0.1, "grid": [0, 1]}, "give one of them"),
        ({"grid": [0, 0.6, 0.5, 1]}, "strictly monotone"),
        ({"grid": [0, 0.5]}, "from t0=0.0 to t1=1.0 exactly"),
        ({"first_step": 0.0}, "first_step=0.0 must be positive"),
        ({"dt_min": -1.0}, "dt_min=-1.0"),
        ({"max_evaluations": 0}, "max_evaluations=0"),
        ({"on_failure": "ignore"}, "on_failure='ignore'"),
        ({"trajectory": [0.5, 2.0]}, "trajectory must be"),
        ({"trajectory": [0.5, 0.2]}, "in the order of travel"),
        ({"args": (torch.zeros(3),)}, r"args\[0\] must be a tensor with 2 rows"),
        ({"y0": torch.tensor([[1.0], [torch.nan]])}, r"not finite in samples \[1\]"),
        ({"y0": torch.ones(2, 2, dtype=torch.long)}, "floating-point tensor"),
        ({"t1": 0.0}, "must be finite and differ"),
        ({"t1": float("inf")}, "must be finite and differ"),
        ({"field": lambda t, y: y[:, 0]}, r"field returned \(2,\).*shape and dtype"),
        ({"field": lambda t, y: y.double()}, r"float64 for a state \(2, 2\) torch.float32"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    arguments = {"field": DECAY.field, "y0": GOOD, "t0": 0.0, "t1": 1.0, **options}
    with pytest.raises(ValueError, match=message):
        odeint(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["safety", "min_factor", "max_factor"])
def test_bad_controllers_are_named(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        PI(**{option: 0.0 if option != "max_factor" else 1.0})
    with pytest.raises(ValueError, match="gains"):
        I(i=0.0)
