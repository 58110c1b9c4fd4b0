"""sdeint: strong orders on shared paths, unbiased rejection, and the promises of odeint."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from solvers import BrownianPath, I, SolverError, Status, methods, odeint, sample_seeds, sdeint
from tests.problems import column
from tests.solvers.paths import GridPath, Redrawn

ADAPTIVE = ["stochastic-heun", "sra1", "sra3"]
ALL = ["euler-maruyama", *ADAPTIVE]
CELLS = 2048


def one(t: Tensor) -> Tensor:
    return torch.ones_like(t)


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -1.5 * y


def slope(sizes: list[float], errors: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def strong_errors(method, drift, diffusion, y0, exact, path, t0=0.0, t1=1.0, **options):
    """Step sizes and root-mean-square end errors on one path, with 8 to 128 steps."""
    sizes, errors = [], []
    start = -t0 if t1 < t0 else t0
    for steps in (8, 16, 32, 64, 128):
        end = sdeint(
            drift, diffusion, y0, t0, t1, method=method, dt=1 / steps, path=path.rewound(start),
            **options,
        ).y  # fmt: skip
        sizes.append(1 / steps)
        errors.append((end - exact).pow(2).mean().sqrt().item())
    return sizes, errors


# 500 samples: the relative spread of a root-mean-square error is about 1/sqrt(2 * 500) = 3 %, and
# errors on one path at several steps go up and down together, so the slope over a factor of 16 in
# step size is known to much better than 0.25.
BATCH = 500


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("method", "order"),
    # Noise that does not depend on time and a linear drift: the terms that limit Rößler's methods
    # to 3/2 (second derivatives of the drift) vanish, and what is left is of order 2.
    [("euler-maruyama", 1.0), ("stochastic-heun", 1.0), ("sra1", 2.0), ("sra3", 2.0)],
)
def test_strong_order_on_an_ornstein_uhlenbeck_process(
    method: str, order: float, backwards: bool
) -> None:
    path = GridPath(BATCH, (1,), 1.0, CELLS, seed=0)
    rate, h = 1.5, path.cell
    y0 = torch.ones(BATCH, 1, dtype=torch.float64)
    # y(1) = e^-a y0 + int e^-a(1-s) dW; the integrand is linear in a cell up to (a h)^2 = 5e-7.
    weight = torch.exp(-rate * (1 - h * torch.arange(CELLS, dtype=torch.float64)))
    kicks = path.dw + rate * (h * path.dw - path.dz)
    exact = math.exp(-rate) * y0 + (weight.view(-1, 1, 1) * kicks).sum(0)
    t0, t1 = (1.0, 0.0) if backwards else (0.0, 1.0)
    sign = t1 - t0
    sizes, errors = strong_errors(
        method, lambda t, y: -sign * rate * y, one, y0, exact, path, t0, t1
    )
    assert slope(sizes, errors) == pytest.approx(order, abs=0.25)


def bent(t: Tensor, y: Tensor) -> Tensor:
    return torch.sin(3 * y) + column(t, y)


def waning(t: Tensor) -> Tensor:
    return 1 + torch.cos(2 * t)


@functools.cache
def bent_reference() -> tuple[GridPath, Tensor, Tensor]:
    """A path, initial states, and end states in steps 16 times finer than those of the tests.

    At order 1.5 their error is 64 times smaller than that of the finest test.
    """
    cells = 2048
    path = GridPath(BATCH, (2,), 1.0, cells, seed=1)
    y0 = torch.linspace(-1, 1, 2 * BATCH, dtype=torch.float64).view(BATCH, 2)
    end = sdeint(bent, waning, y0, 0, 1, method="sra3", dt=1 / cells, path=path.rewound())
    return path, y0, end.y


@pytest.mark.parametrize(
    ("method", "order"),
    [("euler-maruyama", 1.0), ("stochastic-heun", 1.0), ("sra1", 1.5), ("sra3", 1.5)],
)
def test_strong_order_with_nonlinear_drift_and_noise_that_depends_on_time(
    method: str, order: float
) -> None:
    path, y0, exact = bent_reference()
    sizes, errors = strong_errors(method, bent, waning, y0, exact, path)
    assert slope(sizes, errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    ("method", "order", "ito"), [("euler-maruyama", 0.5, True), ("stochastic-heun", 1.0, False)]
)
def test_strong_order_with_diagonal_noise(method: str, order: float, ito: bool) -> None:
    path = GridPath(2000, (1,), 1.0, CELLS, seed=2)
    y0 = torch.ones(2000, 1, dtype=torch.float64)
    # dy = -y dt + 0.8 y dW: exp((-1 - 0.32) t + 0.8 W) for Itô, exp(-t + 0.8 W) for Stratonovich.
    rate = -1 - 0.32 if ito else -1.0
    exact = torch.exp(rate + 0.8 * path.w[-1])
    sizes, errors = strong_errors(
        method, lambda t, y: -y, lambda t, y: 0.8 * y, y0, exact, path, noise="diagonal"
    )
    assert slope(sizes, errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_without_noise_the_methods_are_runge_kutta(method: str) -> None:
    y0 = torch.tensor([[1.0], [0.3]], dtype=torch.float64)
    sizes, errors = [], []
    for steps in (8, 16, 32, 64):
        end = sdeint(lambda t, y: -(y**2), lambda t: 0 * t, y0, 0, 1, method=method, dt=1 / steps)
        sizes.append(1 / steps)
        errors.append((end.y - y0 / (1 + y0)).abs().max().item())
    order = {"stochastic-heun": 2, "sra1": 2, "sra3": 3}[method]
    assert slope(sizes, errors) == pytest.approx(order, abs=0.25)
    assert (end.log.order == order).all()


def test_heun_without_noise_is_odeints_heun() -> None:
    y0 = torch.linspace(0.2, 1, 6, dtype=torch.float64).view(3, 2)
    noisy = sdeint(decay, lambda t: 0.0, y0, 0, 1, method="stochastic-heun", dt=0.1)
    plain = odeint(decay, y0, 0, 1, method="heun", dt=0.1)
    torch.testing.assert_close(noisy.y, plain.y, rtol=1e-14, atol=0)


# An Ornstein-Uhlenbeck process dy = A y dt + dW with unequal, coupled rates.
MATRIX = torch.tensor([[-1.0, 1.5], [-0.5, -3.0]], dtype=torch.float64)
END = 1.5


def moments() -> tuple[np.ndarray, np.ndarray]:
    """Mean at END from (1, -1), and covariance: int e^(A s) e^(A s)^T ds (Van Loan 1978)."""
    a = MATRIX.numpy()
    both = expm(END * np.block([[-a, np.eye(2)], [np.zeros((2, 2)), a.T]]))
    propagator = both[2:, 2:].T
    return propagator @ np.array([1.0, -1.0]), propagator @ both[:2, 2:]


def linear(t: Tensor, y: Tensor) -> Tensor:
    # Not a matrix product, which may round differently in a batch of another size.
    return y[:, :1] * MATRIX[:, 0] + y[:, 1:] * MATRIX[:, 1]


def ou_deviation(method: str, redraw: bool) -> tuple[float, float]:
    """Largest standardised deviation of mean and covariance, and the fraction of rejections."""
    batch = 20_000
    y0 = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(batch, 1)
    noise = {"path": Redrawn(batch, (2,), seed=1)} if redraw else {"seeds": sample_seeds(1, batch)}
    # Safety near 1: steps as long as can be, so that many are rejected.
    solution = sdeint(
        linear, one, y0, 0, END, method=method, rtol=0, atol=0.05, controller=I(safety=0.95),
        **noise,
    )  # fmt: skip
    y = solution.y.numpy()
    mean, covariance = moments()
    variance = np.diag(covariance)
    # Gaussian: var of a mean is C_ii/n, of a covariance entry (C_ii C_jj + C_ij^2)/n.
    z_mean = (y.mean(0) - mean) / np.sqrt(variance / batch)
    spread = np.sqrt((np.outer(variance, variance) + covariance**2) / batch)
    z_covariance = (np.cov(y.T) - covariance) / spread
    worst = max(np.abs(z_mean).max(), np.abs(z_covariance).max())
    return worst, solution.log.rejections.sum() / solution.log.attempts.sum()


@pytest.mark.parametrize("method", ADAPTIVE)
def test_rejections_do_not_bias_mean_and_covariance(method: str) -> None:
    worst, rejected = ou_deviation(method, redraw=False)
    assert rejected > 0.3
    assert worst < 5  # a normal deviate is, with probability 1 - 6e-7


@pytest.mark.parametrize("method", ADAPTIVE)
def test_redrawing_noise_does_bias_them(method: str) -> None:
    worst, rejected = ou_deviation(method, redraw=True)
    assert rejected > 0.3
    assert worst > 10


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_error_follows_the_tolerance(method: str) -> None:
    """Strong error under control, on one path: proportional for order 3/2, tol^(2/3) for 1."""
    path, y0, exact = bent_reference()
    tolerances, errors = [0.2, 0.1, 0.05, 0.025], []
    for tolerance in tolerances:
        # Steps of any size: their ends are moved to the path's nearest point.
        end = sdeint(
            bent, waning, y0, 0, 1, method=method, rtol=0, atol=tolerance,
            path=path.rewound(snap=True),
        )  # fmt: skip
        errors.append((end.y - exact).pow(2).mean().sqrt().item())
    expected = 2 / 3 if method == "stochastic-heun" else 1
    assert slope(tolerances, errors) == pytest.approx(expected, abs=0.3)
    # Errors per step add up and grow: the drift's slope is up to 3.
    assert max(e / tol for e, tol in zip(errors, tolerances, strict=True)) < 5


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("method", ALL)
def test_a_sample_does_not_depend_on_its_batch(method: str, fixed: bool) -> None:
    if method == "euler-maruyama" and not fixed:
        pytest.skip("not adaptive")
    batch = 17
    seeds = sample_seeds(4, batch)
    y0 = torch.linspace(-2, 2, batch * 3).view(batch, 3)
    scale = torch.linspace(0.1, 30, batch)[:, None]  # samples of very different stiffness

    def drift(t: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return -scale * y + column(t, y)

    def run(rows: list[int]):
        return sdeint(
            drift, lambda t: 1 + t, y0[rows], 1, 0, seeds=seeds[rows], args=(scale[rows],),
            method=method, dt=0.03 if fixed else None, breaks=(0.4,),
        )  # fmt: skip

    together = run(list(range(batch)))
    for rows in ([5], [16, 2, 9], list(range(batch))[::-1]):
        some = run(rows)
        assert torch.equal(some.y, together.y[rows])
        for place, row in enumerate(rows):
            mine, full = some.log.of(place), together.log.of(row)
            for name in mine:
                if name != "sample":
                    np.testing.assert_array_equal(mine[name], full[name])


def test_steps_differ_between_samples() -> None:
    rates = torch.tensor([[0.5], [50.0]], dtype=torch.float64)
    solution = sdeint(
        lambda t, y, rate: -rate * y, one, torch.ones(2, 1, dtype=torch.float64), 0, 1,
        seeds=[1, 2], args=(rates,),
    )  # fmt: skip
    assert solution.log.steps[1] > 3 * solution.log.steps[0]


def test_time_runs_either_way() -> None:
    seeds = sample_seeds(0, 5)
    y0 = torch.ones(5, 2, dtype=torch.float64)
    there = sdeint(decay, lambda t: 1 + t, y0, 0, 1, seeds=seeds)
    back = sdeint(lambda t, y: -decay(t, y), lambda t: 1 - t, y0, 0, -1, seeds=seeds)
    assert torch.equal(there.y, back.y)
    np.testing.assert_array_equal(there.log.dt, -back.log.dt)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.001)])
def test_log_identities(method: str, t0: float, t1: float) -> None:
    counted = np.zeros(8, np.int64)
    calls = 0
    who = torch.arange(8)

    def drift(t: Tensor, y: Tensor, who: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        np.add.at(counted, who.numpy(), 1)
        assert ((t >= min(t0, t1)) & (t <= max(t0, t1))).all()
        return math.copysign(10, t0 - t1) * who[:, None] * y  # stable either way

    y0 = torch.ones(8, 2, dtype=torch.float64)
    solution = sdeint(drift, one, y0, t0, t1, seeds=sample_seeds(0, 8), method=method, args=(who,))
    log = solution.log
    assert (solution.t == t1).all()
    assert (log.steps + log.rejections == log.attempts).all()
    assert log.rejections.sum() > 0
    np.testing.assert_array_equal(log.evaluations, counted)
    assert log.calls == calls
    np.testing.assert_array_equal(np.bincount(log.sample, log.stages), counted)
    total = np.bincount(log.sample, log.dt * log.accepted)
    np.testing.assert_allclose(total, t1 - t0, rtol=1e-14)
    assert ((log.error <= 1) == log.accepted).all()


@pytest.mark.parametrize("breaks", [True, False])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_no_step_crosses_a_break(breaks: bool, t0: float, t1: float) -> None:
    edges = (0.2, 0.21, 0.7)
    seen: list[Tensor] = []

    def drift(t: Tensor, y: Tensor) -> Tensor:
        seen.append(t)
        level = torch.bucketize(t, torch.tensor(edges, dtype=torch.float64), right=True)
        return column(10.0 * level, y) - y

    y0 = torch.zeros(16, 2, dtype=torch.float64)
    solution = sdeint(
        drift, one, y0, t0, t1, seeds=sample_seeds(0, 16), breaks=edges if breaks else ()
    )
    log = solution.log
    low, high = np.minimum(log.t, log.t + log.dt), np.maximum(log.t, log.t + log.dt)
    crossed = sum(((low < edge - 1e-12) & (high > edge + 1e-12)).sum() for edge in edges)
    assert (crossed == 0) == breaks
    times = torch.cat(seen)
    assert times.min() >= 0
    assert times.max() <= 1
    if breaks:
        assert not any((times == edge).any() for edge in edges)
    assert solution.breaks == (edges if breaks else ())


def test_grids_are_followed_and_broken() -> None:
    grid = 1 - np.linspace(0, 1, 6) ** 2
    y0 = torch.ones(3, 2, dtype=torch.float64)
    solution = sdeint(decay, one, y0, 1, 0, seeds=[1, 2, 3], grid=grid, breaks=(0.5,))
    times = np.unique(np.append(solution.log.t, 0.0))
    np.testing.assert_array_equal(times, np.unique([*grid, 0.5]))


@pytest.mark.parametrize("dt", [None, 0.1])
def test_trajectory_points_are_hit(dt: float | None) -> None:
    y0 = torch.ones(5000, 1, dtype=torch.float64)
    times = [0.0, 0.25, 0.6, 1.0]
    solution = sdeint(
        decay, one, y0, 0, 1, seeds=sample_seeds(9, 5000), trajectory=times, dt=dt, rtol=1e-2,
        atol=1e-2, method="sra3",
    )  # fmt: skip
    states = solution.trajectory
    assert states is not None
    assert torch.equal(states[0], y0)
    assert torch.equal(states[-1], solution.y)
    # Brownian roughness and all: the variance is the process's, which interpolation would reduce.
    for state, t in zip(states, times, strict=True):
        variance = (1 - math.exp(-3 * t)) / 3
        assert abs(state.var().item() - variance) <= 5 * variance * math.sqrt(2 / 5000)


def test_broken_samples_do_not_touch_the_others() -> None:
    batch, bad = 64, [3, 17, 60]
    seeds = sample_seeds(0, batch)
    y0 = torch.ones(batch, 2)
    number = torch.arange(batch)

    def drift(t: Tensor, y: Tensor, number: Tensor) -> Tensor:
        broken = torch.isin(number, torch.tensor(bad)) & (t > 0.5)
        return torch.where(broken[:, None], torch.nan, -y)

    def run(rows: list[int], **options):
        return sdeint(
            drift, one, y0[rows], 0, 1, seeds=seeds[rows], args=(number[rows],),
            on_failure="return", **options,
        )  # fmt: skip

    good = [i for i in range(batch) if i not in bad]
    for options in ({}, {"dt": 0.125}):
        all_of_them = run(list(range(batch)), **options)
        assert np.flatnonzero(~all_of_them.ok).tolist() == bad
        assert (all_of_them.status[bad] == Status.non_finite).all()
        assert (all_of_them.t[bad] < 0.6).all()  # the last step looks ahead to some of it only
        assert torch.isfinite(all_of_them.y).all()
        assert torch.equal(all_of_them.y[good], run(good, **options).y)
    with pytest.raises(SolverError, match=r"sample 3: non_finite at t="):
        sdeint(drift, one, y0, 0, 1, seeds=seeds, args=(number,))


def test_budget_and_underflow_have_statuses() -> None:
    y0 = torch.ones(4, 1, dtype=torch.float64)
    stiff = {"seeds": [1, 2, 3, 4], "on_failure": "return"}
    short = sdeint(lambda t, y: -1e3 * y, one, y0, 0, 1, max_evaluations=50, **stiff)
    assert (short.status == Status.max_evaluations).all()
    assert (short.log.evaluations <= 50).all()
    coarse = sdeint(lambda t, y: -1e6 * y, one, y0, 0, 1, dt_min=1e-3, **stiff)
    assert (coarse.status == Status.step_underflow).all()


def test_zero_and_constant_fields_are_exact() -> None:
    y0 = torch.ones(3, 2, dtype=torch.float64)
    for method in ADAPTIVE:
        still = sdeint(lambda t, y: 0 * y, lambda t: 0 * t, y0, 0, 1, method=method)
        assert torch.equal(still.y, y0)
        path = GridPath(3, (2,), 1.0, 4, seed=0)
        moved = sdeint(lambda t, y: 0 * y + 2, one, y0, 0, 1, method=method, dt=0.25, path=path)
        torch.testing.assert_close(moved.y, y0 + 2 + path.w[-1], rtol=0, atol=1e-14)


def test_weight_measures_errors_in_other_units() -> None:
    y0 = torch.ones(4, 1, dtype=torch.float64)
    options = {"seeds": [1, 2, 3, 4], "rtol": 0}
    small = sdeint(decay, one, y0, 0, 1, atol=2.0**-10, **options)
    # Powers of two, so that the two ratios are the same to the last bit.
    scaled = sdeint(decay, one, y0, 0, 1, atol=2.0**-3, weight=lambda t: 128.0 + 0 * t, **options)
    assert torch.equal(small.y, scaled.y)


def test_noise_depends_on_seeds_only(device: torch.device) -> None:
    y0 = torch.ones(4, 2, device=device)
    options = {"dt": 0.1, "method": "sra1"}
    a = sdeint(decay, one, y0, 0, 1, seeds=[1, 2, 3, 4], **options).y
    b = sdeint(decay, one, y0, 0, 1, seeds=torch.tensor([1, 2, 3, 5]), **options).y
    assert a.device.type == device.type
    assert torch.equal(a[:3], b[:3])
    assert not torch.equal(a[3], b[3])
    torch.manual_seed(3)
    c = sdeint(decay, one, y0, 0, 1, **options).y
    torch.manual_seed(3)
    assert torch.equal(c, sdeint(decay, one, y0, 0, 1, **options).y)
    assert not torch.equal(c, sdeint(decay, one, y0, 0, 1, **options).y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "euler-maruyama"}, "estimates no error"),
        ({"method": "euler-maryama", "dt": 0.1}, "euler-maruyama"),
        ({"method": "dopri5"}, "odeint"),
        ({"noise": "scalar"}, "additive"),
        ({"noise": "diagonal"}, "stochastic-heun"),
        ({"seeds": [1, 2]}, "one for each"),
        ({"seeds": [1, 2, 3], "path": Redrawn(3, (1,), 0)}, "seeds and path"),
        ({"dt": 0.1, "grid": [0, 1]}, "dt and grid"),
        ({"t1": 0.0}, "differ"),
        ({"rtol": -1.0}, "rtol"),
        ({"breaks": (), "trajectory": [2.0]}, "trajectory"),
        ({"diffusion": lambda t: torch.ones(2)}, "diagonal"),
        ({"drift": lambda t, y: y[:, :0]}, "field returned"),
    ],
)
def test_bad_arguments_are_refused(options: dict, message: str) -> None:
    given = {"drift": decay, "diffusion": one, "y0": torch.ones(3, 1), "t0": 0.0, "t1": 1.0}
    with pytest.raises(ValueError, match=message):
        sdeint(**{**given, **options})


def test_a_path_without_integrals_is_refused_where_they_are_needed() -> None:
    path = BrownianPath([1, 2], (1,), 0.0)
    with pytest.raises(ValueError, match="area=True"):
        sdeint(decay, one, torch.ones(2, 1), 0, 1, path=path)


def test_registry_tells_what_the_methods_can_do() -> None:
    known = {info.name: info for info in methods() if info.kind == "sde"}
    assert set(ALL) <= set(known)
    assert [known[name].adaptive for name in ALL] == [False, True, True, True]
    assert known["sra1"].order == 1.5
    assert not any(info.dense for info in known.values())
