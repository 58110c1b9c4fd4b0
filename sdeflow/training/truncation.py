r"""Soft truncation: each batch has a smallest time of its own (Kim et al. 2022, arXiv 2106.05527).

A fixed t_min leaves the noise levels near 0 either out or, under a weight that grows there, in
command of the loss. Here a batch draws e from a density proportional to e^(-k) on [t_min, t_max],
and its loss is the integral over times above e alone,

    L_e = E_{t ~ p} [ 1[t >= e] w(t) |eps-hat - eps|^2 / d ],    E_e L_e: weight w(t) P(e <= t)

    k = 1     P(e <= t) = log(t / t_min) / log(t_max / t_min)
    else      P(e <= t) = (t^(1-k) - t_min^(1-k)) / (t_max^(1-k) - t_min^(1-k))

so that small times keep a share of the gradient in expectation, but in few batches. Times are
drawn from p above e, and the loss multiplied by P(t >= e): nothing is drawn in vain.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SoftTruncation"]


class SoftTruncation:
    """The law of a batch's smallest time.

    Args:
        power: k of the density e^(-k), 0 or more; 0 is uniform, 1 even in log e, the larger the
            closer to no truncation.
        t_min: smallest time of all, positive.
        t_max: largest time.

    Raises:
        ValueError: a negative power, or an empty interval.
    """

    def __init__(self, power: float, t_min: float, t_max: float) -> None:
        if not 0 <= power <= 20:
            raise ValueError(f"soft_truncation={power}: give a power in [0, 20], e.g. 1")
        if not 0 < t_min < t_max:
            raise ValueError(f"t_min={t_min}, t_max={t_max}: need 0 < t_min < t_max")
        self.power, self.t_min, self.t_max = power, t_min, t_max

    def quantile(self, u: Tensor) -> Tensor:
        """e with P(e' <= e) = u."""
        ratio, q = self.t_max / self.t_min, 1 - self.power
        # In units of t_min: powers of t_min itself overflow.
        if q == 0:
            e = self.t_min * torch.exp(u * torch.log(torch.tensor(ratio, dtype=u.dtype)))
        else:
            e = self.t_min * (1 + u * (ratio**q - 1)) ** (1 / q)
        return torch.clamp(e, self.t_min, self.t_max)

    def share(self, t: Tensor) -> Tensor:
        """P(e <= t), by which the weight of the loss is multiplied in expectation."""
        ratio, q = self.t_max / self.t_min, 1 - self.power
        there = torch.clamp(t, self.t_min, self.t_max) / self.t_min
        if q == 0:
            return torch.log(there) / torch.log(torch.tensor(ratio, dtype=t.dtype))
        share: Tensor = (there**q - 1) / (ratio**q - 1)
        return share
