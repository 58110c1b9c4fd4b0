"""Brownian paths: the bridge, additivity, statistics under refinement, independence of the batch.

Statistical bounds are those of test_noise: |z| < 5 for standardised means, sqrt(n) D < 2.7 for
Kolmogorov-Smirnov distances.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from torch import Tensor

from solvers import BrownianPath, NoiseSource, sample_seeds
from solvers.brownian import Brownian, _bridge, _fresh
from tests.solvers.paths import Redrawn


def covariance(r: float, length: float) -> npt.NDArray[np.float64]:
    """Of (W_r, Z_r, W, Z) with Z the time integral of W, from cov(W_s, W_t) = min(s, t)."""
    cross = [[r, r * length - r**2 / 2], [r**2 / 2, r**2 * length / 2 - r**3 / 6]]
    own = [[[s, s**2 / 2], [s**2 / 2, s**3 / 3]] for s in (r, length)]
    return np.block([[np.array(own[0]), np.array(cross)], [np.array(cross).T, np.array(own[1])]])


@pytest.mark.parametrize("length", [1.0, 0.02, 7.0])
@pytest.mark.parametrize("theta", [1e-4, 0.1, 0.5, 0.77, 1 - 1e-4])
def test_bridge_is_the_conditional_gaussian(length: float, theta: float) -> None:
    r = theta * length
    full = covariance(r, length)
    part, rest = np.array([r]), np.array([length - r])
    for area in (False, True):
        keep = [0, 1, 2, 3] if area else [0, 2]
        c, m = full[np.ix_(keep, keep)], len(keep) // 2
        mean = c[:m, m:] @ np.linalg.inv(c[m:, m:])
        left = c[:m, :m] - mean @ c[m:, :m]
        weights = _bridge(part, rest, area)[:, 0]
        if area:
            got = weights[3:].reshape(2, 2)
            root = np.array([[weights[0], 0], [weights[1], weights[2]]])
        else:
            got, root = weights[1:].reshape(1, 1), weights[:1].reshape(1, 1)
        # The reference subtracts numbers of the size of the unconditional variances.
        scale = np.sqrt(np.outer(np.diag(c[:m, :m]), np.diag(c[:m, :m])))
        np.testing.assert_allclose(got, mean, rtol=1e-9, atol=1e-9 * np.abs(mean).max())
        assert (np.abs(root @ root.T - left) < 1e-12 * scale).all()


def test_bridge_at_the_middle_is_known() -> None:
    # theta = 1/2: W_r = W/2 + 3/2 H with H = Z/L - W/2, of variance L/16 around it.
    c0, c1, _, a1, a2, _, _ = _bridge(np.array([0.5]), np.array([0.5]), True)[:, 0]
    assert (c0**2, c1, a1, a2) == pytest.approx((1 / 16, 0, -1 / 4, 3 / 2), abs=1e-15)


@pytest.mark.parametrize("area", [False, True])
def test_fresh_increments_have_their_covariance(area: bool) -> None:
    weights = _fresh(np.array([0.3]), area)[:, 0]
    if not area:
        assert weights == pytest.approx([math.sqrt(0.3)])
        return
    root = np.array([[weights[0], 0], [weights[1], weights[2]]])
    np.testing.assert_allclose(root @ root.T, [[0.3, 0.045], [0.045, 0.009]], rtol=1e-14)


def wander(
    path: Brownian, batch: int, stops: list[float], rng: np.random.Generator, picky: bool = True
) -> tuple[list[Tensor], list[Tensor], int]:
    """Walk along a path with random steps, each sample its own, rejecting large increments.

    Returns:
        W and Z of every stretch between the stops, each (B, ...), and the number of rejections.
    """
    position, stretch = np.zeros(batch), np.zeros(batch, np.int64)
    step = np.full(batch, 0.3)
    goals = np.array([*stops, stops[-1]])
    ws: list[Tensor] = []
    zs: list[Tensor] = []
    rejections = 0
    while (stretch < len(stops)).any():
        goal = goals[stretch]
        end = np.minimum(position + step, goal)
        dw, dz = path.increment(end)
        if not ws:
            ws = [torch.zeros_like(dw) for _ in stops]
            zs = [torch.zeros_like(dw) for _ in stops]
        size = dw.flatten(1).pow(2).mean(1).sqrt().numpy()
        large = size > 0.7 * np.sqrt(np.maximum(end - position, 1e-300))
        accepted = ~(large & (rng.random(batch) < 0.6)) if picky else rng.random(batch) < 0.6
        accepted |= end == position
        rejections += int((~accepted).sum())
        path.advance(accepted)
        for k in range(len(stops)):
            here = torch.from_numpy((accepted & (stretch == k)).astype(float))
            here = here.view(-1, *[1] * (dw.ndim - 1))
            length = torch.from_numpy(end - position).view_as(here)
            if dz is not None:
                zs[k] += here * (dz + length * ws[k])
            ws[k] += here * dw
        position = np.where(accepted, end, position)
        stretch = np.where(accepted & (end == goal), np.minimum(stretch + 1, len(stops)), stretch)
        grow, shrink = rng.uniform(0.3, 3, batch), rng.uniform(0.05, 1.1, batch)
        step = np.clip(step * np.where(accepted, grow, shrink), 0.01, 2.0)
    return ws, zs, rejections


@pytest.mark.parametrize("area", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_of_a_rejected_increment_add_up_to_it(area: bool, dtype: torch.dtype) -> None:
    batch = 50
    path = BrownianPath(sample_seeds(0, batch), (3,), 0.0, area=area, dtype=dtype)
    whole_w, whole_z = path.increment(np.ones(batch))
    path.advance(np.zeros(batch, bool))
    ws, zs, rejections = wander(path, batch, [1.0], np.random.default_rng(0))
    assert rejections > batch
    # Sums of up to about a hundred parts, the largest of size 1.
    tolerance = 100 * torch.finfo(dtype).eps
    assert (ws[0] - whole_w).abs().max() < tolerance
    if area:
        assert whole_z is not None
        assert (zs[0] - whole_z).abs().max() < tolerance


def test_asking_again_gives_the_same_increment() -> None:
    path = BrownianPath(sample_seeds(0, 4), (2,), 0.0, area=True, dtype=torch.float64)
    ends = [1.0, 0.6, 0.25, 0.7]
    first = {}
    for end in ends:
        first[end] = path.increment(np.full(4, end))
        path.advance(np.zeros(4, bool))
    for end in reversed(ends):
        for again, once in zip(path.increment(np.full(4, end)), first[end], strict=True):
            torch.testing.assert_close(again, once, rtol=0, atol=1e-15)
        path.advance(np.zeros(4, bool))


def deviations(ws: list[Tensor], zs: list[Tensor], stops: list[float]) -> dict[str, float]:
    """Largest statistics of the stretches, each in units of its bound."""
    h = np.diff([0.0, *stops])
    w = np.stack([x.flatten().numpy() / math.sqrt(d) for x, d in zip(ws, h, strict=True)])
    kinds = {"W": w}
    if any(z.any() for z in zs):
        # What is left of Z without its regression on W: variance h^3/12, independent of W.
        parts = zip(ws, zs, h, strict=True)
        rest = [(z - d / 2 * x).flatten().numpy() * math.sqrt(12 / d**3) for x, z, d in parts]
        kinds["Z"] = np.stack(rest)
    found = {}
    n = w.shape[1]
    for name, x in kinds.items():
        found[f"{name} mean"] = np.abs(x.mean(1)).max() * math.sqrt(n) / 5
        found[f"{name} variance"] = np.abs((x**2).mean(1) - 1).max() * math.sqrt(n / 2) / 5
        distances = [stats.kstest(row, "norm").statistic for row in x]
        found[f"{name} distribution"] = max(distances) * math.sqrt(n) / 2.7
    every = np.concatenate(list(kinds.values()))
    products = every @ every.T / math.sqrt(n) / 5
    squares = (every**2 - 1) @ (every**2 - 1).T / 2 / math.sqrt(n) / 5
    off = ~np.eye(len(every), dtype=bool)
    found["correlation"] = np.abs(products[off]).max()
    found["correlation of squares"] = np.abs(squares[off]).max()
    return found


STOPS = [0.2, 0.5, 0.6, 1.1]


@pytest.mark.parametrize("area", [False, True])
def test_rejection_leaves_no_trace_in_the_path(area: bool) -> None:
    batch = 8000
    path = BrownianPath(sample_seeds(1, batch), (1,), 0.0, area=area, dtype=torch.float64)
    ws, zs, rejections = wander(path, batch, STOPS, np.random.default_rng(1))
    assert rejections > 2 * batch
    found = deviations(ws, zs, STOPS)
    assert max(found.values()) < 1, found


def test_redrawing_fails_these_statistics() -> None:
    batch = 8000
    rng = np.random.default_rng(1)
    ws, zs, _ = wander(Redrawn(batch, (1,), seed=1), batch, STOPS, rng)
    assert deviations(ws, zs, STOPS)["W variance"] > 3


@pytest.mark.parametrize("area", [False, True])
def test_a_path_does_not_depend_on_its_batch(area: bool) -> None:
    seeds = sample_seeds(2, 12)
    chosen = [7, 0, 3]

    def walk(rows: list[int]) -> list[Tensor]:
        """Steps and rejections that are functions of the sample, not of its place."""
        path = BrownianPath(seeds[rows], (2, 2), 0.0, area=area)
        position = np.zeros(len(rows))
        seen = []
        for attempt in range(40):
            rngs = [np.random.default_rng(1000 * row + attempt) for row in rows]
            end = position + np.array([rng.uniform(0.01, 0.5) for rng in rngs])
            seen += [part for part in path.increment(end) if part is not None]
            accepted = np.array([rng.random() < 0.5 for rng in rngs])
            path.advance(accepted)
            position = np.where(accepted, end, position)
        return seen

    together = walk(list(range(12)))
    for a, b in zip(together, walk(chosen), strict=True):
        assert torch.equal(a[chosen], b)
    for a, b in zip(together, walk([11]), strict=True):
        assert torch.equal(a[[11]], b)


@pytest.mark.parametrize("area", [False, True])
def test_dropping_samples_leaves_the_others_their_path(area: bool) -> None:
    whole, part = (
        BrownianPath(sample_seeds(3, 6), (2,), 0.0, area=area, dtype=torch.float64)
        for _ in range(2)
    )
    rows = np.array([4, 1, 2])
    for attempt in range(12):
        end = whole.position + np.linspace(1, 2, 6) * (0.1 + 0.3 * (attempt % 3))
        accepted = (np.arange(6) + attempt) % 3 == 0
        if attempt == 5:
            part.keep(rows)
        now = rows if attempt >= 5 else np.arange(6)
        expected, got = whole.increment(end), part.increment(end[now])
        assert torch.equal(got[0], expected[0][now])
        if got[1] is not None:
            assert expected[1] is not None
            assert torch.equal(got[1], expected[1][now])
        whole.advance(accepted)
        part.advance(accepted[now])
        assert (part.position == whole.position[now]).all()


def test_other_types_and_devices_see_the_same_path(device: torch.device) -> None:
    ends = np.linspace(0.1, 1, 10)
    for area in (False, True):
        single = BrownianPath(sample_seeds(0, 3), (4,), 0.0, area=area, device=device)
        double = BrownianPath(sample_seeds(0, 3), (4,), 0.0, area=area, dtype=torch.float64)
        for k, end in enumerate(ends):
            accepted = np.array([True, k % 2 == 0, k % 3 == 0])
            at = np.maximum(single.position, np.array([end, end / 2, end * 2]))
            for a, b in zip(single.increment(at), double.increment(at), strict=True):
                if a is not None and b is not None:
                    torch.testing.assert_close(a.cpu().double(), b, rtol=1e-5, atol=1e-6)
            single.advance(accepted)
            double.advance(accepted)


@pytest.mark.parametrize("area", [False, True])
def test_noise_of_the_same_seed_is_independent_of_the_path(area: bool) -> None:
    # Initial states are often drawn with the seeds that the path is given.
    seeds = sample_seeds(0, 4000)
    source = NoiseSource(seeds, (5,), dtype=torch.float64)
    path = BrownianPath(seeds, (5,), 0.0, area=area, dtype=torch.float64)
    for end in (1.0, 2.0):
        w, _ = path.increment(np.full(4000, end))
        path.advance(np.ones(4000, bool))
        for index in range(3):
            product = (w * source.normal(index)).mean().item()
            assert abs(product) < 5 / math.sqrt(w.numel())


def test_an_empty_step_is_zero_and_takes_no_room() -> None:
    path = BrownianPath(sample_seeds(0, 2), (2,), 0.5, area=True)
    for accepted in (True, False):
        w, z = path.increment(np.full(2, 0.5))
        assert z is not None
        assert not w.any()
        assert not z.any()
        path.advance(np.full(2, accepted))
    assert (path.position == 0.5).all()


def test_advance_needs_an_increment() -> None:
    path = BrownianPath(sample_seeds(0, 2), (2,), 0.0)
    with pytest.raises(ValueError, match="increment"):
        path.advance(np.ones(2, bool))
