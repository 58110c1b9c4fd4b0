r"""A penalty on steepness in time: regularisation of the paper's Lipschitz constant.

For the samples of a batch with t below a threshold the network is asked twice at the same x_t,

    K_i = |eps(x_i, t_i) - eps(x_i, t_i + h)| / h,     h = 1/1000,

which averages to the paper's K(t, t + 1/1000) (Yang et al., ICLR 2024, arXiv 2306.11251, eq. of
their section 3 and appendix D.3). The loss becomes

    mean_i [ w(t_i) |eps-hat_i - eps_i|^2 / d  +  weight 1[t_i < threshold] K_i ]

with the norm over a whole sample, and not squared: what is punished is what is measured. No
further random number is drawn. The second question rides along with the first, as further rows of
one call, and costs the share of times below the threshold: a tenth.

K is a difference divided by 1/1000: in bfloat16 rounding alone makes it some hundred. So
`--precision auto` is float32 here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoiser import Denoiser, convert
from ..sde import like

__all__ = ["GAP", "LipschitzPenalty"]

GAP = 1e-3  # of t: one of the paper's 1000 steps


class LipschitzPenalty:
    """weight K_i for the samples that are early enough.

    Args:
        denoiser: gives the process and what the network's output means; never called.
        weight: factor of K.
        below: threshold of t.
    """

    def __init__(self, denoiser: Denoiser, weight: float, below: float) -> None:
        self.denoiser, self.weight, self.below = denoiser, weight, below

    def rows(self, t: Tensor) -> Tensor:
        """Which of the times (b,) are asked about once more: int64 (n,), on the host."""
        return torch.nonzero(t < self.below)[:, 0]

    def __call__(self, x: Tensor, t: Tensor, output: Tensor, later: Tensor) -> Tensor:
        """The penalty of each sample, float32 (n,).

        Args:
            x: noisy samples, (n, ...).
            t: their times, float64 on the host, (n,).
            output: the network's own output at (x, t).
            later: the same at (x, t + GAP).
        """
        change = self._noise(x, t + GAP, later) - self._noise(x, t, output)
        steepness: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1) / GAP
        return self.weight * steepness

    def _noise(self, x: Tensor, t: Tensor, output: Tensor) -> Tensor:
        model, output = self.denoiser, output.float()
        if model.prediction == "noise":
            return output
        a, b = convert(model.sde, t, model.prediction, "noise")
        return like(a, x) * x + like(b * model.output_scale(t), x) * output
