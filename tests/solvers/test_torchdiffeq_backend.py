"""torchdiffeq's methods behind `odeint`: the same results, our promises where it can keep them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchdiffeq
from torch import Tensor

from solvers import PI, I, SolverError, Status, methods, odeint
from tests.problems import DECAY, RICCATI, ROTATION, column, jump

BACKEND = [info for info in methods() if info.source == "torchdiffeq"]
ADAPTIVE = [info.name for info in BACKEND if info.adaptive]
FIXED = [info.name for info in BACKEND if not info.adaptive]
GOOD = torch.full((3, 2), 0.5, dtype=torch.float64)


def test_the_registry_says_what_the_backend_can_do() -> None:
    assert {"torchdiffeq/dopri5", "torchdiffeq/bosh3", "torchdiffeq/adaptive_heun",
            "torchdiffeq/rk4", "torchdiffeq/euler"} <= {info.name for info in BACKEND}  # fmt: skip
    for info in BACKEND:
        assert not info.per_sample
        assert not info.dense
        assert info.logs == ("steps" if info.adaptive else "grid")


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_fixed_methods_are_torchdiffeqs(name: str, t0: float, t1: float) -> None:
    times = torch.linspace(t0, t1, 11, dtype=torch.float64)
    bare = name.removeprefix("torchdiffeq/")
    options = {"max_order": 4} if bare == "explicit_adams" else {}
    theirs = torchdiffeq.odeint(
        lambda t, y: ROTATION.field(t.expand(3), y), GOOD, times, method=bare, options=options
    )
    ours = odeint(ROTATION.field, GOOD, t0, t1, method=name, grid=times.numpy(),
                  trajectory=times.numpy()[1:-1])  # fmt: skip
    assert torch.equal(ours.y, theirs[-1])
    assert ours.trajectory is not None
    torch.testing.assert_close(ours.trajectory, theirs[1:-1], rtol=1e-14, atol=1e-14)
    assert ours.log.steps.tolist() == [10] * 3
    np.testing.assert_array_equal(ours.log.of(0)["t"], times[:-1].numpy())


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adaptive_methods_end_exactly_and_are_logged(
    name: str, t0: float, t1: float, dtype: torch.dtype
) -> None:
    seen: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        assert t.dtype is torch.float64
        assert t.shape == (3,)
        seen.extend(t.tolist())
        return RICCATI.field(t, y)

    y0 = GOOD.to(dtype)
    solution = odeint(field, y0, t0, t1, method=name, rtol=1e-4, atol=1e-4)
    assert min(seen) >= 0
    assert max(seen) <= 1
    # fehlberg2 itself is that far off; the others stay below a tenth of it.
    torch.testing.assert_close(solution.y, RICCATI.exact(t0, y0, t1), rtol=0, atol=1e-2)
    log = solution.log
    assert (log.evaluations == len(seen) // 3).all()
    assert log.calls == len(seen) // 3
    for sample in range(3):
        own = log.of(sample)
        assert own["dt"][own["accepted"]].sum() == pytest.approx(t1 - t0, abs=1e-12)
        assert own["stages"].sum() == log.evaluations[sample]
    assert solution.controller == I(shrink_accepted=False, grow_retried=True)
    assert solution.y.dtype is dtype


@pytest.mark.parametrize("name", ["torchdiffeq/dopri5", "torchdiffeq/rk4"])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_break_points_are_told(name: str, t0: float, t1: float) -> None:
    problem = jump(0.4)
    options = {"dt": 0.13} if name.endswith("rk4") else {}
    blind = odeint(problem.field, GOOD, t0, t1, method=name, **options)  # type: ignore[arg-type]
    told = odeint(
        problem.field, GOOD, t0, t1, method=name, breaks=(0.4, 7.0), **options  # type: ignore[arg-type]
    )  # fmt: skip
    torch.testing.assert_close(told.y, problem.exact(t0, GOOD, t1), rtol=0, atol=1e-12)
    assert (blind.y - told.y).abs().max() > 1e-9
    assert 0.4 in told.log.t


def test_failures_become_statuses() -> None:
    stopped = odeint(
        ROTATION.field, GOOD, 0, 20, method="torchdiffeq/dopri5", max_evaluations=100,
        on_failure="return",
    )  # fmt: skip
    assert (stopped.status == Status.max_evaluations).all()
    assert (stopped.log.evaluations == 100).all()
    assert 0 < stopped.t[0] < 20
    torch.testing.assert_close(
        stopped.y, ROTATION.exact(0, GOOD, float(stopped.t[0])), rtol=0, atol=1e-2
    )

    def sick(t: Tensor, y: Tensor) -> Tensor:
        bad = (torch.arange(3) == 1) & (t > 0.5)
        return torch.where(column(bad, y) > 0, torch.nan, DECAY.field(t, y))

    with pytest.raises(SolverError, match="sample 1: non_finite at t="):
        odeint(sick, GOOD, 0, 1, method="torchdiffeq/dopri5")
    solution = odeint(sick, GOOD, 0, 1, method="torchdiffeq/euler", dt=0.1, on_failure="return")
    assert solution.status.tolist() == [Status.ok, Status.non_finite, Status.ok]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "torchdiffeq/dopri6"}, "did you mean 'torchdiffeq/dopri"),
        ({"dt": 0.1}, "chooses its steps itself"),
        ({"controller": PI()}, "has a controller of its own"),
        ({"weight": lambda t: t}, "cannot honour weight"),
        ({"dense": True}, "cannot honour dense"),
        ({"dt_min": 1e-9}, "cannot honour dt_min"),
        ({"first_step": [0.1, 0.2, 0.3]}, "one first_step for the whole batch"),
        ({"method": "torchdiffeq/euler"}, "estimates no error"),
        ({"method": "torchdiffeq/explicit_adams", "dt": 0.1, "breaks": (0.5,)}, "forget"),
        ({"method": "torchdiffeq/explicit_adams", "grid": [0, 0.1, 1]}, "needs equal steps"),
    ],
)
def test_what_it_cannot_do_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        odeint(DECAY.field, GOOD, 0, 1, **{"method": "torchdiffeq/dopri5", **options})  # type: ignore[arg-type]
