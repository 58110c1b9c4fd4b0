r"""Forward processes x_t = alpha(t) x_0 + sigma(t) eps on t in [0, 1], data at t = 0.

Everything follows from alpha and sigma. With lambda = log(alpha/sigma) and the Wronskian
W = alpha sigma' - alpha' sigma (positive: noise only grows relative to the signal):

    dx = f x dt + g dW_t,      f = alpha'/alpha,      g^2 = -2 sigma^2 lambda' = 2 sigma W / alpha
    probability flow           dx/dt = alpha' x_0-hat + sigma' eps-hat
    lambda' = -W / (alpha sigma),   (sigma/alpha)' = W / alpha^2,   (alpha/sigma)' = -W / sigma^2

so W carries the singularity of the coefficients at t = 0, and in any clock that is a function of
sigma/alpha it cancels. sigma is never floored.

All functions take t as a tensor of any shape (or a float, read as float64) and answer in its
dtype and on its device, accurate to a few units in the last place from t = 1e-8 to 1.

Families: VP and sub-VP (Song et al. 2021, arXiv 2011.13456), VE with geometric sigma (same), and
VE with sigma proportional to t (Karras et al. 2022, arXiv 2206.00364).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .schedule import Schedule, make_schedule

__all__ = ["SDE", "SDES", "VE", "VP", "KarrasVE", "SubVP", "like", "make_sde", "times"]


def times(t: Tensor | float) -> Tensor:
    """t as a tensor: tensors pass, numbers become float64 0-d tensors on the host."""
    return t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)


def like(coefficient: Tensor, x: Tensor) -> Tensor:
    """A per-sample coefficient made to multiply the state: (B,) or () -> (B, 1, ..., 1).

    Coefficients are computed in float64 on the host; here, last, they take x's dtype and device.
    """
    if coefficient.dim():
        coefficient = coefficient.reshape(-1, *([1] * (x.dim() - 1)))
    return coefficient.to(dtype=x.dtype).to(device=x.device)


class SDE(ABC):
    """A forward process given by alpha(t) and sigma(t).

    Attributes:
        name: what it is, for captions.
        variance_preserving: whether alpha^2 + sigma^2 = 1.
        breaks: times at which sigma' jumps, ascending.
    """

    name: str
    breaks: tuple[float, ...] = ()
    variance_preserving: bool = False

    @abstractmethod
    def alpha(self, t: Tensor | float) -> Tensor:
        """Signal scale alpha(t)."""

    @abstractmethod
    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise scale sigma(t)."""

    @abstractmethod
    def log_alpha(self, t: Tensor | float) -> Tensor:
        """log alpha(t); -inf where alpha = 0."""

    @abstractmethod
    def alpha_dot(self, t: Tensor | float) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def sigma_dot(self, t: Tensor | float) -> Tensor:
        """d sigma / dt; infinite at t = 0 where the process has the singularity."""

    @abstractmethod
    def log_snr(self, t: Tensor | float) -> Tensor:
        """lambda(t) = log(alpha/sigma), half the logarithm of the power SNR."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """Inverse of `log_snr`, in closed form."""

    @abstractmethod
    def log_snr_of_sigma(self, sigma: Tensor | float) -> Tensor:
        """lambda at the time where the noise scale is sigma."""

    @abstractmethod
    def wronskian(self, t: Tensor | float) -> Tensor:
        """W = alpha sigma' - alpha' sigma, in a form that does not cancel."""

    @abstractmethod
    def flow_coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(alpha'/W, sigma'/W): dx/dt = W (first * x_0-hat + second * eps-hat); both finite."""

    def time_of_sigma(self, sigma: Tensor | float) -> Tensor:
        """Inverse of `sigma`."""
        return self.time_of_log_snr(self.log_snr_of_sigma(sigma))

    def log_snr_dot(self, t: Tensor | float) -> Tensor:
        """lambda'(t) = -W / (alpha sigma)."""
        return -self.wronskian(t) / (self.alpha(t) * self.sigma(t))

    def rho(self, t: Tensor | float) -> Tensor:
        """Noise-to-signal ratio sigma/alpha."""
        return self.sigma(t) / self.alpha(t)

    def f(self, t: Tensor | float) -> Tensor:
        """Drift coefficient alpha'/alpha of the forward SDE."""
        return self.alpha_dot(t) / self.alpha(t)

    def g2(self, t: Tensor | float) -> Tensor:
        """Squared diffusion coefficient of the forward SDE, 2 sigma W / alpha."""
        return 2 * self.sigma(t) * self.wronskian(t) / self.alpha(t)

    def g(self, t: Tensor | float) -> Tensor:
        """Diffusion coefficient of the forward SDE."""
        return torch.sqrt(self.g2(t))

    def prior_scale(self, t_max: float = 1.0) -> float:
        """Standard deviation of the Gaussian that sampling starts from at t_max.

        1 for VP and sub-VP (unit-variance data is assumed where t_max < 1), sigma(t_max) for VE.
        """
        return 1.0

    def has_signal_at(self, t: float) -> bool:
        """Whether alpha(t) > 0: where it is 0 the noise prediction says nothing about the data."""
        return float(self.alpha(t)) > 1e-12

    def perturb(self, x_0: Tensor, t: Tensor | float, noise: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma noise; x_0 and noise (B, ...), t (B,) or a number."""
        t = times(t)
        return like(self.alpha(t), x_0) * x_0 + like(self.sigma(t), x_0) * noise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"


class VP(SDE):
    """Variance preserving: sigma^2 = 1 - alpha^2."""

    variance_preserving = True

    def __init__(self, schedule: Schedule | None = None) -> None:
        self.schedule = make_schedule() if schedule is None else schedule
        self.name = f"vp-{self.schedule.name}"

    def alpha(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self.schedule.alpha(t, 1 - t)

    def log_alpha(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self.schedule.log_alpha(t, 1 - t)

    def sigma(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self.schedule.sigma(t, 1 - t)

    def alpha_dot(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self.schedule.alpha_dot(t, 1 - t)

    def sigma_dot(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self.schedule.sigma_dot(t, 1 - t)

    def log_snr(self, t: Tensor | float) -> Tensor:
        t = times(t)
        return self.schedule.log_snr(t, 1 - t)

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        return self.schedule.time_of_log_snr(times(log_snr))

    def log_snr_of_sigma(self, sigma: Tensor | float) -> Tensor:
        sigma = times(sigma)
        return 0.5 * torch.log1p(-sigma * sigma) - torch.log(sigma)

    def wronskian(self, t: Tensor | float) -> Tensor:
        # Both terms are positive, so nothing cancels; the sum is -alpha'/sigma, which is 0/0 at
        # t = 0 for schedules without the singularity.
        t = times(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        return alpha * self.sigma_dot(t) - self.alpha_dot(t) * sigma

    def flow_coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        return -self.sigma(t), self.alpha(t)


class SubVP(VP):
    """Sub-VP: the same alpha, sigma = 1 - alpha^2 (the VP sigma squared)."""

    variance_preserving = False

    def __init__(self, schedule: Schedule | None = None) -> None:
        super().__init__(schedule)
        self.name = f"subvp-{self.schedule.name}"

    def sigma(self, t: Tensor | float) -> Tensor:
        return super().sigma(t) ** 2

    def sigma_dot(self, t: Tensor | float) -> Tensor:
        return -2 * self.alpha(t) * self.alpha_dot(t)

    def log_snr(self, t: Tensor | float) -> Tensor:
        # Not 2 lambda - log alpha, with lambda VP's own: both are infinite where alpha = 0.
        return self.log_alpha(t) - torch.log(self.sigma(t))

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        # alpha / (1 - alpha^2) = exp(lambda) has the root log alpha = -asinh(exp(-lambda) / 2);
        # VP's own lambda is then (lambda + log alpha) / 2.
        log_snr = times(log_snr)
        log_alpha = -torch.asinh(0.5 * torch.exp(-log_snr))
        return self.schedule.time_of_log_snr(0.5 * (log_snr + log_alpha))

    def log_snr_of_sigma(self, sigma: Tensor | float) -> Tensor:
        sigma = times(sigma)
        return 0.5 * torch.log1p(-sigma) - torch.log(sigma)

    def wronskian(self, t: Tensor | float) -> Tensor:
        return -self.alpha_dot(t) * (1 + self.alpha(t) ** 2)

    def flow_coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        alpha = self.alpha(t)
        scale = 1 / (1 + alpha * alpha)
        return -scale, 2 * alpha * scale


class _NoSignalLoss(SDE):
    """Variance exploding: alpha = 1, so that lambda = -log sigma and W = sigma'."""

    def alpha(self, t: Tensor | float) -> Tensor:
        return torch.ones_like(times(t))

    def log_alpha(self, t: Tensor | float) -> Tensor:
        return torch.zeros_like(times(t))

    def alpha_dot(self, t: Tensor | float) -> Tensor:
        return torch.zeros_like(times(t))

    def log_snr_of_sigma(self, sigma: Tensor | float) -> Tensor:
        return -torch.log(times(sigma))

    def prior_scale(self, t_max: float = 1.0) -> float:
        return float(self.sigma(t_max))

    def wronskian(self, t: Tensor | float) -> Tensor:
        return self.sigma_dot(t)

    def flow_coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = times(t)
        return torch.zeros_like(t), torch.ones_like(t)


class VE(_NoSignalLoss):
    """Variance exploding with geometric noise: sigma = sigma_min (sigma_max/sigma_min)^t."""

    name = "ve"

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"sigma_min={sigma_min}, sigma_max={sigma_max}: need 0 < sigma_min < sigma_max"
            )
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.log_min, self.log_ratio = math.log(sigma_min), math.log(sigma_max / sigma_min)

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.sigma_min * torch.exp(self.log_ratio * times(t))

    def sigma_dot(self, t: Tensor | float) -> Tensor:
        return self.log_ratio * self.sigma(t)

    def log_snr(self, t: Tensor | float) -> Tensor:
        return -self.log_min - self.log_ratio * times(t)

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        return (-self.log_min - times(log_snr)) / self.log_ratio


class KarrasVE(_NoSignalLoss):
    """Variance exploding with sigma = sigma_max t: no singularity, sigma' is constant."""

    name = "edm"

    def __init__(self, sigma_max: float = 80.0) -> None:
        if not sigma_max > 0:
            raise ValueError(f"sigma_max={sigma_max}: must be positive")
        self.sigma_max = sigma_max

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.sigma_max * times(t)

    def sigma_dot(self, t: Tensor | float) -> Tensor:
        return torch.full_like(times(t), self.sigma_max)

    def log_snr(self, t: Tensor | float) -> Tensor:
        return -torch.log(self.sigma(t))

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        return torch.exp(-times(log_snr)) / self.sigma_max


SDES = ("vp", "subvp", "ve", "edm")


def make_sde(
    name: str = "vp",
    schedule: str = "linear",
    smooth_start: float | None = None,
    sigma_floor: float | None = None,
) -> SDE:
    """A forward process by name.

    Args:
        name: vp, subvp, ve (geometric, 0.01 to 50) or edm (sigma = 80 t).
        schedule: schedule of vp and subvp (`sdeflow.schedule.SCHEDULES`); ve and edm have none.
        smooth_start: time scale of a smooth start of vp and subvp, or None.
        sigma_floor: smallest sigma of vp and subvp (`sdeflow.sigma_floor`), or None for no floor.

    Raises:
        ValueError: unknown name, or a schedule option on a process that has none.
    """
    if sigma_floor is not None:
        from .sigma_floor import SigmaFloor

        return SigmaFloor(make_sde(name, schedule, smooth_start), sigma_floor)
    if name in ("vp", "subvp"):
        made = make_schedule(schedule, smooth_start)
        return VP(made) if name == "vp" else SubVP(made)
    if name not in SDES:
        raise ValueError(f"sde={name!r}: choose one of {', '.join(SDES)}")
    if schedule != "linear" or smooth_start is not None:
        raise ValueError(
            f"schedule={schedule!r}, smooth_start={smooth_start} with sde={name!r}: only vp and "
            "subvp have a schedule; leave both at their defaults"
        )
    return VE() if name == "ve" else KarrasVE()
