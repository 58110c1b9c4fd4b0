r"""Ways to divide the times below a threshold, side by side: what each makes of a model's jumps.

Edges equal in time, in sigma and in log-SNR, and the proposal: those with the smallest largest
jump (`sdeflow.instruments.partition`) or bound (`sdeflow.instruments.sharing_bound`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..conditioning import ETSDM, default_threshold
from ..denoiser import Predictor
from ..modes import evaluated
from .lipschitz import JUMP_STEP, Progress
from .partition import Jumps, balanced_threshold, even_edges
from .probe import Probe, place, statistics
from .sharing_bound import ScoreSize, least_bound, score_size, widths

__all__ = ["EQUAL", "LEAST", "SPACINGS", "PartitionStudy", "partition_study"]

SPACINGS = ("time", "sigma", "log-snr")
EQUAL, LEAST = "equal jumps", "least bound"


@dataclass(frozen=True)
class PartitionStudy:
    """Ways to divide the times below a threshold.

    Attributes:
        edges: t_1 < ... < t_n = t~ of the proposal.
        spacings: a row per way to divide, the proposal last, with keys spacing, edges; largest,
            error, at: D of the worst interval, its standard error and where it is; largest_jump,
            jump_at: the same of the jumps at the edges alone; gain: D of equal steps in time
            divided by this one; delta_t, delta_sigma: the widest interval; bound (None where it
            was not measured).
        jumps: a row per spacing and edge, with keys spacing, told (the time told before), t,
            sigma, log_snr, mean, error, median, maximum of the jump; per_step, the mean divided
            by 1/1000; within, D of the interval that ends here.
        score: what the bound is made of, or None.
        settings: threshold, intervals, t_min, samples, seed, and passes: how often the model was
            asked about all samples.
    """

    edges: tuple[float, ...]
    spacings: list[dict[str, Any]]
    jumps: list[dict[str, Any]]
    score: ScoreSize | None
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


@evaluated
def partition_study(
    model: Predictor,
    x_0: Tensor | None = None,
    *,
    intervals: int = 5,
    threshold: float | str | None = None,
    minimise: str = "jump",
    step: float = JUMP_STEP,
    first_edge: float | None = None,
    t_min: float = 1e-5,
    label: Tensor | None = None,
    count: int = 256,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> PartitionStudy:
    """Propose the sub-intervals of shared time, beside those equal in time, sigma and log-SNR.

    Args:
        model: a model trained without shared time, or an oracle.
        x_0: data, (N, ...); an oracle draws its own.
        intervals: how many, n.
        threshold: time below which the condition will be shared; None for that of E-TSDM,
            `sdeflow.conditioning.default_threshold`; "auto" to balance it.
        minimise: jump, or bound.
        step: the step h of the model that "auto" compares jumps with.
        first_edge: of the edges equal in log-SNR; threshold / 100 by default.
        t_min: where time begins, the smallest that the model was trained at.
        label: classes of x_0, (N,), or None.
        count: how many samples.
        batch_size: how many at once.
        seed: of the noise, and of which x_0.
        progress: called with about the share done.

    Raises:
        ValueError: an argument out of range; a model that shares time already.
    """
    sde = model.sde
    end = _threshold(model, intervals, threshold, minimise, step, t_min)
    probe = Probe(model, x_0, label, count, batch_size, seed)
    limit = (1.0 if sde.has_signal_at(1.0) else 0.999) - step if end is None else end
    jumps = Jumps(probe, t_min, limit)
    score = None
    if minimise == "bound":
        assert end is not None
        score = score_size(probe, end, t_min, progress=progress)
        proposal = least_bound(sde, score, intervals)
    else:
        ends = balanced_threshold(jumps, step) if end is None else end
        proposal = even_edges(jumps, intervals, ends, progress)
    end = proposal[-1]
    ways: dict[str, Sequence[float]] = {
        spacing: ETSDM(sde, end, intervals, spacing, first_edge=first_edge).edges
        for spacing in SPACINGS
    }
    # 15 digits: 0.06, not its neighbour 0.06000000000000001.
    proposal = [*(float(f"{edge:.15g}") for edge in proposal[:-1]), end]
    ways[LEAST if score else EQUAL] = proposal
    table = [row for way, edges in ways.items() for row in _edge_rows(jumps, way, edges)]
    settings = {
        "threshold": end,
        "intervals": intervals,
        "minimise": minimise,
        "step": step if threshold == "auto" else None,
        "t_min": t_min,
        "count": count,
        "seed": seed,
        "passes": jumps.passes,
        "dtype": str(probe.dtype).removeprefix("torch."),
    }
    spacings = [_summary(jumps, way, edges, table, score) for way, edges in ways.items()]
    for row in spacings:
        row["gain"] = spacings[0]["largest"] / row["largest"] if row["largest"] else None
    return PartitionStudy(tuple(proposal), spacings, table, score, settings)


def _threshold(
    model: Predictor,
    intervals: int,
    threshold: float | str | None,
    minimise: str,
    step: float,
    t_min: float,
) -> float | None:
    """The threshold, or None where it is to be balanced; refuses what cannot be."""
    if intervals < 1:
        raise ValueError(f"intervals={intervals}: need at least 1 sub-interval")
    if minimise not in ("jump", "bound"):
        raise ValueError(f"minimise={minimise!r}: choose jump or bound")
    if not 0 < step < 1:
        raise ValueError(f"step={step}: must lie in (0, 1), e.g. 0.001")
    if model.breaks:
        raise ValueError(
            f"the model shares time already, up to t = {model.breaks[-1]:g}: measure one trained "
            "without it"
        )
    if threshold == "auto":
        if minimise == "bound":
            raise ValueError(
                "threshold='auto' with minimise='bound': the bound falls to 0 with the threshold; "
                "give one, or minimise the jump"
            )
        if not 0 < t_min < 1 - step:
            raise ValueError(f"t_min={t_min}: must be inside (0, 1), e.g. 1e-5")
        return None
    if isinstance(threshold, str):
        raise ValueError(f"threshold={threshold!r}: give a time inside (0, 1), or auto")
    end = default_threshold(model.sde) if threshold is None else threshold
    if not 0 < t_min < end < 1:
        raise ValueError(f"t_min={t_min}, threshold={end:g}: need 0 < t_min < threshold < 1")
    return end


def _edge_rows(jumps: Jumps, spacing: str, edges: Sequence[float]) -> list[dict[str, Any]]:
    """The jump at every edge; nothing is ever told below t_min, so that an edge there is none."""
    rows = []
    for told, t in itertools.pairwise([0.0, *edges]):
        told = max(told, jumps.t_min)
        found, within = statistics(np.zeros(2)), 0.0
        if told < t:
            found, (within, _) = statistics(jumps.norms(told, t)), jumps.largest(told, t)
        rows.append(
            {
                "spacing": spacing,
                "told": told,
                **place(jumps.probe.model, t),
                **found,
                "per_step": found["mean"] / JUMP_STEP,
                "within": within,
            }
        )
    return rows


def _summary(
    jumps: Jumps,
    spacing: str,
    edges: Sequence[float],
    table: list[dict[str, Any]],
    score: ScoreSize | None,
) -> dict[str, Any]:
    """What a spacing comes to."""
    sde = jumps.probe.model.sde
    mine = [row for row in table if row["spacing"] == spacing]
    jump = max(mine, key=lambda row: row["mean"])
    worst = max(mine, key=lambda row: row["within"])
    largest, at = jumps.largest(worst["told"], worst["t"])
    in_t, in_sigma = widths(sde, edges)
    return {
        "spacing": spacing,
        "edges": list(edges),
        "largest": largest,
        "error": statistics(jumps.norms(worst["told"], at))["error"],
        "at": at,
        "largest_jump": jump["mean"],
        "jump_at": jump["t"],
        "delta_t": in_t,
        "delta_sigma": in_sigma,
        "bound": None if score is None else score.bound(sde, edges),
    }
