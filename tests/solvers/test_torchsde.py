"""torchsde behind sdeint: same results as torchsde, same promises as far as they go."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import torchsde
from torch import Tensor

from solvers import PI, Status, methods, sample_seeds, sdeint
from tests.problems import column
from tests.solvers.paths import GridPath

NAMES = [info.name for info in methods() if info.source == "torchsde"]
SEEDS = sample_seeds(0, 8)
Y0 = torch.linspace(-1, 1, 24, dtype=torch.float64).view(8, 3)


def drift(t: Tensor, y: Tensor) -> Tensor:
    return torch.sin(3 * y) + column(t, y)


def diffusion(t: Tensor) -> Tensor:
    return 1 + torch.cos(2 * t)


def test_all_methods_are_there() -> None:
    short = {name.removeprefix("torchsde/") for name in NAMES}
    offered = set(torchsde.settings.METHODS.all()) - {"adjoint_reversible_heun"}
    assert short == offered


@pytest.mark.parametrize(
    ("name", "own"),
    [("euler", "euler-maruyama"), ("heun", "stochastic-heun"), ("srk", "sra1")],
)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_own_methods_agree_with_torchsdes(name: str, own: str, t0: float, t1: float) -> None:
    theirs, ours = (
        sdeint(drift, diffusion, Y0, t0, t1, seeds=SEEDS, method=method, dt=0.05)
        for method in (f"torchsde/{name}", own)
    )
    # Step ends are moved by a few float spacings, so that no sliver is left: about 1e-15 each.
    torch.testing.assert_close(theirs.y, ours.y, rtol=0, atol=1e-11)
    np.testing.assert_allclose(theirs.log.t, ours.log.t, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "own"), [("euler", "euler-maruyama"), ("heun", "stochastic-heun")]
)
def test_own_methods_agree_with_torchsdes_for_diagonal_noise(name: str, own: str) -> None:
    theirs, ours = (
        sdeint(
            drift, lambda t, y: 0.5 * torch.cos(y), Y0, 0, 1, seeds=SEEDS, method=method,
            dt=0.05, noise="diagonal",
        )
        for method in (f"torchsde/{name}", own)
    )  # fmt: skip
    torch.testing.assert_close(theirs.y, ours.y, rtol=0, atol=1e-11)


RATE = 1.5


@functools.cache
def ornstein_uhlenbeck() -> tuple[GridPath, Tensor, Tensor]:
    """dy = -a y dt + (1 + t) dW: a path, initial states and the solution on the path."""
    cells = 1024
    path = GridPath(500, (1,), 1.0, cells, seed=0)
    h = path.cell
    y0 = torch.ones(500, 1, dtype=torch.float64)
    # Linear in a cell, (1 + s) e^-a(1-s) dW has the value and slope of its start.
    s = h * torch.arange(cells, dtype=torch.float64).view(-1, 1, 1)
    weight = (1 + s) * torch.exp(-RATE * (1 - s))
    growth = torch.exp(-RATE * (1 - s)) * (1 + RATE * (1 + s))
    exact = math.exp(-RATE) * y0 + (weight * path.dw + growth * (h * path.dw - path.dz)).sum(0)
    return path, y0, exact


@pytest.mark.parametrize("name", NAMES)
def test_strong_order(name: str) -> None:
    path, y0, exact = ornstein_uhlenbeck()
    sizes, errors = [], []
    for steps in (8, 16, 32, 64):
        end = sdeint(
            lambda t, y: -RATE * y, lambda t: 1 + t, y0, 0, 1, method=name, dt=1 / steps,
            path=path.rewound(),
        ).y  # fmt: skip
        sizes.append(1 / steps)
        errors.append((end - exact).pow(2).mean().sqrt().item())
    order = float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
    # A linear equation has no second derivatives, without which srk's order is 2.
    assert order == pytest.approx(2 if name == "torchsde/srk" else 1, abs=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_rejected_steps_keep_their_path(name: str) -> None:
    path, y0, exact = ornstein_uhlenbeck()
    solution = sdeint(
        lambda t, y: -RATE * y, lambda t: 1 + t, y0, 0, 1, method=name, rtol=0, atol=0.02,
        first_step=0.25, breaks=(0.25, 0.5, 0.75), path=path.rewound(snap=True),
    )  # fmt: skip
    assert solution.log.rejections[0] >= 4
    # Noise of size 1 enters in every quarter: had a rejected one been replaced, that would show.
    assert (solution.y - exact).pow(2).mean().sqrt() < 0.1


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_log_identities_and_breaks(name: str, fixed: bool) -> None:
    edges = (0.3, 0.35)
    seen: list[Tensor] = []

    def jumping(t: Tensor, y: Tensor) -> Tensor:
        seen.append(t)
        return column(torch.where(t > 0.3, 20.0, -20.0).double(), y) - y

    solution = sdeint(
        jumping, diffusion, Y0, 1, 0.001, seeds=SEEDS, method=name, breaks=edges,
        dt=0.1 if fixed else None, trajectory=[0.5], first_step=0.3, rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    log = solution.log
    assert (solution.t == 0.001).all()
    assert log.calls == len(seen)
    assert (log.evaluations == len(seen)).all()
    np.testing.assert_array_equal(np.bincount(log.sample, log.stages), log.evaluations)
    np.testing.assert_allclose(np.bincount(log.sample, log.dt * log.accepted), -0.999, rtol=1e-13)
    assert (log.rejections.sum() > 0) == (not fixed)
    times = torch.cat(seen)
    assert times.min() >= 0.001
    assert times.max() <= 1
    low, high = log.t + log.dt, log.t
    for edge in edges:
        assert not (times == edge).any()
        assert not ((low < edge - 1e-12) & (high > edge + 1e-12)).any()
    assert solution.trajectory is not None
    assert torch.isfinite(solution.trajectory).all()


def test_the_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    some = sdeint(drift, diffusion, Y0[2:4], 0, 1, seeds=SEEDS[2:4], method="torchsde/srk", dt=0.1)
    every = sdeint(drift, diffusion, Y0, 0, 1, seeds=SEEDS, method="torchsde/srk", dt=0.1)
    assert torch.equal(some.y, every.y[2:4])


def test_images_and_arguments_pass_through(device: torch.device) -> None:
    y0 = torch.ones(8, 2, 3, 3, device=device)
    factor = torch.linspace(0, 1, 8, device=device)
    solution = sdeint(
        lambda t, y, c: -c.view(-1, 1, 1, 1) * y, lambda t: 0.1 + 0 * t, y0, 0, 1, seeds=SEEDS,
        method="torchsde/reversible_heun", dt=0.25, args=(factor,),
    )  # fmt: skip
    assert solution.y.shape == y0.shape
    assert solution.y.dtype == y0.dtype


def test_failures_have_statuses() -> None:
    number = torch.arange(8)

    def broken(t: Tensor, y: Tensor, number: Tensor) -> Tensor:
        return torch.where((number == 5)[:, None] & (t > 0.5)[:, None], torch.nan, -y)

    options = {"seeds": SEEDS, "method": "torchsde/heun", "on_failure": "return"}
    fixed = sdeint(
        broken, diffusion, Y0, 0, 1, dt=0.1, breaks=(0.4, 0.8), args=(number,), **options
    )
    assert np.flatnonzero(~fixed.ok).tolist() == [5]
    assert fixed.status[5] == Status.non_finite
    assert fixed.t[5] == 0.4
    assert torch.isfinite(fixed.y).all()
    controlled = sdeint(broken, diffusion, Y0, 0, 1, args=(number,), **options)
    assert (controlled.status == Status.non_finite).all()
    short = sdeint(drift, diffusion, Y0, 0, 1, rtol=1e-7, atol=1e-7, max_evaluations=90, **options)
    assert (short.status == Status.max_evaluations).all()
    assert short.log.calls <= 90
    coarse = sdeint(drift, diffusion, Y0, 0, 1, rtol=1e-7, atol=1e-7, dt_min=1e-3, **options)
    assert (coarse.status == Status.step_underflow).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": PI()}, "torchsde controls"),
        ({"weight": lambda t: t}, "torchsde controls"),
        ({"grid": [0, 0.1, 1]}, "different lengths"),
        ({"method": "torchsde/eular"}, "torchsde/euler"),
    ],
)
def test_what_torchsde_cannot_do_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sdeint(drift, diffusion, Y0, 0.0, 1.0, **{"method": "torchsde/euler", **options})


def test_a_grid_of_equal_steps_will_do() -> None:
    grid = np.linspace(0, 1, 11)
    by_grid = sdeint(drift, diffusion, Y0, 0, 1, seeds=SEEDS, method="torchsde/heun", grid=grid)
    by_dt = sdeint(drift, diffusion, Y0, 0, 1, seeds=SEEDS, method="torchsde/heun", dt=0.1)
    torch.testing.assert_close(by_grid.y, by_dt.y, rtol=0, atol=1e-12)
    assert (by_grid.log.steps == 10).all()
