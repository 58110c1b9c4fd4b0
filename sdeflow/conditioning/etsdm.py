r"""Time shared near 0 (E-TSDM, Yang et al., ICLR 2024, arXiv 2306.11251), and noise shared.

    f_T(t) = t_{i-1}  for t in [t_{i-1}, t_i),   0 = t_0 < t_1 < ... < t_n = threshold
    f_T(t) = t        for t >= threshold

so dc/dt = 0 inside a sub-interval and c jumps at the edges, which `breaks` lists for the solvers.
No tolerance is used at the edges: t just below an edge is below it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..sde import SDE, VP
from .base import Conditioning, Time

__all__ = ["ETSDM", "SharedNoise", "default_threshold"]


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
            if threshold is None:
                threshold = default_threshold(sde)
                if not 0 < threshold < 1:
                    raise ValueError(
                        f"threshold=None: {sde.name} never has the log-SNR of linear VP at 0.1, "
                        "which sets the default; give a time inside (0, 1), e.g. 0.1"
                    )
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
                f"least={least:g} (t_min where the noise level is shared): must be below the "
                f"first edge, {points[0]:g}; use a smaller t_min, or fewer intervals"
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
