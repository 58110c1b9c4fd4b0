r"""Samplers that are chains of exact Gaussian transitions along a grid, from high noise to low.

A step goes from time s to t < s, with h = log_snr(t) - log_snr(s) > 0, E = 1 - exp(-2 h), and z a
standard normal. Held fixed over the step is the prediction, nothing else:

ddim (eta <= 1, Song et al. 2021, arXiv 2010.02502; eta = 1 is ancestral sampling, Ho et al. 2020,
arXiv 2006.11239): the law of x_t given x_s and x_0, with x_0 replaced by its prediction

    x_t = alpha_t x_0-hat + sigma_t q eps-hat + eta sigma_t sqrt(E) z,     q^2 = 1 - eta^2 E

dpmpp-sde (Lu et al. 2022, arXiv 2211.01095): the reverse SDE with noise level eta, solved exactly
for a data prediction that is constant, or (2m) extrapolated to the middle of the step in log-SNR

    x_t = sigma_t/sigma_s exp(-eta^2 h) x + alpha_t (1 - exp(-(1 + eta^2) h)) x_0-hat
          + sigma_t sqrt(1 - exp(-2 eta^2 h)) z

heun-edm (Karras et al. 2022, arXiv 2206.00364, algorithm 2): u = x/alpha, rho = sigma/alpha.
First noise is added, rho^ = rho (1 + gamma), gamma = min(churn/N, sqrt(2) - 1), then Heun's method
takes u from rho^ to the next rho with du = noise d rho. rho^ is kept inside the grid.

pc (Song et al. 2021, arXiv 2011.13456): an ancestral step, then one Langevin step at the new time,

    x <- x + c score + sqrt(2 c) z,     c = 2 (snr sigma)^2,     snr = 0.16

Published is c = 2 (snr |z| / |score|)^2 with norms averaged over the batch, which makes samples
depend on each other; with a sample's own norms the step would depend on the state, and bias it.
The norms of a standard normal z and of the score of pure noise, z / sigma, are put in instead.

Noise of step i depends on the sample's seed and on i alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from solvers import NoiseSource, Solution, Status, StepLog

from .denoiser import Predictor

__all__ = ["CHAINS", "ddim_weights", "dpmpp_sde_weights", "run_chain"]

_Weights = tuple[float, float, float]
_STREAM = 2  # of the samples' noise: 0 makes the starts
_LANGEVIN_SNR = 0.16


@dataclass(frozen=True)
class _Step:
    """Where a step goes.

    Attributes:
        t0, t1: from where to where, t1 < t0.
        log_snr, alpha, sigma: at t0 and at t1.
        eta: noise level.
        churn: gamma of heun-edm.
        rho_max: the largest noise-to-signal ratio of the grid.
    """

    t0: float
    t1: float
    log_snr: tuple[float, float]
    alpha: tuple[float, float]
    sigma: tuple[float, float]
    eta: float
    churn: float
    rho_max: float

    @property
    def h(self) -> float:
        """The step in log-SNR."""
        return self.log_snr[1] - self.log_snr[0]


class _Batch:
    """The samples still running: the model's answers for them, counted, their noise and memory."""

    def __init__(
        self, denoiser: Predictor, x: Tensor, seeds: Tensor, label: Tensor | None
    ) -> None:
        self.denoiser, self.label = denoiser, label
        self.calls = 0
        self.last: tuple[Tensor, float] | None = None
        self._source = NoiseSource(
            seeds, x.shape[1:], dtype=x.dtype, device=x.device, stream=_STREAM
        )
        self._drawn = 0

    def data(self, x: Tensor, t: float) -> Tensor:
        """x_0-hat."""
        self.calls += 1
        return self.denoiser.data(x, t, self.label)

    def noise(self, x: Tensor, t: float) -> Tensor:
        """eps-hat."""
        self.calls += 1
        return self.denoiser.noise(x, t, self.label)

    def draw(self) -> Tensor:
        """Standard normals of the samples' own."""
        self._drawn += 1
        return self._source.normal(self._drawn - 1)

    def keep(self, rows: np.ndarray) -> None:
        """Go on with these samples only."""
        self._source = self._source.select(rows)
        where = torch.from_numpy(rows)
        if self.label is not None:
            self.label = self.label[where.to(self.label.device)]
        if self.last is not None:
            self.last = self.last[0][where.to(self.last[0].device)], self.last[1]


def ddim_weights(h: float, alpha: float, ratio: float, sigma: float, eta: float) -> _Weights:
    """(a, b, c) of x_t = a x_s + b x_0-hat + c z.

    Args:
        h: step in log-SNR.
        alpha: alpha_t.
        ratio: sigma_t / sigma_s.
        sigma: sigma_t.
        eta: noise level, in [0, 1].
    """
    lost = -math.expm1(-2 * h)
    q = math.sqrt(1 - eta * eta * lost)
    # alpha (1 - q exp(-h)), without the subtraction.
    keep = lost * (1 + eta * eta * math.exp(-2 * h)) / (1 + q * math.exp(-h))
    return ratio * q, alpha * keep, eta * sigma * math.sqrt(lost) if eta else 0.0


def dpmpp_sde_weights(h: float, alpha: float, ratio: float, sigma: float, eta: float) -> _Weights:
    """(a, b, c) as `ddim_weights`, of the reverse SDE with any eta >= 0."""
    square = eta * eta
    return (
        ratio * math.exp(-square * h),
        -alpha * math.expm1(-(1 + square) * h),
        sigma * math.sqrt(-math.expm1(-2 * square * h)),
    )


def _affine(
    step: _Step, batch: _Batch, x: Tensor, data: Tensor, rule: Callable[..., _Weights]
) -> Tensor:
    ratio = step.sigma[1] / step.sigma[0]
    a, b, c = rule(step.h, step.alpha[1], ratio, step.sigma[1], step.eta)
    out = torch.mul(x, a).add_(data, alpha=b)
    return out.add_(batch.draw(), alpha=c) if c else out


def _ddim(step: _Step, batch: _Batch, x: Tensor) -> Tensor:
    return _affine(step, batch, x, batch.data(x, step.t0), ddim_weights)


def _dpmpp_sde(step: _Step, batch: _Batch, x: Tensor, nodes: int) -> Tensor:
    data = middle = batch.data(x, step.t0)
    if nodes == 2 and batch.last is not None:
        old, h_old = batch.last
        middle = torch.lerp(old, data, 1 + 0.5 * step.h / h_old)
    batch.last = data, step.h
    return _affine(step, batch, x, middle, dpmpp_sde_weights)


def _heun_edm(step: _Step, batch: _Batch, x: Tensor) -> Tensor:
    sde = batch.denoiser.sde
    start, end = (math.exp(-value) for value in step.log_snr)
    lifted, t, alpha = start, step.t0, step.alpha[0]
    u = x / alpha
    if step.churn > 0:
        lifted = min(start * (1 + min(step.churn, math.sqrt(2) - 1)), step.rho_max)
    if lifted > start:
        u = u.add_(batch.draw(), alpha=math.sqrt(lifted * lifted - start * start))
        t = float(sde.time_of_log_snr(-math.log(lifted)))
        alpha = float(sde.alpha(t))
    dt = end - lifted
    slope = batch.noise(u * alpha, t)
    ahead = torch.add(u, slope, alpha=dt)
    slope = slope + batch.noise(ahead * step.alpha[1], step.t1)
    return u.add_(slope, alpha=0.5 * dt).mul_(step.alpha[1])


def _pc(step: _Step, batch: _Batch, x: Tensor) -> Tensor:
    x = _ddim(step, batch, x)
    noise, z = batch.noise(x, step.t1), batch.draw()
    sigma = step.sigma[1]
    c = 2 * (_LANGEVIN_SNR * sigma) ** 2
    return x.add_(noise, alpha=-c / sigma).add_(z, alpha=math.sqrt(2 * c))


CHAINS: dict[str, tuple[Callable[[_Step, _Batch, Tensor], Tensor], int]] = {
    "ddim": (_ddim, 1),
    "dpmpp-sde": (partial(_dpmpp_sde, nodes=1), 1),
    "dpmpp-2m-sde": (partial(_dpmpp_sde, nodes=2), 1),
    "heun-edm": (_heun_edm, 2),
    "pc": (_pc, 2),
}
"""Transitions by name, with the evaluations that one costs."""


def run_chain(
    denoiser: Predictor,
    transition: str,
    x: Tensor,
    times: Tensor,
    seeds: Tensor,
    *,
    eta: float = 0.0,
    churn: float = 0.0,
    label: Tensor | None = None,
    points: Tensor | None = None,
    max_evaluations: int = 10_000,
    progress: Callable[[float], None] | None = None,
) -> Solution:
    """Run a chain from x at times[0] to times[-1].

    Args:
        denoiser: the model or an oracle.
        transition: a name out of `CHAINS`.
        x: (B, ...) states at times[0].
        times: (N + 1,) falling times, float64 on the host.
        seeds: (B,) int64, of the samples' noise.
        eta: noise level; at most 1 for ddim and pc; heun-edm has churn instead.
        churn: noise that heun-edm adds on the whole, S_churn; gamma = churn/N.
        label: (B,) class labels for the model, or None.
        points: (T,) times out of `times` at which states are kept.
        max_evaluations: of the model, per sample.
        progress: called with the share of the way done.

    Returns:
        The solution, in x and t; samples that become infinite end as `Status.non_finite`.

    Raises:
        ValueError: unknown transition, eta or churn out of range, points that are not on the grid.
    """
    if transition not in CHAINS:
        raise ValueError(f"transition={transition!r}: choose one of {', '.join(CHAINS)}")
    if not eta >= 0 or (eta > 1 and transition in ("ddim", "pc")):
        raise ValueError(f"eta={eta}: the noise level of {transition} must be in [0, 1]")
    if eta and transition == "heun-edm":
        raise ValueError(
            f"eta={eta}: heun-edm adds noise by its churn alone; leave eta at 0, or use "
            "heun-edm-churn"
        )
    if not 0 <= churn < math.inf:
        raise ValueError(f"churn={churn}: must be 0 or more, for example 40")
    grid = times.tolist()
    if points is not None and not bool(torch.isin(points.double(), times).all()):
        some = ", ".join(repr(t) for t in grid[:3])
        raise ValueError(
            "trajectory: samplers that go from time to time keep states at the times of their "
            f"grid only: choose from those, {some}, … (settings['times'] of the samples lists all)"
        )
    move, cost = CHAINS[transition]
    sde = denoiser.sde
    log_snr, alpha, sigma = (f(times).tolist() for f in (sde.log_snr, sde.alpha, sde.sigma))
    batch, steps = len(x), len(grid) - 1
    running = _Batch(denoiser, x, seeds, label)
    log = StepLog(batch)
    status = np.full(batch, Status.ok, np.int64)
    reached = np.full(batch, grid[-1])
    result, y = x.clone(), x
    kept = {grid[0]: x}
    alive = np.arange(batch)
    for i in range(steps):
        if running.calls + cost > max_evaluations:
            status[alive], reached[alive] = Status.max_evaluations, grid[i]
            break
        step = _Step(
            grid[i],
            grid[i + 1],
            (log_snr[i], log_snr[i + 1]),
            (alpha[i], alpha[i + 1]),
            (sigma[i], sigma[i + 1]),
            eta,
            churn / steps,
            math.exp(-log_snr[0]),
        )
        before = running.calls
        ahead = move(step, running, y)
        spent = running.calls - before
        good = torch.isfinite(ahead).flatten(1).all(1).cpu().numpy()
        log.evaluations[alive] += spent
        log.record(alive, grid[i], grid[i + 1] - grid[i], np.nan, good, spent, 1)
        if not good.all():
            gone, rows = alive[~good], np.flatnonzero(good)
            status[gone], reached[gone] = Status.non_finite, grid[i]
            result[torch.from_numpy(gone).to(x.device)] = y[torch.from_numpy(~good).to(x.device)]
            alive, ahead = alive[good], ahead[torch.from_numpy(rows).to(x.device)]
            running.keep(rows)
        y = ahead
        if points is not None:
            kept[grid[i + 1]] = _spread(y, alive, x)
        if progress is not None:
            progress((i + 1) / steps)
        if not len(alive):
            break
    result[torch.from_numpy(alive).to(x.device)] = y
    log.calls = running.calls
    log.finish()
    path = None
    if points is not None:
        nothing = torch.full_like(x, math.nan)
        path = torch.stack([kept.get(p, nothing) for p in points.tolist()])
    unknown = np.full(batch, np.nan)
    return Solution(
        result, reached, status, np.zeros(batch), unknown, log, transition, 0.0, 0.0, None, (),
        grid[0], grid[-1], trajectory=path,
    )  # fmt: skip


def _spread(y: Tensor, alive: np.ndarray, x: Tensor) -> Tensor:
    """The states of the running samples among those of all, NaN for the others."""
    if len(alive) == len(x):
        return y
    out = torch.full_like(x, math.nan)
    out[torch.from_numpy(alive).to(x.device)] = y
    return out
