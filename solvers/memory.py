"""What a multistep method of variable step and order knows of every sample, on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .controller import Array
from .stepper import Mask, Rows

__all__ = ["Memory"]


@dataclass
class Memory:
    """What is known of every active sample, beside its differences; n samples, F forms.

    Attributes:
        nodes: clock at the last K nodes, newest first, (K, n).
        spans: products of the distances from the newest node to the j next, (K + 1, n).
        count: nodes that hold something, (n,), at most K + 1.
        order: of the next predictor, (n,).
        form: of the next step, (n,).
        fame: mean logarithms of the errors of both forms, (F, n).
        size: ratios to the tolerance of D_1 ... D_K times `spans`, per unit of weight, (K, F, n).
        weight: factor from errors of the state to the user's units, (n,).
    """

    nodes: Array
    spans: Array
    count: NDArray[np.int64]
    order: NDArray[np.int64]
    form: NDArray[np.int64]
    fame: Array
    size: Array
    weight: Array

    def merge(self, old: Memory, mask: Mask) -> Memory:
        """This memory where the mask (n,) is set, `old` elsewhere."""
        pairs = zip(vars(self).values(), vars(old).values(), strict=True)
        return Memory(*(np.where(mask, new, before) for new, before in pairs))

    def select(self, rows: Rows) -> Memory:
        """The samples `rows` only."""
        return Memory(*(values.take(rows, -1) for values in vars(self).values()))
