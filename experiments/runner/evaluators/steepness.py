"""How steep the noise prediction is in time, by the instrument of the library, in few numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sdeflow.instruments.lipschitz import lipschitz_study, time_grid

from .measured import Measured

__all__ = ["lipschitz"]

STEP = 1e-3  # of the paper's K(t, t + 1/1000)
SMALL = 1e-12  # of a logarithm's argument


def lipschitz(
    of: Measured, *, count: int, points: int = 33, t_min: float | None = None, discrete: int = 120
) -> dict[str, Any]:
    """K(t, t + 1/1000) and E||d eps/dt|| over times, jumps apart.

    Args:
        of: the model.
        count: samples at each time.
        points: times from t_min to 1 in equal ratios.
        t_min: smallest time; where the training began by default.
        discrete: K(k/1000, (k + 1)/1000) for k = 1 to so many, the paper's own measure.

    Returns:
        t, sigma, log_snr, total, condition and step (with crosses) along the curve; discrete_t,
        discrete_k and discrete_crosses; jump_t and jump; and, in single numbers,

            k_0.001, k_0.01, k_0.1      K(t), the derivative's mean there is d_...
            growth                      log(E||d eps/dt|| at 1e-3 / at 0.1)
            early_mean, early_max       of K over the paper's first 100 steps, jumps included
            inside_max                  the same without pairs that straddle a jump
            largest_jump, largest_k     the largest E||jump||, and the largest K of all
    """
    sde, seed = of.model.sde, of.subject.seed
    last = 1.0 if sde.has_signal_at(1.0) else 0.999
    least = of.subject.config.t_min if t_min is None else t_min
    times = np.unique(np.concatenate([time_grid(least, last, points), [1e-3, 1e-2, 1e-1]]))
    common: dict[str, Any] = {
        "steps": (STEP,),
        "measure": ("noise",),
        "label": of.data.heldout_labels if of.subject.config.class_condition else None,
        "count": count,
        "seed": seed,
    }
    study = lipschitz_study(of.model, of.probes(), times, **common)
    ladder = np.arange(1, discrete + 1) / 1000
    steps = lipschitz_study(of.model, of.probes(), ladder, derivative=False, **common).curve
    rows = {q: [r for r in study.curve if r["quantity"] == q] for q in ("total", "condition")}
    difference = {r["t"]: r for r in study.curve if r["quantity"] == "step"}
    total = {r["t"]: r["mean"] for r in rows["total"]}
    early = [r for r in steps if r["t"] < 0.0995]
    inside = [r["mean"] for r in early if not r["crosses"]]
    found: dict[str, Any] = {
        "t": [r["t"] for r in rows["total"]],
        "sigma": [r["sigma"] for r in rows["total"]],
        "log_snr": [r["log_snr"] for r in rows["total"]],
        "total": [r["mean"] for r in rows["total"]],
        "condition": [r["mean"] for r in rows["condition"]] or None,
        "step": [difference[t]["mean"] if t in difference else None for t in total],
        "crosses": [difference[t]["crosses"] if t in difference else None for t in total],
        "discrete_t": [r["t"] for r in steps],
        "discrete_k": [r["mean"] for r in steps],
        "discrete_crosses": [r["crosses"] for r in steps],
        "jump_t": [j["t"] for j in study.jumps],
        "jump": [j["mean"] for j in study.jumps],
    }
    for t in (1e-3, 1e-2, 1e-1):
        found[f"k_{t:g}"], found[f"d_{t:g}"] = difference[t]["mean"], total[t]
    largest = max((j["mean"] for j in study.jumps), default=0.0)
    return found | {
        "growth": math.log(max(total[1e-3], SMALL) / max(total[1e-1], SMALL)),
        "early_mean": float(np.mean([r["mean"] for r in early])),
        "early_max": max(r["mean"] for r in early),
        "inside_max": max(inside, default=0.0),
        "largest_jump": largest,
        "largest_k": max(largest / STEP, *(r["mean"] for r in difference.values()), *inside),
    }
