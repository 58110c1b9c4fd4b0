r"""Time grids: t_max = t_0 > t_1 > ... > t_N = t_min, exactly at both ends.

* a clock's name: equal steps in that clock (`sdeflow.chart.CLOCKS`), for example log-snr;
* karras or karras:RHO: rho_i^(1/RHO) equally spaced in i, rho the noise-to-signal ratio
  (Karras et al. 2022, arXiv 2206.00364; RHO = 7);
* power:P: t^(1/P) equally spaced (P = 2: the quadratic grid of Song et al. 2021,
  arXiv 2010.02502);
* tuned: steps in log-SNR from a table of densities, see `TUNED`;
* numbers separated by commas: the times themselves.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .chart import CLOCKS, Chart
from .sde import SDE

__all__ = ["TUNED", "time_grid"]

TUNED = {
    -5.0: -3.81, -3.5: -3.56, -2.0: -3.01, -1.0: -0.64, 0.0: -0.43,
    1.0: -0.42, 2.0: -0.09, 3.5: -0.96, 5.0: -1.08, 7.0: -0.91,
}  # fmt: skip
"""Logarithm of the density of steps over log-SNR, up to a constant, linear between the knots."""

# Part of the steps is spread evenly over the log-SNR below this edge, where exact models are
# nearly Gaussian and need none, but networks do: a few, whatever the number of steps.
_EDGE, _SOFTNESS, _FEW, _SHARE = 1.65, 0.22, 3.22, 0.09


def time_grid(spec: str, sde: SDE, steps: int, t_max: float, t_min: float) -> Tensor:
    """Times of a fixed grid.

    Args:
        spec: a clock, karras[:RHO], power:P, tuned, or explicit times from t_max down to t_min.
        sde: the forward process.
        steps: number of steps N; explicit times bring their own.
        t_max: where sampling starts.
        t_min: where it ends.

    Returns:
        (N + 1,) float64, strictly decreasing.

    Raises:
        ValueError: unknown spec, N < 1, times that do not decrease from t_max to t_min, or a
            clock that is infinite on the way.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: need at least 1 step")
    ends = torch.tensor([t_max, t_min], dtype=torch.float64)
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    name, _, given = spec.partition(":")
    if name in CLOCKS and not given:
        chart = Chart(sde, "x", name)
        chart.check(t_min, t_max)
        tau = chart.tau(ends)
        times = chart.time(tau[0] + (tau[1] - tau[0]) * share)
    elif name == "karras":
        power = _number(given, spec) if given else 7.0
        if power <= 0:
            raise ValueError(f"grid={spec!r}: the power must be positive; 7 is usual")
        root = torch.exp(-sde.log_snr(ends) / power)
        if not bool(torch.isfinite(root).all()):
            raise ValueError(
                f"grid={spec!r}: sigma/alpha is infinite at t = {t_max:g}; lower t_max"
            )
        times = sde.time_of_log_snr(-power * torch.log(root[0] + (root[1] - root[0]) * share))
    elif name == "power" and given:
        power = _number(given, spec)
        if power <= 0:
            raise ValueError(f"grid={spec!r}: the power must be positive; 2 is usual")
        root = ends ** (1 / power)
        times = (root[0] + (root[1] - root[0]) * share) ** power
    elif spec == "tuned":
        low, high = sde.log_snr(ends).tolist()
        if not np.isfinite([low, high]).all():
            raise ValueError(f"grid={spec!r}: log-SNR is infinite at t = {t_max:g}; lower t_max")
        times = sde.time_of_log_snr(torch.from_numpy(_tuned(low, high, steps)))
    elif "," in spec:
        times = torch.tensor(
            [_number(part, spec) for part in spec.split(",")], dtype=torch.float64
        )
        if not (times[0] == t_max and times[-1] == t_min):
            raise ValueError(
                f"grid={spec!r}: must run from t_max={t_max:g} to t_min={t_min:g}; set those too"
            )
    else:
        raise ValueError(
            f"grid={spec!r}: choose a clock ({', '.join(CLOCKS)}), karras[:RHO], power:P, "
            "tuned, or write the times, separated by commas"
        )
    times[0], times[-1] = ends
    if not bool((times.diff() < 0).all()):
        raise ValueError(
            f"grid={spec!r}: the times must fall from t_max to t_min; fewer steps, or another grid"
        )
    return times


def _tuned(low: float, high: float, steps: int) -> np.ndarray:
    """Log-SNRs of the tuned grid between two, (steps + 1,)."""
    mesh = np.linspace(low, high, 2001)
    width = (high - low) / (len(mesh) - 1)
    bulk = np.exp(np.interp(mesh, list(TUNED), list(TUNED.values())))
    early = 1 / (1 + np.exp((mesh - _EDGE) / _SOFTNESS))
    bulk, covered = bulk / (bulk.sum() * width), early.sum() * width
    # In full where the log-SNR begins at -5, as that of the linear schedule does.
    few = min((_FEW + _SHARE * steps) * covered / (_EDGE + 5.0), 0.6 * steps)
    density = (steps - few) * bulk + few * early / covered
    passed = np.append(0.0, np.cumsum(0.5 * width * (density[1:] + density[:-1])))
    return np.interp(np.linspace(0, passed[-1], steps + 1), passed, mesh)


def _number(text: str, spec: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"grid={spec!r}: {text!r} is not a number") from None
