"""Bits per dimension of held-out data."""

from __future__ import annotations

from typing import Any

from sdeflow.instruments.likelihood import data_likelihood
from sdeflow.likelihood import levels_of

from .measured import Measured

__all__ = ["likelihood"]


def likelihood(
    of: Measured,
    *,
    count: int,
    tolerance: float = 1e-4,
    t_min: float | None = None,
    draws: int = 1,
) -> dict[str, Any]:
    """Mean bits (or nats) per dimension of the first held-out samples, and what they cost.

    Down to t_min, by default where the training began. The signs of Hutchinson's estimate and the
    dequantisation are those of the seed, the same in all arms.
    """
    data = of.data
    x = data.heldout[:count]
    found = data_likelihood(
        of.model,
        x,
        levels_of(x),
        draws=draws,
        seed=of.subject.seed,
        rtol=tolerance,
        atol=tolerance,
        t_min=of.subject.config.t_min if t_min is None else t_min,
        label=of.labels(len(x)),
    ).summary()
    names = ("unit", "mean", "standard_error", "reconstruction", "failed", "evaluations", "count")
    return {name: found[name] for name in names}
