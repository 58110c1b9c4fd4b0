r"""What adaptive solvers do on a model: evaluations, rejections, smallest steps and where.

A variant is a solver, a chart, a tolerance, a control of the step and an end time; its ID is

    SOLVER CHART TOLERANCE T_MIN CONTROL [blind]

where `blind` says that the solver was not told where the condition jumps. Solvers stop exactly at
t_min and at the jumps they are told, and cut steps short for that. Models are compared by the
steps that cross some times, whatever cut them. The smallest ones are told beside where they begin,
without those that were cut or begun above t = 0.5, where steps still grow from the first guess.

`noise_steps` is the control: a "network" that answers one fixed noise at all x and t, so that all
that is left of the flow's difficulty is that of its coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdeflow.denoiser import Predictor
from sdeflow.instruments.step_causes import ConstantNoise
from sdeflow.instruments.step_sizes import Setting, step_study
from sdeflow.samples import Samples

from ..spec import SEEDS
from .measured import Measured

__all__ = ["noise_steps", "steps"]

CHARTS = ("x/time", "x/log-snr", "x/alpha/noise-ratio")
TOLERANCES = (1e-2, 1e-3, 1e-4)
ENDS = (1e-3, 1e-4, 1e-5)
KEPT = 8  # samples of which every attempt is kept
SETTLED = 0.5  # time from which on steps have forgotten the first guess
CROSSED = (0.1, 0.01)  # times at which steps are compared
REFERENCE = 0.1  # tolerance of the solution that errors are measured against, over the finest


def identity(setting: Setting, t_min: float) -> str:
    """The ID of a variant."""
    blind = " blind" if setting.breaks is False else ""
    chart, tolerance = setting.chart or "own", setting.tolerance or 0.0
    return f"{setting.solver} {chart} {tolerance:g} {t_min:g} {setting.controller}{blind}"


def variants(jumps: bool, few: bool) -> dict[float, list[Setting]]:
    """What is run, by end time; blind variants only where there are jumps to be blind to."""
    told = (True, False) if jumps else (True,)
    found: dict[float, list[Setting]] = {end: [] for end in (ENDS[:1] if few else ENDS)}
    for b in told:
        for chart in CHARTS[:1] if few else CHARTS:
            for tolerance in TOLERANCES[:1] if few else TOLERANCES:
                found[1e-3].append(Setting("dopri5", chart, tolerance, breaks=b))
            for end in ENDS[1:]:
                if end in found:
                    found[end].append(Setting("dopri5", chart, 1e-3, breaks=b))
        if few:
            continue
        for chart in CHARTS[:2]:
            for controller in ("i", "pid"):
                found[1e-3].append(Setting("dopri5", chart, 1e-3, controller=controller, breaks=b))
            for tolerance in (5e-2, 2e-2):
                found[1e-3].append(Setting("stochastic-heun", chart, tolerance, breaks=b))
        for solver in ("bosh3", "tsit5", "adams"):
            found[1e-3].append(Setting(solver, None, 1e-3, breaks=b))
    return found


def steps(of: Measured, *, count: int, few: bool = False) -> dict[str, Any]:
    """Run the variants on a model.

    Returns:
        For each ID: evaluations, rejected and accepted (means over samples), rejected_early (the
        share of rejections at t < 0.1), smallest (median over samples of the smallest step in
        time), smallest_at (where), crossing_T (of the step that crosses t = T), error (RMS
        against a tight solution; to t = 1e-3, none for SDEs), failed;
        as keys "NAME ID". ids; edges: the jumps; and, for the first seed, attempts: by ID, of some
        samples.
    """
    return _all(of.model, of, variants(bool(of.model.breaks), few), count)


def noise_steps(of: Measured, *, count: int, few: bool = False) -> dict[str, Any]:
    """The same numbers as `steps` for a constant noise, the start of each sample."""
    usual = {
        end: [s for s in settings if s.solver == "dopri5" and s.controller == "pi"]
        for end, settings in variants(False, few).items()
    }
    last = 1.0 if of.model.sde.has_signal_at(1.0) else 0.999
    constant = ConstantNoise.of_starts(of.model.sde, of.shape, count, of.subject.seed, last)
    return _all(constant, of, usual, count, torch.arange(count))


def _all(
    model: Predictor,
    of: Measured,
    runs: Mapping[float, Sequence[Setting]],
    count: int,
    label: Tensor | None = None,
) -> dict[str, Any]:
    """The settings of each end time on a model, in numbers."""
    found: dict[str, Any] = {"ids": [], "edges": list(model.breaks)}
    attempts: dict[str, Any] = {}
    for end, settings in runs.items():
        # A tight solution of a rough network costs more than all runs: one is enough.
        tight, finest = end == ENDS[0], min(s.tolerance or 1e-3 for s in settings)
        study = step_study(
            model,
            settings,
            of.shape,
            count=count,
            seed=of.subject.seed,
            t_min=end,
            label=label,
            reference_tolerance=REFERENCE * finest if tight else finest,
        )
        for setting, outcome in zip(settings, study.outcomes, strict=True):
            name = identity(setting, end)
            found["ids"].append(name)
            error = outcome.error if tight else None
            found |= _numbers(name, outcome.samples, end, model.breaks, error)
            if of.subject.seed == SEEDS[0] and _drawn(setting):
                attempts[name] = _attempts(outcome.samples)
    return {**found, "attempts": attempts}


def _drawn(setting: Setting) -> bool:
    """Whether the figure shows this one in every detail."""
    usual = setting.controller == "pi" and setting.tolerance in (1e-3, 5e-2)
    return usual and setting.solver in ("dopri5", "stochastic-heun")


def _numbers(
    name: str, samples: Samples, end: float, breaks: tuple[float, ...], error: float | None
) -> dict[str, float]:
    """The single numbers of one variant."""
    log = samples.log.columns()
    good = np.asarray(log["accepted"], dtype=bool)
    begin, stop = np.asarray(log["time"]), np.asarray(log["time_end"])
    size, sample = np.abs(stop - begin), np.asarray(log["sample"])
    count = len(samples.x)
    # Cut short: the step ends where the solver had to stop.
    ends = np.array([end, *(breaks if samples.settings["breaks"] else ())])
    cut = np.isclose(stop[:, None], ends, rtol=1e-9, atol=0.0).any(1)
    free = good & ~cut & (begin < SETTLED)
    smallest, where = [], []
    for number in range(count):
        mine = np.flatnonzero((sample == number) & free)
        if len(mine):
            smallest.append(size[mine].min())
            where.append(begin[mine][size[mine].argmin()])
    crossing = {t: size[good & (stop <= t) & (t < begin)] for t in CROSSED}
    rejected = int((~good).sum())
    found = {
        "evaluations": float(samples.log.evaluations.mean()),
        "accepted": float(good.sum()) / count,
        "rejected": rejected / count,
        "rejected_early": float((begin[~good] < 0.1).mean()) if rejected else 0.0,
        "smallest": float(np.median(smallest)) if smallest else math.nan,
        "smallest_at": float(np.median(where)) if where else math.nan,
        "failed": float((~samples.ok).mean()),
        **{f"crossing_{t:g}": float(np.median(v)) for t, v in crossing.items() if len(v)},
    }
    if error is not None:
        found["error"] = error
    return {f"{key} {name}": value for key, value in found.items() if math.isfinite(value)}


def _attempts(samples: Samples) -> dict[str, list[Any]]:
    """Every attempt of the first samples."""
    log = samples.log.columns()
    mine = np.flatnonzero(np.asarray(log["sample"]) < KEPT)
    return {
        "sample": np.asarray(log["sample"])[mine].tolist(),
        "time": np.asarray(log["time"])[mine].tolist(),
        "time_end": np.asarray(log["time_end"])[mine].tolist(),
        "accepted": np.asarray(log["accepted"])[mine].astype(int).tolist(),
    }
