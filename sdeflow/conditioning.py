r"""What the network is told about time: the condition c(t).

Two clocks are kept apart. Solver time t says where the process is; condition time c = c(t) is
what enters the network's embedding. Only c is changed here; alpha, sigma and the integration
never see it.

E-TSDM (Yang et al., ICLR 2024, arXiv 2306.11251) shares the condition near t = 0:

    f_T(t) = t_{i-1}  for t in [t_{i-1}, t_i),   0 = t_0 < t_1 < ... < t_n = threshold
    f_T(t) = t        for t >= threshold

so dc/dt = 0 inside a sub-interval and c jumps at the edges, which `breaks` lists for the solvers.
No tolerance is used at the edges: t just below an edge is below it.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .files import read_bytes
from .sde import SDE, VP

__all__ = [
    "EDM",
    "ETSDM",
    "Conditioning",
    "LogSNR",
    "NoTime",
    "SharedNoise",
    "Sigma",
    "SmoothTime",
    "Time",
    "default_threshold",
    "make_conditioning",
    "read_edges",
]


class Conditioning(ABC):
    """c = c(t), float64 (B,) to float64 (B,).

    Attributes:
        breaks: the times at which c jumps (or has a kink), ascending, inside (0, 1).
        span: size of the range c covers over a run, in c's own unit; the embedding of a network
            divides by it so that every condition meets the same frequencies.
        quantised: whether the model knows some noise levels only: those of `visited`.
    """

    breaks: tuple[float, ...] = ()
    span: float = 1.0
    quantised: bool = False

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """The condition at times t."""

    def visited(self, t: Tensor) -> Tensor:
        """The times at which the process itself is to be instead of t: t, unless `quantised`."""
        return t

    def __repr__(self) -> str:
        return type(self).__name__


class Time(Conditioning):
    """c = t."""

    def __call__(self, t: Tensor) -> Tensor:
        return t


class SmoothTime(Conditioning):
    """c = sqrt(t^2 + s^2) - s, written t^2 / (sqrt(t^2 + s^2) + s): c'(0) = 0, no jumps.

    About t - s far from 0. The derivative of a network through its condition, (dF/dc) c'(t),
    goes to 0 with t as long as dF/dc stays bounded.

    Args:
        s: time scale of the smoothing, in units of t.
    """

    def __init__(self, s: float = 0.1) -> None:
        if not 0 < s < math.inf:
            raise ValueError(f"smooth_scale={s}: need a positive time scale, e.g. 0.1")
        self.s = s

    def __call__(self, t: Tensor) -> Tensor:
        return t * t / (torch.sqrt(t * t + self.s**2) + self.s)

    def __repr__(self) -> str:
        return f"SmoothTime(s={self.s:g})"


class _OfNoise(Conditioning):
    """A condition that is a function of the noise level."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde


class LogSNR(_OfNoise):
    """c = lambda(t) = log(alpha/sigma)."""

    span = 20.0

    def __call__(self, t: Tensor) -> Tensor:
        return self.sde.log_snr(t)


class Sigma(_OfNoise):
    """c = sigma(t)."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde)
        self.span = float(sde.sigma(1.0))

    def __call__(self, t: Tensor) -> Tensor:
        return self.sde.sigma(t)


class EDM(_OfNoise):
    """c = ln(sigma/alpha) / 4, the condition of Karras et al. 2022 (arXiv 2206.00364)."""

    span = 5.0

    def __call__(self, t: Tensor) -> Tensor:
        return -self.sde.log_snr(t) / 4


class NoTime(Conditioning):
    """c = 0: the network is told nothing, E-TSDM's limit."""

    def __call__(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


def default_threshold(sde: SDE) -> float:
    """The time at which the log-SNR equals that of linear VP at t = 0.1, the paper's threshold."""
    # To 12 digits, so that linear VP itself gets 0.1 and not its neighbour.
    return float(f"{float(sde.time_of_log_snr(VP().log_snr(0.1))):.12g}")


class ETSDM(Conditioning):
    """Early timestep-shared conditioning around another one: c = of(f_T(t)).

    Args:
        sde: the process; its log-SNR sets the default threshold and the edges in sigma or log-SNR.
        threshold: time below which the condition is shared, in (0, 1); None for
            `default_threshold(sde)` (0.1 for linear VP).
        intervals: number of sub-intervals of [0, threshold).
        edges: where the sub-intervals end: equal in "time", in "sigma", or in "log-snr" (the
            first edge is then given, since log-SNR is infinite at 0); or the edges
            t_1 < ... < t_n themselves, which set threshold and intervals too.
        at: which point of a sub-interval the network is told: its left end (the paper), its
            middle in t, or its right end.
        of: the conditioning that is shared, `Time()` by default.
        first_edge: first edge of "log-snr", in t; threshold / 100 by default.
        least: smallest time that is told, below the first edge; 0 tells the left end itself.

    Raises:
        ValueError: an argument out of range, or a shared condition that would be infinite.
    """

    def __init__(
        self,
        sde: SDE,
        threshold: float | None = None,
        intervals: int = 5,
        edges: str | Sequence[float] = "time",
        at: str = "left",
        of: Conditioning | None = None,
        first_edge: float | None = None,
        least: float = 0.0,
    ) -> None:
        if isinstance(edges, str):
            threshold = default_threshold(sde) if threshold is None else threshold
            if not 0 < threshold < 1:
                raise ValueError(f"threshold={threshold}: must be a time inside (0, 1), e.g. 0.1")
            if intervals < 1:
                raise ValueError(f"intervals={intervals}: need at least 1 sub-interval")
            points = _edges(sde, threshold, intervals, edges, first_edge)
        else:
            points = [float(edge) for edge in edges]
            if threshold is not None and points and threshold != points[-1]:
                raise ValueError(
                    f"threshold={threshold} with explicit edges ending at {points[-1]}: "
                    "the last edge is the threshold; leave threshold out"
                )
        ascending = all(a < b for a, b in zip([0.0, *points], points, strict=False))
        if not (points and ascending and points[-1] < 1):
            raise ValueError(
                f"edges={points}: need 0 < t_1 < ... < t_n < 1; fewer intervals or other edges"
            )
        self.of = Time() if of is None else of
        self.at, self.span = at, self.of.span
        self.edges = tuple(points)
        self.breaks = tuple(sorted({*points, *self.of.breaks}))
        left = torch.tensor([0.0, *points[:-1]], dtype=torch.float64)
        right = torch.tensor(points, dtype=torch.float64)
        shared = {"left": left, "middle": 0.5 * (left + right), "right": right}
        if at not in shared:
            raise ValueError(f"at={at!r}: choose left, middle or right")
        if not 0 <= least < points[0]:
            raise ValueError(
                f"least={least}: must be below the first edge, {points[0]:g}; use fewer intervals"
            )
        self._edges, self._times = right, shared[at].clamp(min=least)
        emitted = self.of(self._times)
        if not bool(torch.isfinite(emitted).all()):
            bad = float(self._times[~torch.isfinite(emitted)][0])
            raise ValueError(
                f"at={at!r} with {self.of!r}: the shared condition is infinite at t = {bad:g}; "
                "use at='middle' or at='right', or share time instead"
            )

    @property
    def threshold(self) -> float:
        """The time below which the condition is shared."""
        return self.edges[-1]

    def interval(self, t: Tensor) -> Tensor:
        """Index i of the sub-interval [t_i, t_{i+1}) that holds t; n from the threshold on."""
        return torch.bucketize(t.contiguous(), self._edges.to(t.device), right=True)

    def shared_time(self, t: Tensor) -> Tensor:
        """f_T(t), in time."""
        index = self.interval(t)
        n = len(self.edges)
        told = self._times.to(t.device)[index.clamp(max=n - 1)].to(t.dtype)
        return torch.where(index < n, told, t)

    def __call__(self, t: Tensor) -> Tensor:
        return self.of(self.shared_time(t))

    def __repr__(self) -> str:
        edges = ", ".join(f"{edge:g}" for edge in self.edges)
        return f"ETSDM(edges=[{edges}], at={self.at!r}, of={self.of!r})"


class SharedNoise(ETSDM):
    """The noise level itself shared: the process is only ever at t = f_T(t).

    A model trained and sampled with it knows n noise levels below the threshold, and all of them
    above. Where E-TSDM hides from the network at which of many noise levels x is, here there is
    but one: nothing is hidden, and no derivative in time exists to be large.

    The paper's left end of the first sub-interval is t = 0, where sigma = 0: x is the data, its
    noise can only be guessed (the best answer is 0, at a loss of 1 that teaches nothing), and the
    score is infinite. So the first level is at `least`, in training the smallest time t_min.

    Args:
        sde, threshold, intervals, edges, at, of, first_edge: as `ETSDM`.
        least: time of the first level where `at` is "left", above 0.

    Raises:
        ValueError: as `ETSDM`, or least = 0.
    """

    quantised = True

    def __init__(
        self,
        sde: SDE,
        threshold: float | None = None,
        intervals: int = 5,
        edges: str | Sequence[float] = "time",
        at: str = "left",
        of: Conditioning | None = None,
        first_edge: float | None = None,
        least: float = 1e-5,
    ) -> None:
        if not least > 0:
            raise ValueError(f"least={least}: sigma is 0 at t = 0; give a time above it")
        super().__init__(sde, threshold, intervals, edges, at, of, first_edge, least)

    def interval(self, t: Tensor) -> Tensor:
        # Times here are meant to be levels, but have been through the clock of a solver: a level
        # that rounding has put just below itself is still that level.
        return super().interval(t * (1 + 1e-9))

    def visited(self, t: Tensor) -> Tensor:
        """f_T(t)."""
        return self.shared_time(t)

    def __repr__(self) -> str:
        return f"SharedNoise{super().__repr__().removeprefix('ETSDM')}"


def _edges(
    sde: SDE, threshold: float, intervals: int, spacing: str, first: float | None
) -> list[float]:
    """The edges t_1 .. t_n, the last one the threshold itself."""
    share = torch.arange(1, intervals, dtype=torch.float64) / intervals
    if spacing == "time":
        inner = threshold * torch.arange(1, intervals, dtype=torch.float64) / intervals
    elif spacing == "sigma":
        low, high = sde.sigma(0.0), sde.sigma(threshold)
        inner = sde.time_of_sigma(low + (high - low) * share)
    elif spacing == "log-snr":
        if intervals == 1:
            return [threshold]
        first = threshold / 100 if first is None else first
        if not 0 < first < threshold:
            raise ValueError(f"first_edge={first}: must be inside (0, threshold={threshold})")
        high, low = sde.log_snr(first), sde.log_snr(threshold)
        steps = torch.arange(1, intervals - 1, dtype=torch.float64) / (intervals - 1)
        later = sde.time_of_log_snr(high + (low - high) * steps)
        inner = torch.cat([torch.tensor([first], dtype=torch.float64), later])
    else:
        raise ValueError(
            f"edges={spacing!r}: choose time, sigma, log-snr, or give the edges themselves"
        )
    # 15 digits: 0.06, not its neighbour 0.06000000000000001.
    return [*(float(f"{edge:.15g}") for edge in inner.tolist()), threshold]


def read_edges(path: str | Path) -> list[float]:
    """Edges t_1 < ... < t_n from a file: a JSON list, or {"edges": [...]}; or the list itself.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    try:
        written = str(path).startswith("[")
        found = json.loads(str(path) if written else read_bytes(Path(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"edges={str(path)!r}: neither time, sigma, log-snr nor a readable JSON file of edges "
            f"({error})"
        ) from error
    edges = found.get("edges") if isinstance(found, dict) else found
    if not isinstance(edges, list) or not all(type(e) in (int, float) for e in edges):
        raise ValueError(f"edges={str(path)!r}: the file must hold a list of numbers, t_1 .. t_n")
    try:
        return [float(edge) for edge in edges]
    except OverflowError:
        raise ValueError(f"edges={str(path)[:80]!r}: times are numbers in (0, 1)") from None


def make_conditioning(
    sde: SDE,
    condition: str = "time",
    smooth_scale: float = 0.1,
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

    `condition` is one of time, smooth, log-snr, sigma, edm, none; `etsdm_edges` is time, sigma,
    log-snr, log-snr:FIRST (the first edge in t), the path of a JSON file of edges, or a JSON list.
    """
    made: dict[str, Conditioning] = {
        "time": Time(),
        "smooth": SmoothTime(smooth_scale),
        "log-snr": LogSNR(sde),
        "sigma": Sigma(sde),
        "edm": EDM(sde),
        "none": NoTime(),
    }
    if condition not in made:
        raise ValueError(f"condition={condition!r}: choose one of {', '.join(made)}")
    if not (etsdm or shared_noise):
        return made[condition]
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
    settings = (etsdm_threshold, etsdm_intervals, edges, etsdm_at, made[condition], first)
    return SharedNoise(sde, *settings, t_min) if shared_noise else ETSDM(sde, *settings)
