r"""What sharing time costs an exact model: the bias of the best shared prediction, and its bound.

On a sub-interval I two predictors that know I but not t stand against eps(x, t):

    ideal      E[eps | x, t in I], what training with shared time converges to
    left end   eps(x, t_{i-1}), what sharing only while sampling gives

each with its bias in L2(p_t), (E_x ||shared(x) - eps(x, t)||^2)^(1/2) for x drawn at time t: at
times across every interval, the largest of them, and the root mean square over t uniform below the
threshold. Of all predictors that know only I, the ideal one has the smallest of the latter. Beside
them the bound sigma(t~) K_s Delta_t + B Delta_sigma (`sdeflow.instruments.sharing_bound`) and the
jumps that each predictor makes at the edges. Biases are norms of vectors, in units of the noise;
the size of eps stands beside them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditioning import ETSDM, Conditioning, default_threshold
from ..oracle import Oracle
from ..shared_time import SharedTime, Told
from .lipschitz import Progress
from .partition import Jumps, even_edges
from .partition_study import EQUAL, LEAST, SPACINGS
from .probe import Probe, place
from .sharing_bound import ScoreSize, least_bound, score_size, widths
from .space import norms_of

__all__ = ["PREDICTORS", "BiasStudy", "bias_study"]

PREDICTORS = ("ideal", "left end")
NODES = 6  # Gauss-Legendre nodes of an interval, in the root of t: biases grow with it near 0
QUADRATURE = 32  # nodes of the ideal predictor itself, in log-SNR


@dataclass(frozen=True)
class BiasStudy:
    """Biases of shared time.

    Attributes:
        rows: per threshold, number of intervals, spacing and predictor: the edges, largest (bias
            in L2(p_t), with its standard error and its time, at), mean (root mean square over t
            and x), size (that of eps, likewise), largest_jump, delta_t, delta_sigma, slope and
            size of the score (K_s and B), bound.
        curve: bias, error and size at every time, with threshold, intervals, spacing, predictor,
            t, sigma, log_snr.
        settings: t_min, samples, seed.
    """

    rows: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


class _From(Conditioning):
    """Times below t_min are never met, nor told."""

    def __init__(self, of: ETSDM, t_min: float) -> None:
        self.of, self.t_min, self.breaks = of, t_min, of.breaks

    def __call__(self, t: Tensor) -> Tensor:
        return self.of(t).clamp_min(self.t_min)


def bias_study(
    oracle: Oracle,
    *,
    intervals: Sequence[int] = (1, 2, 5, 10),
    thresholds: Sequence[float | None] = (None,),
    spacings: Sequence[str] = (*SPACINGS, EQUAL, LEAST),
    first_edge: float | None = None,
    t_min: float = 1e-5,
    count: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> BiasStudy:
    """Measure the biases of shared time on an exact model.

    Args:
        oracle: an exact model with a density, that draws its own data.
        intervals: numbers of sub-intervals.
        thresholds: times below which the condition is shared; None for E-TSDM's own.
        spacings: time, sigma, log-snr, "equal jumps" or "least bound".
        first_edge: of the edges equal in log-SNR; threshold / 100 by default.
        t_min: where time begins.
        count: how many samples.
        seed: of data and noise.
        progress: called with the share done.

    Raises:
        ValueError: an argument out of range, or a model without a density.
    """
    if oracle.breaks:
        raise ValueError("the model shares time already: give the exact one")
    unknown = [name for name in spacings if name not in (*SPACINGS, EQUAL, LEAST)]
    if unknown or not spacings or not intervals or not thresholds:
        raise ValueError(
            f"spacings={list(spacings)}: choose from {', '.join((*SPACINGS, EQUAL, LEAST))}; and "
            "give at least one number of intervals and one threshold"
        )
    probe = Probe(oracle, None, None, count, count, seed)
    x, t, _ = probe.batches(t_min)[0]
    oracle.log_prob(x, t)  # refuses a model without a density
    sde = oracle.sde
    study = BiasStudy([], [], {"t_min": t_min, "count": count, "seed": seed})
    parts = len(thresholds) * len(intervals) * len(spacings)
    done = itertools.count(1)
    for given in thresholds:
        threshold = default_threshold(sde) if given is None else given
        if not 0 < t_min < threshold < 1:
            raise ValueError(f"t_min={t_min}, threshold={threshold:g}: need 0 < t_min < it < 1")
        score = score_size(probe, threshold, t_min)
        jumps = Jumps(probe, t_min, threshold)
        for n in intervals:
            for spacing in spacings:
                edges: Sequence[float]
                if spacing == EQUAL:
                    edges = even_edges(jumps, n, threshold)
                elif spacing == LEAST:
                    edges = least_bound(sde, score, n)
                else:
                    edges = ETSDM(sde, threshold, n, spacing, first_edge=first_edge).edges
                if edges[0] <= t_min:
                    raise ValueError(
                        f"t_min={t_min}: {n} intervals equal in {spacing} end first at "
                        f"{edges[0]:g}; fewer intervals, or a smaller t_min"
                    )
                key = {"threshold": threshold, "intervals": n, "spacing": spacing}
                _measure(study, probe, key, edges, t_min, score)
                if progress:
                    progress(next(done) / parts)
    return study


def _measure(
    study: BiasStudy,
    probe: Probe,
    key: dict[str, Any],
    edges: Sequence[float],
    t_min: float,
    score: ScoreSize,
) -> None:
    """Add the rows of one way to share."""
    oracle: Any = probe.model
    sharing = ETSDM(oracle.sde, edges=edges)
    predictors = {
        "ideal": SharedTime(oracle, sharing, t_min, QUADRATURE),
        "left end": Told(oracle, _From(sharing, t_min)),
    }
    z, w = np.polynomial.legendre.leggauss(NODES)
    found: dict[str, list[tuple[float, float, dict[str, Any]]]] = {p: [] for p in predictors}
    for low, high in itertools.pairwise([t_min, *edges]):
        root = (math.sqrt(high) + math.sqrt(low)) / 2 + (math.sqrt(high) - math.sqrt(low)) / 2 * z
        weights = 2 * root * w * (math.sqrt(high) - math.sqrt(low)) / 2  # dt
        # The ends, too, where biases are largest; they weigh nothing in the mean.
        times = [low, *(root**2).tolist(), math.nextafter(high, 0.0)]
        for t, weight in zip(times, [0.0, *weights.tolist(), 0.0], strict=True):
            x, at, _ = probe.batches(t)[0]
            exact = oracle.noise(x, at)
            size = float(torch.sqrt((norms_of(exact) ** 2).mean()))
            for name, predictor in predictors.items():
                square = norms_of(predictor.noise(x, at) - exact) ** 2
                bias = math.sqrt(float(square.mean()))
                spread = float(square.std()) / math.sqrt(len(square))
                row = {
                    **key,
                    "predictor": name,
                    **place(oracle, t),
                    "bias": bias,
                    "error": spread / (2 * bias) if bias else 0.0,
                    "size": size,
                }
                study.curve.append(row)
                found[name].append((weight, bias, row))
    jumps = dict.fromkeys(predictors, 0.0)
    for t in edges:
        x, at, _ = probe.batches(t)[0]
        before = torch.full_like(at, math.nextafter(t, 0.0))
        for name, predictor in predictors.items():
            jump = norms_of(predictor.noise(x, at) - predictor.noise(x, before)).mean()
            jumps[name] = max(jumps[name], float(jump))
    in_t, in_sigma = widths(oracle.sde, edges)
    span = edges[-1] - t_min
    for name, each in found.items():
        worst = max((row for _, _, row in each), key=lambda row: row["bias"])
        study.rows.append(
            {
                **key,
                "predictor": name,
                "edges": list(edges),
                "largest": worst["bias"],
                "error": worst["error"],
                "at": worst["t"],
                "mean": math.sqrt(sum(weight * bias**2 for weight, bias, _ in each) / span),
                "size": math.sqrt(sum(w * row["size"] ** 2 for w, _, row in each) / span),
                "largest_jump": jumps[name],
                "delta_t": in_t,
                "delta_sigma": in_sigma,
                "score_slope": score.slope,
                "score_size": score.size,
                "bound": score.bound(oracle.sde, edges),
            }
        )
