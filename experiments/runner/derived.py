"""Single numbers that follow from what an evaluation has kept, found when they are asked for.

exponent    p of E||d eps/dt|| ~ t^p near 0: the slope of the curve's logarithm over log t, by
            least squares over times up to 1e-4; -1/2 for a smooth density on the linear
            schedule, -1 for a finite set, 0 where it stays bounded
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["value_of"]

NEAR = 1e-4  # times up to here; above, the width of the data bends the curves


def value_of(values: Mapping[str, Any], metric: str) -> Any:
    """A metric of an evaluation; None where it has none of that name."""
    if metric in values:
        return values[metric]
    return DERIVED[metric](values) if metric in DERIVED else None


def _exponent(values: Mapping[str, Any]) -> float | None:
    """The slope near 0; None where the curve is 0 there, or too short."""
    t, total = np.array(values["t"]), np.array(values["total"], dtype=float)
    near = (t <= NEAR * (1 + 1e-9)) & (total > 0)
    if near.sum() < 3:
        return None
    return float(np.polyfit(np.log(t[near]), np.log(total[near]), 1)[0])


DERIVED: dict[str, Callable[[Mapping[str, Any]], float | None]] = {"exponent": _exponent}
