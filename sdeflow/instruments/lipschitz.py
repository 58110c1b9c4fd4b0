r"""How steep a model is: in time, where the singularity is, and in x.

With x drawn at time t, for each of the four predictions,

    K(t, t')     E_x ||pred(x, t) - pred(x, t')|| / |t - t'|   the paper's; K(t): t' = t + 1/1000
    total        E_x ||d pred/dt (x, t)||                      its limit for t' -> t
    condition    the same, through the condition alone         what E-TSDM makes 0
    jump         E_x ||pred(x, t_i) - pred(x, t_i -)||         at a break t_i of the condition
    in x, curvature                                            see `sdeflow.instruments.space`

A rate in t is one in sigma or in log-SNR after division by |d sigma/dt| or |d lambda/dt|. Where
the condition jumps a derivative does not see it and K(t, t') divides it by the step, so jumps are
kept apart, and pairs that straddle one are marked.

Errors are standard errors over the drawn x. All times see the same noise, so curves are smooth
and neighbouring points are correlated; `singular_exponent` takes account of that.

Source: Yang et al., ICLR 2024, arXiv 2306.11251.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..denoiser import PREDICTIONS, Predictor
from ..modes import evaluated
from .derivative import differentiable, predictions, time_derivative
from .power_law import Exponent, fit_exponent
from .probe import Probe, place, statistics
from .space import curvature, largest_singular_value, norms_of

__all__ = [
    "LipschitzStudy",
    "lipschitz_study",
    "singular_exponent",
    "time_grid",
]

Array = NDArray[np.float64]
Progress = Callable[[float], None]
OF_SPACE = ("in x", "curvature")  # quantities that are no rates in time
JUMP_STEP = 1e-3  # the step that K is usually quoted with


@dataclass(frozen=True)
class LipschitzStudy:
    """What was measured.

    Attributes:
        curve: a row per prediction, quantity and time, with keys prediction, quantity (total,
            condition, step, in x or curvature), t, step, sigma, log_snr, crosses (whether
            t' lies beyond a jump), mean, error, median, maximum, per_sigma, per_log_snr (the mean
            as a rate in sigma and in log-SNR; None where it is no rate).
        jumps: a row per prediction and break, with keys prediction, t, sigma, log_snr, mean,
            error, median, maximum, per_step, the mean divided by 1/1000: K(t, t') across it, and
            per_sigma and per_log_snr, that as a rate in sigma and in log-SNR.
        settings: samples, seed and dtype of the measurement.
    """

    curve: list[dict[str, Any]]
    jumps: list[dict[str, Any]]
    settings: dict[str, Any]

    def summary(self) -> list[dict[str, Any]]:
        """A row per prediction and quantity: over times, mean, median and maximum of E_x.

        Pairs of times that straddle a jump are left out; the largest jump stands beside.
        """
        rows = []
        keys = dict.fromkeys((r["prediction"], r["quantity"], r["step"]) for r in self.curve)
        order = list(dict.fromkeys(prediction for prediction, _, _ in keys))
        for prediction, quantity, step in sorted(keys, key=lambda key: order.index(key[0])):
            mine = [
                r
                for r in self.curve
                if (r["prediction"], r["quantity"], r["step"]) == (prediction, quantity, step)
                and not r["crosses"]
            ]
            jumps = [j["mean"] for j in self.jumps if j["prediction"] == prediction]
            if quantity in OF_SPACE:
                jumps = []
            means = np.array([r["mean"] for r in mine])
            at = int(means.argmax()) if len(mine) else None
            rows.append(
                {
                    "prediction": prediction,
                    "quantity": quantity,
                    "step": step,
                    "mean": None if at is None else float(means.mean()),
                    "median": None if at is None else float(np.median(means)),
                    "maximum": None if at is None else float(means[at]),
                    "maximum_at": None if at is None else mine[at]["t"],
                    "jumps": len(jumps),
                    "largest_jump": max(jumps, default=None),
                }
            )
        return rows


def time_grid(low: float, high: float, points: int) -> Array:
    """Times from low to high in equal ratios.

    Raises:
        ValueError: not 0 < low < high <= 1, or fewer than two points.
    """
    if not 0 < low < high <= 1:
        raise ValueError(f"t_min={low}, t_max={high}: need 0 < t_min < t_max <= 1")
    if points < 2:
        raise ValueError(f"points={points}: need at least 2 times")
    return np.geomspace(low, high, points)


@evaluated
def lipschitz_study(
    model: Predictor,
    x_0: Tensor | None = None,
    times: Sequence[float] | Array | None = None,
    *,
    steps: Sequence[float] = (1e-3,),
    measure: Sequence[str] = PREDICTIONS,
    derivative: bool = True,
    in_x: bool = False,
    label: Tensor | None = None,
    count: int = 256,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> LipschitzStudy:
    """Measure how steep a model is.

    Measured without autocast, in float32 or better whatever the model was trained in.

    Args:
        model: a `Denoiser`, on any device, or an oracle.
        x_0: data, (N, ...); an oracle draws its own.
        times: where to measure, in (0, 1]; by default 41 times from 1e-5 to 1, or to 0.999 where
            no signal is left at 1.
        steps: differences t' - t of the finite quotient K; pairs beyond t = 1 are left out, and
            those that end there where no signal is left.
        measure: predictions to measure, out of `sdeflow.denoiser.PREDICTIONS`.
        derivative: whether to take the exact derivative, too.
        in_x: whether to measure the largest singular value of d pred/dx and the curvature of the
            flow, too: some tens of passes of the network each.
        label: classes of x_0, (N,), or None.
        count: how many x at each time.
        batch_size: how many at once.
        seed: of the noise, and of which x_0.
        progress: called with the share done.

    Raises:
        ValueError: times, steps, predictions or a count that cannot be; no x_0; a network that
            cannot be differentiated.
    """
    sde = model.sde
    if times is None:
        times = time_grid(1e-5, 1.0 if sde.has_signal_at(1.0) else 0.999, 41)
    times = np.asarray(times, dtype=np.float64)
    if not len(times) or not ((times > 0) & (times <= 1)).all():
        raise ValueError(f"times={times.tolist()}: need times in (0, 1]")
    if not all(0 < step < 1 for step in steps):
        raise ValueError(f"steps={list(steps)}: each must lie in (0, 1), e.g. 0.001")
    unknown = [name for name in measure if name not in PREDICTIONS]
    if unknown or not measure:
        raise ValueError(f"measure={list(measure)}: choose from {', '.join(PREDICTIONS)}")
    probe = Probe(model, x_0, label, count, batch_size, seed)
    breaks = [b for b in model.breaks if times.min() <= b <= times.max()]
    curve: list[dict[str, Any]] = []
    jumps: list[dict[str, Any]] = []
    # Where no signal is left log-SNR is infinite, and with it what may be measured or told.
    last = 1.0 if sde.has_signal_at(1.0) else math.nextafter(1.0, 0.0)
    for i, t in enumerate(times.tolist()):
        ends = [(step, t + step) for step in steps if t + step <= last]
        norms = _norms(probe, t, [end for _, end in ends], measure, derivative, in_x)
        for (prediction, quantity, end), values in norms.items():
            step = None if end is None else end - t
            crosses = end is not None and any(t < b <= end for b in model.breaks)
            wanted = next((s for s, e in ends if e == end), None)
            found = statistics(values if step is None else values / step)
            rates = _rates(probe.model, t, end, quantity, found["mean"])
            row = {"prediction": prediction, "quantity": quantity, **place(probe.model, t)}
            curve.append({**row, "step": wanted, "crosses": crosses, **found, **rates})
        if progress:
            progress((i + 1) / (len(times) + len(breaks)))
    for i, t in enumerate(breaks):
        before = math.nextafter(t, 0.0)
        norms = _norms(probe, t, [before], measure, False, False)
        for (prediction, _, _), values in norms.items():
            found = statistics(values)
            where = {"prediction": prediction, **place(probe.model, t)}
            per_step = found["mean"] / JUMP_STEP
            rates = _rates(probe.model, t, None, "jump", per_step)
            jumps.append({**where, **found, "per_step": per_step, **rates})
        if progress:
            progress((len(times) + i + 1) / (len(times) + len(breaks)))
    settings = {"count": count, "seed": seed, "dtype": str(probe.dtype).removeprefix("torch.")}
    return LipschitzStudy(curve, jumps, settings)


def _norms(
    probe: Probe,
    t: float,
    ends: Sequence[float],
    measure: Sequence[str],
    derivative: bool,
    in_x: bool,
) -> dict[tuple[str, str, float | None], Array]:
    """Norms over samples, (count,), by prediction, quantity and, for differences, t'."""
    parts: dict[tuple[str, str, float | None], list[Tensor]] = {}

    def put(prediction: str, quantity: str, end: float | None, norms: Tensor) -> None:
        parts.setdefault((prediction, quantity, end), []).append(norms)

    for x, time, label in probe.batches(t):
        if derivative:
            for name, slope in time_derivative(probe.model, x, time, measure, label).items():
                put(name, "total", None, norms_of(slope.total))
                if slope.condition is not None:
                    put(name, "condition", None, norms_of(slope.condition))
        if ends:
            with torch.no_grad(), differentiable(x.device):
                here = predictions(probe.model, x, time, measure, label)
                for end in ends:
                    later = torch.full_like(time, end)
                    there = predictions(probe.model, x, later, measure, label)
                    for name in measure:
                        put(name, "step", end, norms_of(here[name] - there[name]))
        if in_x:
            for name in measure:
                steepest = largest_singular_value(probe.model, x, time, name, label)
                put(name, "in x", None, steepest)
            put("noise", "curvature", None, curvature(probe.model, x, time, label))
    return {key: torch.cat(norms).cpu().double().numpy() for key, norms in parts.items()}


def _rates(
    model: Predictor, t: float, end: float | None, quantity: str, mean: float
) -> dict[str, float | None]:
    """A rate in time as one in sigma and in log-SNR."""
    if quantity in OF_SPACE:
        return {"per_sigma": None, "per_log_snr": None}
    sde = model.sde
    if end is None:
        sigma, log_snr = float(sde.sigma_dot(t)), float(sde.log_snr_dot(t))
    else:
        sigma = float(sde.sigma(end) - sde.sigma(t)) / (end - t)
        log_snr = float(sde.log_snr(end) - sde.log_snr(t)) / (end - t)
    return {
        "per_sigma": mean / abs(sigma) if sigma else None,
        "per_log_snr": mean / abs(log_snr) if log_snr else None,
    }


@evaluated
def singular_exponent(
    model: Predictor,
    x_0: Tensor | None = None,
    *,
    wanted: str = "noise",
    low: float = 1e-8,
    high: float = 1e-5,
    points: int = 13,
    count: int = 256,
    batch_size: int = 256,
    seed: int = 0,
) -> Exponent:
    """The power of t with which E||d pred/dt|| grows between two times near 0.

    Raises:
        ValueError: as `lipschitz_study`; or the derivative vanishes there, so that there is none.
    """
    probe = Probe(model, x_0, None, count, batch_size, seed)
    times = time_grid(low, high, points)
    norms = [_norms(probe, t, (), (wanted,), True, False)[wanted, "total", None] for t in times]
    return fit_exponent(times, np.stack(norms))
