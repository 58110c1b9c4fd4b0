r"""Likelihood by change of variables along the probability flow.

In a chart u = s x, du/d tau = G(u, tau), the density of u changes along a trajectory by
d log p_u / d tau = -div G, and log p_x = log p_u + D log s. From data at t_min to the prior at
t_max (Chen et al. 2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456):

    log p(x) = log prior(x(t_max)) + D log(s(t_min)/s(t_max)) + int_{tau_min}^{tau_max} div G d tau

div G is exact (D derivatives a call) or Hutchinson's estimate v . (dG/du) v with random signs v,
one draw for the whole trajectory; several draws give a standard error. The integral rides along
with the state as s L / sqrt(D), so that one tolerance bounds the error of x and that of the
log-likelihood in nats per dimension, whatever the chart.

Bits per dimension of data with Q integer levels, dequantised to x = 2 (k + u)/Q - 1, u uniform:
-log2 p(x) / D + log2(Q/2). The prior is N(0, prior_scale^2 I), as in sampling; an oracle's is its
own p(t_max), so that its answer is log p(t_min) of the oracle itself, up to integration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from solvers import Controller, Solution, Status, odeint
from solvers.noise import NoiseSource, sample_seeds

from .batches import batches, device_of, generator_of, labels_of
from .chart import Chart
from .denoiser import Predictor
from .dynamics import ProbabilityFlow
from .modes import evaluated
from .oracle import Oracle
from .plan import Plan, make_plan
from .samplers import DEFAULT_SOLVER, find_sampler

__all__ = [
    "Likelihood",
    "bits_per_dimension",
    "dequantise",
    "levels_of",
    "log_likelihood",
]

_SIGNS = 2  # the noise table of the random signs; 0 starts samples, 1 drives paths


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods and what they cost.

    Attributes:
        log_prob: (N,) log p(x) in nats, float64; NaN where the integration failed.
        error: (N,) standard error of `log_prob` from Hutchinson's draws, nats; None where the
            divergence is exact, NaN with one draw.
        prior: (N,) the prior's part of `log_prob`, nats.
        latent: (N, ...) x at t_max.
        status: (N,) values of `solvers.Status`.
        evaluations: (N,) evaluations of the model, each with its derivatives.
        settings: solver, chart, tolerances, times, divergence.
    """

    log_prob: Tensor
    error: Tensor | None
    prior: Tensor
    latent: Tensor
    status: np.ndarray
    evaluations: np.ndarray
    settings: dict[str, Any]


@evaluated
def log_likelihood(
    denoiser: Predictor,
    x: Tensor,
    *,
    divergence: Literal["exact", "hutchinson"] = "hutchinson",
    draws: int = 1,
    seed: int = 0,
    solver: str = DEFAULT_SOLVER,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    controller: str | Controller = "pi",
    chart: str | Chart | None = None,
    t_min: float = 1e-5,
    t_max: float | None = None,
    breaks: bool | None = None,
    label: int | Tensor | None = None,
    batch_size: int | None = None,
    max_evaluations: int = 10_000,
    progress: Callable[[float], None] | None = None,
) -> Likelihood:
    """log p(x) of a model or an oracle.

    Args:
        denoiser: the model.
        x: (N, ...) data, taken to be the state at t_min.
        divergence: exact (D derivatives a call), or hutchinson.
        draws: random sign vectors of Hutchinson's estimate.
        seed: seed of the signs.
        solver: an adaptive Runge-Kutta method (the multistep methods integrate another form).
        rtol, atol: tolerances, of x and of nats per dimension.
        controller, chart, t_min, t_max, breaks, label, batch_size, max_evaluations, progress: as
            in `sdeflow.sampling.sample`.

    Raises:
        ValueError: an argument out of range, or a solver that cannot do this.
    """
    if divergence not in ("exact", "hutchinson"):
        raise ValueError(f"divergence={divergence!r}: choose exact or hutchinson")
    if len(x) < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}: needs at least 1 sample")
    if draws < 1:
        raise ValueError(f"draws={draws}: need at least 1")
    if not find_sampler(solver).adaptive:
        raise ValueError(f"solver={solver!r}: needs an adaptive Runge-Kutta method, like dopri5")
    plan = make_plan(
        denoiser,
        solver=solver,
        steps=None,
        rtol=rtol,
        atol=atol,
        controller=controller,
        chart=chart,
        grid=None,
        t_min=t_min,
        t_max=t_max,
        eta=None,
        breaks=breaks,
        max_evaluations=max_evaluations,
    ).reversed()
    if plan.sampler.kind != "ode" or plan.sampler.multistep:
        raise ValueError(f"solver={solver!r}: needs an adaptive Runge-Kutta method, like dopri5")
    x = x.to(device_of(denoiser))
    labels = labels_of(label, len(x), denoiser)
    seeds = sample_seeds(seed, len(x))
    k = 1 if divergence == "exact" else draws
    parts: list[tuple[Solution, Tensor]] = []
    for rows, report in batches(len(x), batch_size, progress, x.shape[1:]):
        args: tuple[Tensor, ...] = () if labels is None else (labels[rows],)
        if divergence == "hutchinson":
            args = (*args, _signs(x[rows], seeds[rows], k))
        parts.append(_integrate(plan, x[rows], args, divergence == "exact", k, report))
    change = torch.cat([p for _, p in parts])
    latent = torch.cat([s.y[:, :-k] for s, _ in parts]).reshape(x.shape)
    status = np.concatenate([s.status for s, _ in parts])
    ends = torch.tensor([plan.t_start, plan.t_end], dtype=torch.float64)
    scales = plan.chart.state_scale(ends)
    latent = latent / float(scales[1])
    if isinstance(denoiser, Oracle):
        prior = denoiser.log_prob(latent, plan.t_end).double()
    else:
        prior = _gaussian(latent, denoiser.sde.prior_scale(plan.t_end))
    d = x[0].numel()
    each = prior[:, None] + d * math.log(float(scales[0] / scales[1])) - change
    each[torch.from_numpy(status != Status.ok)] = math.nan
    error = None
    if divergence == "hutchinson":
        error = each.std(1) / math.sqrt(k) if k > 1 else torch.full_like(prior, math.nan)
    settings = {
        "solver": solver,
        "chart": plan.chart.name,
        "rtol": rtol,
        "atol": atol,
        "controller": plan.controller.name,
        "t_min": plan.t_start,
        "t_max": plan.t_end,
        "breaks": list(denoiser.breaks) if plan.breaks else [],
        "divergence": divergence,
        "draws": k if divergence == "hutchinson" else None,
        "seed": seed if divergence == "hutchinson" else None,
    }
    evaluations = np.concatenate([s.log.evaluations for s, _ in parts])
    return Likelihood(each.mean(1), error, prior, latent, status, evaluations, settings)


def _signs(x: Tensor, seeds: Tensor, k: int) -> Tensor:
    """Random signs (B, k, D), by sample."""
    shape = (k, x[0].numel())
    source = NoiseSource(seeds, shape, dtype=x.dtype, device=x.device, stream=_SIGNS)
    return torch.where(source.normal(0) < 0, -1.0, 1.0).to(x.dtype)


def _gaussian(x: Tensor, scale: float) -> Tensor:
    """log N(x; 0, scale^2 I), (N,) float64 on the host."""
    flat = x.flatten(1).to("cpu").double() / scale
    return -0.5 * (flat**2).sum(1) - flat.shape[1] * math.log(scale * math.sqrt(2 * math.pi))


def _integrate(
    plan: Plan,
    x: Tensor,
    args: tuple[Tensor, ...],
    exact: bool,
    k: int,
    report: Callable[[float], None],
) -> tuple[Solution, Tensor]:
    """The flow of (u, s L_1 / sqrt(D), ..., s L_k / sqrt(D)), and the L at its end, (B, k)."""
    flow = plan.dynamics()
    assert isinstance(flow, ProbabilityFlow)
    chart, shape = plan.chart, x.shape[1:]
    root = math.sqrt(math.prod(shape))
    span = flow.tau1 - flow.tau0

    def field(tau: Tensor, y: Tensor, *more: Tensor) -> Tensor:
        report(float(tau.mean() - flow.tau0) / span)
        signs = None if exact else more[-1]
        label = more[0] if len(more) > (0 if exact else 1) else None
        u = y[:, :-k].detach().requires_grad_()
        with torch.enable_grad():
            slope = flow(tau, u.reshape(-1, *shape), label).reshape(u.shape)
            change = -_divergence(slope, u, signs)
        t = flow.time(tau)
        scale = _column(chart.state_scale(t), y)
        drift = _column(chart.scale_rate(t), y) * y[:, -k:]
        return torch.cat([slope.detach(), change * scale / root + drift], dim=1)

    u0 = flow.to_chart(x, plan.t_start).reshape(len(x), -1)
    solution = odeint(
        field,
        torch.cat([u0, u0.new_zeros(len(x), k)], dim=1),
        flow.tau0,
        flow.tau1,
        method=plan.sampler.method,
        rtol=plan.rtol,
        atol=plan.atol,
        controller=plan.controller,
        breaks=flow.breaks,
        weight=flow.weight,
        max_evaluations=plan.max_evaluations,
        args=args,
        on_failure="return",
    )
    scale = chart.state_scale(torch.tensor(plan.t_end, dtype=torch.float64))
    return solution, solution.y[:, -k:].to("cpu").double() * (root / float(scale))


def _column(values: Tensor, y: Tensor) -> Tensor:
    return values.to(y.dtype).to(y.device)[:, None]


def _divergence(slope: Tensor, u: Tensor, signs: Tensor | None) -> Tensor:
    """div of slope (B, D) with respect to u: exact (B, 1), or one estimate a draw (B, k)."""
    columns = []
    if signs is None:
        total = torch.zeros_like(u[:, 0])
        for i in range(u.shape[1]):
            (row,) = torch.autograd.grad(slope[:, i].sum(), u, retain_graph=True)
            total = total + row[:, i]
        columns.append(total)
    else:
        for v in signs.unbind(1):
            (row,) = torch.autograd.grad((slope * v).sum(), u, retain_graph=True)
            columns.append((row * v).sum(1))
    return torch.stack(columns, dim=1)


def levels_of(x: Tensor) -> int | None:
    """Number of integer levels Q of data in [-1, 1]: 2, 17 or 256; None where there are none."""
    for levels in (2, 17, 256):
        k = (x.double() + 1) / 2 * (levels - 1)
        if bool(((k - k.round()).abs() < 1e-3).all()) and bool((k > -0.5).all()):
            return levels
    return None


def dequantise(x: Tensor, levels: int, seed: int = 0) -> Tensor:
    """Uniform dequantisation: 2 (k + u)/Q - 1 with k the integer behind x and u in [0, 1)."""
    k = ((x.double() + 1) / 2 * (levels - 1)).round()
    u = torch.rand(x.shape, generator=generator_of(seed), dtype=torch.float64)
    return (2 * (k + u.to(k.device)) / levels - 1).to(x.dtype)


def bits_per_dimension(log_prob: Tensor, dimension: int, levels: int) -> Tensor:
    """-log2 p / D + log2(Q/2) for data that was dequantised from Q levels to [-1, 1]."""
    return -log_prob / (dimension * math.log(2)) + math.log2(levels / 2)
