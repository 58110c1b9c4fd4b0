r"""Time grids: t_max = t_0 > t_1 > ... > t_N = t_min, exactly at both ends.

* a clock's name: equal steps in that clock (`sdeflow.chart.CLOCKS`), for example log-snr;
* karras or karras:RHO: rho_i^(1/RHO) equally spaced in i, rho the noise-to-signal ratio
  (Karras et al. 2022, arXiv 2206.00364; RHO = 7);
* numbers separated by commas: the times themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chart import CLOCKS, Chart
from .sde import SDE

__all__ = ["time_grid"]


def time_grid(spec: str, sde: SDE, steps: int, t_max: float, t_min: float) -> Tensor:
    """Times of a fixed grid.

    Args:
        spec: a clock, karras[:RHO], or explicit times from t_max down to t_min.
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
            f"grid={spec!r}: choose a clock ({', '.join(CLOCKS)}), karras[:RHO], or write the "
            "times, separated by commas"
        )
    times[0], times[-1] = ends
    if not bool((times.diff() < 0).all()):
        raise ValueError(
            f"grid={spec!r}: the times must fall from t_max to t_min; fewer steps, or another grid"
        )
    return times


def _number(text: str, spec: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"grid={spec!r}: {text!r} is not a number") from None
