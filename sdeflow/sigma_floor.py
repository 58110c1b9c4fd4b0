r"""A floor under the noise, asked for: sigma_f(t) = max(sigma(t), floor), alpha unchanged.

What many programs do in silence (a clamp of the standard deviation) is here a process of its own.
With t_f the time at which sigma = floor,

    t >= t_f    the process as it was
    t <  t_f    sigma_f = floor,  sigma_f' = 0,  lambda = log alpha - log floor,  W = -alpha' floor

so that d eps/dt = -sigma' score - sigma d score/dt stays bounded, at the price that the process
never reaches the data: at t = 0 they keep noise of size floor. At t_f sigma' jumps, which `breaks`
tells the solvers. alpha^2 + sigma_f^2 > 1 below t_f: the process is not variance preserving.
Where alpha = 1 (VE) nothing would change with time below t_f, and there is no clock in which to
integrate: only VP and sub-VP can have a floor. Their singularity is what it is for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .sde import SDE, VP, times

__all__ = ["SigmaFloor"]


class SigmaFloor(SDE):
    """A VP or sub-VP process whose noise never falls below a floor.

    Args:
        of: the process, of the VP family.
        floor: smallest sigma, in (0, 1), in units of the data.

    Attributes:
        t_floor: the time t_f from which on the floor no longer acts.

    Raises:
        ValueError: a floor outside (0, 1), or a process without a vanishing sigma.
    """

    def __init__(self, of: SDE, floor: float) -> None:
        if not isinstance(of, VP):
            raise ValueError(
                f"sigma_floor={floor} with sde={of.name!r}: only vp and subvp can have a floor; "
                "leave it out"
            )
        if not 0 < floor < 1:
            raise ValueError(f"sigma_floor={floor}: give a number in (0, 1), e.g. 0.01")
        self.of, self.floor = of, floor
        self.name = f"{of.name}-floor-{floor:g}"
        self.t_floor = float(of.time_of_sigma(floor))
        self.breaks = (self.t_floor,)

    def _where(self, t: Tensor, below: Tensor | float, above: Tensor) -> Tensor:
        return torch.where(t < self.t_floor, torch.as_tensor(below, dtype=above.dtype), above)

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.of.alpha(t)

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return self.of.log_alpha(t)

    def alpha_dot(self, t: Tensor | float) -> Tensor:
        return self.of.alpha_dot(t)

    def sigma(self, t: Tensor | float) -> Tensor:
        return torch.clamp(self.of.sigma(t), min=self.floor)

    def sigma_dot(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self._where(t, 0.0, self.of.sigma_dot(t))

    def log_snr(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self._where(t, self.of.log_alpha(t) - math.log(self.floor), self.of.log_snr(t))

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        log_snr = times(log_snr)
        t = self.of.time_of_log_snr(log_snr)
        # Below t_f, log alpha = lambda + log floor, and alpha gives the schedule's own lambda.
        log_alpha = torch.clamp(log_snr + math.log(self.floor), max=0.0)
        own = log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))
        assert isinstance(self.of, VP)
        below = self.of.schedule.time_of_log_snr(own)
        return torch.where(t < self.t_floor, below.clamp(0.0, self.t_floor), t)

    def log_snr_of_sigma(self, sigma: Tensor | float) -> Tensor:
        return self.of.log_snr_of_sigma(sigma)

    def wronskian(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self._where(t, -self.of.alpha_dot(t) * self.floor, self.of.wronskian(t))

    def flow_coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = times(t)
        first, second = self.of.flow_coefficients(t)
        return self._where(t, -1 / self.floor, first), self._where(t, 0.0, second)
