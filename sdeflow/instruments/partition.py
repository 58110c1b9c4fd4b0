r"""Sub-intervals of shared time with the smallest largest jump.

Told the left end of its sub-interval [t_{i-1}, t_i), a model departs from itself by

    J(t_{i-1}, t) = E_x ||eps(x, t) - eps(x, told t_{i-1})||,      x drawn at time t,

which at t = t_i is the jump of E-TSDM at that edge. J(s, .) need not grow: it is small again where
the prediction happens to come back to what it was at s (for data of width w, at sigma(s) sigma(t)
about w^2), so small jumps alone could hide large errors between the edges. What is made small is
therefore the cumulative maximum

    D(s, t) = max { J(s, u) : s < u <= t },

never less than the jump. Among all n intervals below a threshold the largest D is smallest where
all are equal: for a given size the edges follow one by one, each where J first reaches it, and the
size is the root of what the last interval lacks. Every J is a mean over the same data and noise;
t_0 = t_min, where time begins: at 0 itself eps is 0 for a smooth density and infinite for a finite
set of data.

The threshold can be balanced, too: beyond it a model changes by E_x ||eps(x, t) - eps(x, t + h)||
in a step h, which falls with t, while D grows with the threshold. The larger of the two is
smallest where they are equal; h = 1/1000 is the step of the paper.

What a network trained with shared time learns is smoother than that, see
`sdeflow.instruments.shared_bias`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from ..precision import own_precision
from .lipschitz import Progress, time_grid
from .probe import Probe
from .space import norms_of
from .told import noise_told

__all__ = ["Jumps", "balanced_threshold", "even_edges"]

Array = NDArray[np.float64]
TOLERANCE = 1e-3  # of the size of the jumps, and of the edges in log t
SCAN = 32  # times at which J is looked at between t_min and the largest threshold
OWN = 33  # times at which a model's own steps are measured


class Jumps:
    """J(s, t) = E_x ||eps(x, t) - eps(x, told s)||, x drawn at time t, on fixed samples.

    Args:
        probe: the model and the samples.
        t_min: where time begins.
        t_max: largest threshold that will be asked for.

    Attributes:
        scan: times between the two, about equally far apart along the path of the prediction.
        passes: how often the model was asked about all samples.
    """

    def __init__(self, probe: Probe, t_min: float, t_max: float) -> None:
        self.probe, self.t_min, self.passes = probe, t_min, 0
        self._means: dict[tuple[float, float], float] = {}
        self._here: dict[float, list[Tensor]] = {}
        self.scan: list[float] = []
        times = time_grid(t_min, t_max, SCAN)
        # The path's length from one time to the next; every other scan time is placed along it.
        length = np.cumsum([0.0, *(self(s, t) for s, t in itertools.pairwise(times.tolist()))])
        even = np.interp(np.linspace(0, length[-1], SCAN), length, np.log(times))
        self.scan = sorted({*times[::2].tolist(), *np.exp(even[1:-1:2]).tolist()})

    def norms(self, s: float, t: float) -> Array:
        """Of every sample, (count,)."""
        model, batches = self.probe.model, self.probe.batches(t)
        with torch.no_grad(), own_precision(self.probe.device):
            here = self._here.get(t)
            if here is None:
                here = [model.noise(x, at, label) for x, at, label in batches]
                self.passes += 1
                if t in self.scan:
                    self._here[t] = here
            self.passes += 1
            parts = [
                norms_of(known - noise_told(model, x, at, s, label))
                for known, (x, at, label) in zip(here, batches, strict=True)
            ]
        found: Array = torch.cat(parts).cpu().double().numpy()
        return found

    def __call__(self, s: float, t: float) -> float:
        if (s, t) not in self._means:
            self._means[s, t] = float(self.norms(s, t).mean())
        return self._means[s, t]

    def looks(self, s: float, end: float) -> list[float]:
        """The times at which an interval from s to `end` is looked at."""
        return [*(t for t in self.scan if s < t < end), end]

    def largest(self, s: float, end: float) -> tuple[float, float]:
        """D(s, end), and where it is."""
        return max((self(s, t), t) for t in self.looks(s, end))

    def reaches(self, s: float, size: float, end: float) -> float | None:
        """Where J(s, .) first reaches a size, or None where it does not before `end`."""
        low = s
        for high in self.looks(s, end):
            if self(s, high) > size:
                break
            low = high
        else:
            return None

        def excess(u: float) -> float:
            t = math.exp(u)
            return -size if t <= s else self(s, t) - size

        return math.exp(brentq(excess, math.log(low), math.log(high), xtol=TOLERANCE / 10))


def even_edges(
    jumps: Jumps,
    intervals: int,
    threshold: float | Callable[[float], float],
    progress: Progress | None = None,
) -> list[float]:
    """Edges t_1 < ... < t_n = threshold of the intervals whose largest D is smallest.

    Args:
        jumps: the model, on its samples.
        intervals: n.
        threshold: where the last interval ends; or that time as a falling function of the size of
            the jumps, so that both are found together.
        progress: called with about the share done.

    Raises:
        ValueError: such a function meets no size of jumps.
    """
    found: dict[float, tuple[float, list[float]]] = {}

    def lacks(size: float) -> float:
        """By how much D of the last interval is too large, where the others have this size."""
        if progress:
            progress(min(1.0, len(found) / 10))
        end = threshold(size) if callable(threshold) else threshold
        if end <= jumps.t_min:
            return -size
        edges: list[float] = []
        left = jumps.t_min
        while len(edges) < intervals - 1:
            edge = jumps.reaches(left, size, end)
            if edge is None:
                found[size] = (size, _split(jumps, [*edges, end], intervals))
                return -size
            edges.append(edge)
            left = edge
        last, _ = jumps.largest(left, end)
        found[size] = (max(size, last), [*edges, end])
        return last - size

    if intervals == 1 and not callable(threshold):
        return [threshold]
    low = 0.0
    high, _ = jumps.largest(jumps.t_min, threshold(0.0) if callable(threshold) else threshold)
    while callable(threshold) and lacks(high) > 0:
        low, high = high, 2 * high
        if threshold(high) == threshold(low):
            raise ValueError(
                "threshold='auto': shared time jumps by more than the model's own steps wherever "
                "it ends; give a threshold, or a larger step to compare with"
            )
    low = high * 1e-4 if low == 0 else low
    brentq(lambda u: lacks(math.exp(u)), math.log(low), math.log(high), xtol=TOLERANCE)
    if progress:
        progress(1.0)
    return min(found.values())[1]


def _split(jumps: Jumps, edges: list[float], intervals: int) -> list[float]:
    """More edges, each where the largest D of all has reached its half."""
    while len(edges) < intervals:
        sizes = [
            jumps.largest(s, t)[0] for s, t in zip([jumps.t_min, *edges], edges, strict=False)
        ]
        worst = int(np.argmax(sizes))
        left = [jumps.t_min, *edges][worst]
        edge = jumps.reaches(left, sizes[worst] / 2, edges[worst])
        edges = sorted([*edges, math.sqrt(left * edges[worst]) if edge is None else edge])
    return edges


def balanced_threshold(jumps: Jumps, step: float) -> Callable[[float], float]:
    """The time beyond which no step of the model's own is larger than a given size.

    Where the model's steps do not fall with time, the largest beyond each time counts.
    """
    last = 1.0 if jumps.probe.model.sde.has_signal_at(1.0) else 0.999
    times = time_grid(jumps.t_min, last - step, OWN)
    own = np.array([jumps(t + step, t) for t in times.tolist()])
    largest = np.maximum.accumulate(own[::-1])
    # Ever larger sizes, ever smaller times; ties count once, at the latest time.
    sizes, first = np.unique(largest, return_index=True)
    known = np.log(times[::-1][first])

    def threshold(size: float) -> float:
        return float(np.exp(np.interp(size, sizes, known)))

    return threshold
