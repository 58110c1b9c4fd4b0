r"""Sampling: denoiser + method + chart + grid or tolerances -> samples, with the log.

    x(t_max) = prior_scale eps   ->   the flow or the reverse SDE down to t_min   ->   x

Sample i's start and its noise depend on (seed, i) alone, so neither the batch size nor the order
changes it, nor the process that draws it (`sdeflow.processes`). `encode` runs the flow the other
way. What fails comes back with its status.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from solvers import Controller, Solution, SolverError, Status, StepLog, odeint
from solvers.noise import NoiseSource, sample_seeds
from solvers.sde import sdeint

from .batches import Progress, batches, device_of, labels_of
from .chart import Chart
from .denoiser import Predictor
from .dynamics import ReverseSDE
from .guidance import innermost
from .modes import evaluated
from .plan import Plan, make_plan
from .ratio_measure import chart_measure
from .samplers import DEFAULT_SOLVER, find_sampler
from .samples import Samples, add_times
from .stochastic import run_chain
from .super_resolution import Paired

__all__ = ["Samples", "encode", "sample"]


@evaluated
def sample(
    denoiser: Predictor,
    shape: tuple[int, ...] | None = None,
    *,
    solver: str = DEFAULT_SOLVER,
    steps: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    controller: str | Controller = "pi",
    chart: str | Chart | None = None,
    grid: str | Sequence[float] | Tensor | None = None,
    t_min: float = 1e-3,
    t_max: float | None = None,
    eta: float | None = None,
    final: Literal["none", "denoise", "zero"] = "none",
    breaks: bool | None = None,
    label: int | Tensor | None = None,
    guidance: float = 1.0,
    image: Tensor | None = None,
    noise: Tensor | None = None,
    count: int | None = None,
    first: int = 0,
    batch_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_evaluations: int = 10_000,
    trajectory: Sequence[float] | Tensor | None = None,
    on_failure: Literal["raise", "return"] = "raise",
    progress: Progress | None = None,
) -> Samples:
    """Draw samples from a model or an oracle.

    Args:
        denoiser: a `Denoiser` or an `Oracle`.
        shape: shape of one sample; oracles and `noise` bring their own.
        solver: a name out of `sdeflow.samplers.samplers()`.
        steps: number of fixed steps; adaptive methods then run without tolerances.
        rtol: relative tolerance per step, of x; the sampler's own by default (1e-3;
            of SDE solvers 0.05). Refused where steps are fixed.
        atol: absolute tolerance per step, of x; likewise.
        controller: i, pi, pid, or a controller of `solvers`.
        chart: SCALE/CLOCK, or a `Chart`; the sampler's own by default.
        grid: spacing of fixed steps (`sdeflow.grids`), or their times; the sampler's own by
            default.
        t_min: where to stop, in (0, t_max).
        t_max: where to start; 1, or less where alpha(1) = 0 and the model predicts the noise, or
            the chart is infinite there.
        eta: noise level of stochastic samplers; the sampler's own by default.
        final: none; denoise: answer E[x_0 | x(t_min)] instead of x(t_min); zero: the same in
            place of the last step, so that the grid ends at sigma = 0.
        breaks: tell the solver where the model jumps in t; by default where steps are adaptive.
        label: class label, one for all or (N,).
        guidance: classifier-free guidance weight, 1 for none.
        image: (N, C, h, w) low-resolution images, one per sample, for a super-resolution model.
        noise: (N, ...) standard normals to start from instead of the seed's.
        count: number of samples N; that of `noise`, or 16.
        first: number of the first: samples first, ..., first + N - 1 of the seed, so that a run
            can be made in parts.
        batch_size: samples integrated at once; by default as many as have 2^18 numbers in all,
            at least 16.
        seed: seed of the whole run.
        dtype: floating-point type of the state.
        max_evaluations: of the model, per sample.
        trajectory: (T,) times between t_max and t_min, falling, at which states are kept.
        on_failure: "raise", or "return" to get every sample with its status.
        progress: called with the share of the work done, in [0, 1].

    Returns:
        The samples, on the model's device.

    Raises:
        ValueError: an argument out of range, unknown, or that the sampler cannot use.
        solvers.SolverError: a sample failed and `on_failure` is "raise".
    """
    shape = _sample_shape(denoiser, shape, noise)
    if noise is not None and count not in (None, len(noise)):
        raise ValueError(
            f"count={count}: noise has {len(noise)} rows, one a sample; give noise[:{count}], or "
            "leave count out"
        )
    if count is None:
        count = 16 if noise is None else len(noise)
    if count < 1:
        raise ValueError(f"count={count}: need at least 1 sample")
    if first < 0:
        raise ValueError(f"first={first}: samples are numbered from 0")
    if final not in ("none", "denoise", "zero"):
        raise ValueError(f"final={final!r}: choose none, denoise or zero")
    labels = labels_of(label, count, denoiser)
    plan = whole = make_plan(
        denoiser,
        solver=solver,
        steps=steps,
        rtol=rtol,
        atol=atol,
        controller=controller,
        chart=chart,
        grid=grid,
        t_min=t_min,
        t_max=t_max,
        eta=eta,
        breaks=breaks,
        max_evaluations=max_evaluations,
        points=trajectory,
    )
    if final == "zero":
        plan = whole.without_last_step()
    if plan.points is not None:
        low, high = plan.t_end, plan.t_start
        inside = (plan.points >= low) & (plan.points <= high)
        if not bool(inside.all() and (plan.points.diff() < 0).all()):
            raise ValueError(
                f"trajectory={plan.points.tolist()}: need falling times between {high:g} and "
                f"{low:g}, where {'the last step begins' if final == 'zero' else 'sampling ends'}"
            )
    if guidance != 1:
        plan = replace(plan, denoiser=denoiser.given(guidance=guidance))
    if image is not None:
        if len(image) != count:
            raise ValueError(f"image: {len(image)} images for {count} samples")
        if isinstance(denoiser, Paired):
            raise ValueError("image: this model has one for each sample already; leave it out")
        plan = replace(plan, denoiser=Paired(plan.denoiser, image, labels))
        labels = torch.arange(count)
    device = device_of(denoiser)
    seeds = sample_seeds(seed, count, first)
    scale = denoiser.sde.prior_scale(plan.t_start)

    def start(rows: slice) -> Tensor:
        if noise is not None:
            return noise[rows].to(dtype).to(device) * scale
        source = NoiseSource(seeds[rows], shape, dtype=dtype, device=device)
        return source.normal(0) * scale

    out = _run(plan, start, (count, *shape), batch_size, seeds, labels, on_failure, progress)
    if final != "none":
        _denoise(plan, out, labels, batch_size)
    out.settings |= {
        "seed": None if noise is not None and plan.sampler.kind == "ode" else seed,
        "final": final,
        "guidance": guidance,
        "label": label.tolist() if isinstance(label, Tensor) else label,
        "t_min": whole.t_end,
        "t_max": whole.t_start,
        "steps": None if whole.times is None else len(whole.times) - 1,
    }
    return out


@evaluated
def encode(
    denoiser: Predictor,
    x: Tensor,
    *,
    solver: str = DEFAULT_SOLVER,
    steps: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    controller: str | Controller = "pi",
    chart: str | Chart | None = None,
    grid: str | Sequence[float] | Tensor | None = None,
    t_min: float = 1e-3,
    t_max: float | None = None,
    breaks: bool | None = None,
    label: int | Tensor | None = None,
    batch_size: int | None = None,
    max_evaluations: int = 10_000,
    on_failure: Literal["raise", "return"] = "raise",
    progress: Progress | None = None,
) -> Samples:
    """The probability flow run forwards: from x at t_min to the latent at t_max.

    Arguments are those of `sample`, but tolerances are 1e-5 by default; x is (N, ...). The latents
    come back at the scale of x(t_max): divided by `sde.prior_scale(t_max)` they are what
    `sample(noise=...)` takes.

    Raises:
        ValueError: as `sample`, or a stochastic solver.
        solvers.SolverError: as `sample`.
    """
    if len(x) < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}: needs at least 1 sample")
    if steps is None and grid is None and find_sampler(solver).adaptive:
        rtol, atol = (1e-5 if value is None else value for value in (rtol, atol))
    plan = make_plan(
        denoiser,
        solver=solver,
        steps=steps,
        rtol=rtol,
        atol=atol,
        controller=controller,
        chart=chart,
        grid=grid,
        t_min=t_min,
        t_max=t_max,
        eta=None,
        breaks=breaks,
        max_evaluations=max_evaluations,
    ).reversed()
    if plan.sampler.kind != "ode":
        raise ValueError(f"solver={solver!r}: encoding follows the flow; use an ODE solver")
    x = x.to(device_of(denoiser))
    labels = labels_of(label, len(x), denoiser)
    seeds = sample_seeds(0, len(x))
    out = _run(
        plan, lambda rows: x[rows], tuple(x.shape), batch_size, seeds, labels, on_failure, progress
    )
    steps = None if plan.times is None else len(plan.times) - 1
    out.settings |= {"t_min": plan.t_start, "t_max": plan.t_end, "steps": steps}
    return out


def _sample_shape(
    denoiser: Predictor, shape: tuple[int, ...] | None, noise: Tensor | None
) -> tuple[int, ...]:
    if noise is not None:
        if shape is not None and tuple(noise.shape[1:]) != tuple(shape):
            raise ValueError(f"noise: shape {tuple(noise.shape)}, need (N, {shape})")
        return tuple(noise.shape[1:])
    if shape is None:
        shape = getattr(innermost(denoiser), "data_shape", None)
    if shape is None:
        raise ValueError("shape=None: say the shape of one sample, for example (1, 28, 28)")
    return tuple(shape)


@torch.no_grad()
def _run(
    plan: Plan,
    start: Callable[[slice], Tensor],
    shape: tuple[int, ...],
    batch_size: int | None,
    seeds: Tensor,
    labels: Tensor | None,
    on_failure: Literal["raise", "return"],
    progress: Progress | None,
) -> Samples:
    """Integrate batch after batch.

    Of a batch only its samples, their states at the points asked for and its log stay, the former
    in their final place: the whole takes one batch more memory than what is returned.
    """
    began = time.perf_counter()
    chart, dynamics = plan.chart, plan.dynamics()
    count = shape[0]
    x = path = torch.empty(0)
    tau, dt, error = np.empty((3, count))
    status = np.empty(count, np.int64)
    logs: list[StepLog] = []
    failed: Solution | None = None
    for rows, report in batches(count, batch_size, progress, shape[1:]):
        begin = start(rows)
        if not logs:
            x = begin.new_empty(shape)
            if plan.points is not None:
                path = begin.new_empty(len(plan.points), *shape)
        args = () if labels is None else (labels[rows],)
        part = _integrate(plan, begin, seeds[rows], args, report)
        tau[rows], dt[rows], error[rows] = part.t, part.dt, part.error
        status[rows] = part.status
        x[rows] = dynamics.from_chart(part.y, dynamics.time(torch.from_numpy(tau[rows])))
        if plan.points is not None and part.trajectory is not None:
            for k, (u, t_k) in enumerate(zip(part.trajectory, plan.points, strict=True)):
                path[k, rows] = dynamics.from_chart(u, t_k)
        logs.append(part.log)
        if failed is None and not part.ok.all():
            failed = part
    log = logs[0] if len(logs) == 1 else StepLog.joined(logs)
    logs.clear()
    add_times(log, dynamics)
    t = dynamics.time(torch.from_numpy(tau)).numpy()
    t[status == Status.ok] = plan.t_end
    if failed is not None:
        # Of all batches, so that samples are counted and numbered through.
        # In time, as the user knows it, not in the chart's clock.
        aim = tau + np.nan_to_num(dt, posinf=0, neginf=0)
        dt = dynamics.time(torch.from_numpy(aim)).numpy() - t
        failed = replace(failed, y=x, t=t, dt=dt, error=error, status=status, log=log)
        if on_failure == "raise":
            raise SolverError(failed)
    settings = {
        "solver": plan.sampler.name,
        "method": plan.sampler.method,
        "chart": chart.name,
        "grid": plan.grid,
        "rtol": plan.rtol if plan.times is None else None,
        "atol": plan.atol if plan.times is None else None,
        "controller": plan.controller.name if plan.controls else None,
        "eta": plan.eta,
        "breaks": list(plan.denoiser.breaks) if plan.breaks else [],
        "times": None if plan.times is None else plan.times.tolist(),
    }
    failure = failed.failures() if failed else ""
    kept = None if plan.points is None else path
    return Samples(x, t, status, log, settings, time.perf_counter() - began, kept, failure)


def _integrate(
    plan: Plan, x: Tensor, seeds: Tensor, args: tuple[Tensor, ...], report: Progress
) -> Solution:
    """One batch, from x at t_start, in the chart."""
    if plan.sampler.kind == "chain":
        assert plan.times is not None
        return run_chain(
            plan.denoiser, plan.sampler.method, x, plan.times, seeds, eta=plan.eta,
            churn=plan.sampler.churn, label=args[0] if args else None, points=plan.points,
            max_evaluations=plan.max_evaluations, progress=report,
        )  # fmt: skip
    dynamics = plan.dynamics()
    span = dynamics.tau1 - dynamics.tau0

    def watched(field: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(tau: Tensor, u: Tensor, *more: Tensor) -> Tensor:
            report(float(tau.mean() - dynamics.tau0) / span)
            return field(tau, u, *more)

        return call

    u0 = dynamics.to_chart(x, plan.t_start)
    grid = None
    if plan.times is not None:
        tau = plan.chart.tau(plan.times).clone()
        tau[0], tau[-1] = dynamics.tau0, dynamics.tau1
        grid = tau.numpy()
    points = None
    if plan.points is not None:
        points = plan.chart.tau(plan.points.double()).numpy()
    common: dict[str, Any] = {
        "method": plan.sampler.method,
        "rtol": plan.rtol,
        "atol": plan.atol,
        "grid": grid,
        "controller": plan.controller if plan.controls else None,
        "breaks": dynamics.breaks,
        # Errors in x need no weight, and the backends know of none.
        "weight": dynamics.weight if grid is None and plan.chart.scale != "x" else None,
        "max_evaluations": plan.max_evaluations,
        "args": args,
        "trajectory": points,
        "on_failure": "return",
    }
    if isinstance(dynamics, ReverseSDE):
        return sdeint(
            watched(dynamics.drift), dynamics.diffusion, u0, dynamics.tau0, dynamics.tau1,
            seeds=seeds, **common,
        )  # fmt: skip
    if plan.sampler.multistep:
        falling = plan.t_end < plan.t_start
        measure = chart_measure(plan.chart, plan.sampler.interpolate, falling)
        return odeint(
            watched(dynamics.prediction), u0, dynamics.tau0, dynamics.tau1, measure=measure,
            **common,
        )  # fmt: skip
    return odeint(watched(dynamics), u0, dynamics.tau0, dynamics.tau1, **common)


@torch.no_grad()
def _denoise(plan: Plan, out: Samples, labels: Tensor | None, batch_size: int | None) -> None:
    """x becomes E[x_0 | x] at the time each sample reached; one more evaluation, counted."""
    for rows, _ in batches(len(out.x), batch_size, None, out.x.shape[1:]):
        label = None if labels is None else labels[rows]
        out.x[rows] = plan.denoiser.data(out.x[rows], torch.from_numpy(out.t[rows]), label)
        out.log.calls += 1
    out.log.evaluations += 1
