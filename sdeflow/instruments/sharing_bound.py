r"""The bound on what sharing time below t~ costs, and the intervals that make it smallest.

With the score s, for two times of one sub-interval,

    eps(x, t') - eps(x, t) = -sigma(t') [s(x, t') - s(x, t)] - [sigma(t') - sigma(t)] s(x, t),

so that in L2(p_t) the shared prediction is off by at most about

    sigma(t~) K_s Delta_t + B Delta_sigma,

    K_s = sup ||s(., t') - s(., t)|| / |t' - t|,     B = sup ||s(., t)||,     t_min <= t, t' <= t~,

with Delta_t and Delta_sigma the widest interval in t and in sigma. The suprema are taken over a
grid of times, and ||.||^2 is the mean over x drawn at time t of the squared norm of a vector: a
supremum over x would be infinite, since no score of a Gaussian is bounded.

Source: Theorem 3.2 of Yang et al., ICLR 2024, arXiv 2306.11251, read in L2(p_t).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..precision import own_precision
from ..sde import SDE
from .lipschitz import Progress, time_grid
from .probe import Probe
from .space import norms_of
from .told import noise_told

__all__ = ["ScoreSize", "least_bound", "score_size", "widths"]

POINTS = 17  # times of the grid
WIDTHS = 400  # widths in t tried for the smallest bound


@dataclass(frozen=True)
class ScoreSize:
    """How large a score is between two times, and how fast it changes.

    Attributes:
        slope: K_s, per unit of t.
        size: B.
        t_min, threshold: the two times.
    """

    slope: float
    size: float
    t_min: float
    threshold: float

    def bound(self, sde: SDE, edges: Sequence[float]) -> float:
        """sigma(t~) K_s Delta_t + B Delta_sigma for intervals that end at `edges`."""
        in_t, in_sigma = widths(sde, edges)
        return float(sde.sigma(edges[-1])) * self.slope * in_t + self.size * in_sigma


def widths(sde: SDE, edges: Sequence[float]) -> tuple[float, float]:
    """Delta_t and Delta_sigma: the widest of the intervals from 0 on, in t and in sigma."""
    sigmas = sde.sigma(torch.tensor([0.0, *edges], dtype=torch.float64)).tolist()
    return (
        max(b - a for a, b in itertools.pairwise([0.0, *edges])),
        max(b - a for a, b in itertools.pairwise(sigmas)),
    )


def score_size(
    probe: Probe,
    threshold: float,
    t_min: float,
    points: int = POINTS,
    progress: Progress | None = None,
) -> ScoreSize:
    """Measure K_s and B of a model between t_min and a threshold, on fixed samples."""
    times = time_grid(t_min, threshold, points).tolist()
    sigmas = [float(probe.model.sde.sigma(t)) for t in times]
    slope = size = 0.0
    for i, t in enumerate(times):
        squares = torch.zeros(points, dtype=torch.float64)
        count = 0
        for x, at, label in probe.batches(t):
            with torch.no_grad(), own_precision(x.device):
                scores = [
                    -noise_told(probe.model, x, at, s, label) / sigma
                    for s, sigma in zip(times, sigmas, strict=True)
                ]
            squares[i] += _square(scores[i])
            for j, score in enumerate(scores):
                if j != i:
                    squares[j] += _square(score - scores[i])
            count += len(x)
        means = torch.sqrt(squares / count).tolist()
        size = max(size, means.pop(i))
        others = times[:i] + times[i + 1 :]
        slope = max(slope, *(m / abs(s - t) for m, s in zip(means, others, strict=True)))
        if progress:
            progress((i + 1) / points)
    return ScoreSize(slope, size, t_min, threshold)


def _square(x: Tensor) -> float:
    return float((norms_of(x).cpu().double() ** 2).sum())


def least_bound(sde: SDE, score: ScoreSize, intervals: int) -> list[float]:
    """Edges t_1 < ... < t_n = t~ for which the bound is smallest.

    For each of many widths in t, the smallest width in sigma with which n intervals still reach
    the threshold is found by bisection, all at once; the pair with the smallest bound is kept.
    """
    threshold = score.threshold
    if intervals == 1:
        return [threshold]
    low, high = float(sde.sigma(0.0)), float(sde.sigma(threshold))
    in_t = torch.linspace(threshold / intervals, threshold, WIDTHS, dtype=torch.float64)
    in_t[0] *= 1 + 1e-12  # n times it must reach the threshold
    short = torch.zeros_like(in_t)
    wide = torch.full_like(in_t, high - low)
    for _ in range(60):
        middle = (short + wide) / 2
        reached = _reach(sde, in_t, middle, intervals, threshold)[-1] >= threshold
        wide = torch.where(reached, middle, wide)
        short = torch.where(reached, short, middle)
    best = int((high * score.slope * in_t + score.size * wide).argmin())
    path = _reach(sde, in_t[best : best + 1], wide[best : best + 1], intervals, threshold)
    return [*(float(f"{float(t):.15g}") for t in path[:-1]), threshold]


def _reach(
    sde: SDE, in_t: Tensor, in_sigma: Tensor, intervals: int, threshold: float
) -> list[Tensor]:
    """How far each interval gets, where none is wider than allowed."""
    t, path = torch.zeros_like(in_t), []
    top = sde.sigma(threshold)
    for _ in range(intervals):
        aim = sde.sigma(t) + in_sigma
        by_sigma = torch.where(aim >= top, math.inf, sde.time_of_sigma(aim.clamp(max=top)))
        t = torch.minimum(t + in_t, by_sigma)
        path.append(t)
    return path
