r"""What the network is told about time: the condition c(t).

Two clocks are kept apart. Solver time t says where the process is; condition time c = c(t) is
what enters the network's embedding. Only c is changed here; alpha, sigma and the integration
never see it.

    base.py      t itself, the noise level, or nothing
    smooth.py    c'(0) = 0 without jumps
    etsdm.py     c constant in each sub-interval near 0 (E-TSDM), and the noise level itself shared
    tables.py    edges and measured steepness, read from files
"""

from __future__ import annotations

from collections.abc import Callable

from ..sde import SDE
from .base import EDM, Conditioning, LogSNR, NoTime, Sigma, Time
from .etsdm import ETSDM, SharedNoise, default_threshold
from .smooth import EqualisedTime, SmoothTime, make_smooth
from .tables import read_edges, read_steepness

__all__ = [
    "EDM",
    "ETSDM",
    "Conditioning",
    "EqualisedTime",
    "LogSNR",
    "NoTime",
    "SharedNoise",
    "Sigma",
    "SmoothTime",
    "Time",
    "default_threshold",
    "make_conditioning",
    "make_smooth",
    "read_edges",
    "read_steepness",
]


def make_conditioning(
    sde: SDE,
    condition: str = "time",
    smooth_scale: float = 0.1,
    smooth_shape: str = "hyperbola",
    etsdm: bool = False,
    etsdm_threshold: float | None = None,
    etsdm_intervals: int = 5,
    etsdm_edges: str = "time",
    etsdm_at: str = "left",
    shared_noise: bool = False,
    t_min: float = 1e-5,
) -> Conditioning:
    """A conditioning from plain settings, as the command line has them.

    `shared_noise` shares the noise level in the intervals of E-TSDM, the first level at t_min.

    `condition` is one of time, smooth, log-snr, sigma, edm, none; `smooth_shape` is hyperbola,
    power:P, the path of a JSON file of measured steepness, or a JSON list of pairs; `etsdm_edges`
    is time, sigma, log-snr, log-snr:FIRST (the first edge in t), the path of a JSON file of edges,
    or a JSON list.
    """
    made: dict[str, Callable[[], Conditioning]] = {
        "time": Time,
        "smooth": lambda: make_smooth(smooth_shape, smooth_scale),
        "log-snr": lambda: LogSNR(sde),
        "sigma": lambda: Sigma(sde),
        "edm": lambda: EDM(sde),
        "none": NoTime,
    }
    if condition not in made:
        raise ValueError(f"condition={condition!r}: choose one of {', '.join(made)}")
    of = made[condition]()
    if not (etsdm or shared_noise):
        return of
    edges: str | list[float] = etsdm_edges
    first = None
    if etsdm_edges.startswith("log-snr:"):
        edges, _, given = etsdm_edges.partition(":")
        try:
            first = float(given)
        except ValueError:
            raise ValueError(f"etsdm_edges={etsdm_edges!r}: {given!r} is not a time") from None
    elif etsdm_edges not in ("time", "sigma", "log-snr"):
        edges = read_edges(etsdm_edges)
    settings = (etsdm_threshold, etsdm_intervals, edges, etsdm_at, of, first)
    return SharedNoise(sde, *settings, t_min) if shared_noise else ETSDM(sde, *settings)
