r"""Variance-preserving schedules: how the signal alpha(t) leaves and the noise sigma(t) arrives.

A schedule fixes alpha(t) on [0, 1] with alpha(0) = 1; a variance-preserving process then has
sigma = sqrt(1 - alpha^2). Near t = 0 that subtraction loses every digit in float32, so each
schedule gives sigma by a form of its own that does not cancel:

* schedules with an integrated rate, A(t) = -log alpha(t) = 1/2 int_0^t beta:
  sigma = sqrt(-expm1(-2 A)), log-SNR = -1/2 log(expm1(2 A));
* schedules from an angle: products of sines.

Near t = 1, where some schedules end at alpha = 0, the accurate variable is the time that
remains, r = 1 - t. Every method takes the pair (t, r), so that a change of time such as
`SmoothStart` can hand on both without a subtraction.

Sources: linear (Song et al. 2021, arXiv 2011.13456), cosine (Nichol & Dhariwal 2021,
arXiv 2102.09672), quadratic (Song et al. 2021, arXiv 2010.02502), zero terminal SNR
(Lin et al. 2023, arXiv 2305.08891), trigonometric (Albergo et al. 2023, arXiv 2303.08797).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .elementary import angle, cube_root, sigmoid, softplus

__all__ = [
    "SCHEDULES",
    "Cosine",
    "Linear",
    "Quadratic",
    "Schedule",
    "SmoothStart",
    "Trigonometric",
    "ZeroTerminalSNR",
    "make_schedule",
]


class Schedule(ABC):
    """alpha(t), sigma(t) of a variance-preserving process, from t and r = 1 - t (any shape)."""

    name: str

    @abstractmethod
    def alpha(self, t: Tensor, r: Tensor) -> Tensor:
        """Signal scale alpha."""

    @abstractmethod
    def sigma(self, t: Tensor, r: Tensor) -> Tensor:
        """Noise scale sqrt(1 - alpha^2), without the subtraction."""

    @abstractmethod
    def alpha_dot(self, t: Tensor, r: Tensor) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def log_snr(self, t: Tensor, r: Tensor) -> Tensor:
        """log(alpha / sigma)."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Inverse of `log_snr`."""

    def log_alpha(self, t: Tensor, r: Tensor) -> Tensor:
        """log alpha, -inf where alpha = 0."""
        return torch.log(self.alpha(t, r))

    def sigma_dot(self, t: Tensor, r: Tensor) -> Tensor:
        """d sigma / dt = -(alpha / sigma) d alpha / dt: infinite at t = 0 unless alpha' is 0."""
        return -self.alpha(t, r) / self.sigma(t, r) * self.alpha_dot(t, r)


class _Rate(Schedule):
    """A schedule with an integrated rate A(t) = -log alpha(t)."""

    @abstractmethod
    def integral(self, t: Tensor) -> Tensor:
        """A(t)."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """A'(t) = beta(t) / 2."""

    @abstractmethod
    def time_of_integral(self, a: Tensor) -> Tensor:
        """Inverse of A."""

    def alpha(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.exp(-self.integral(t))

    def log_alpha(self, t: Tensor, r: Tensor) -> Tensor:
        return -self.integral(t)

    def sigma(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-2 * self.integral(t)))

    def alpha_dot(self, t: Tensor, r: Tensor) -> Tensor:
        return -self.rate(t) * self.alpha(t, r)

    def log_snr(self, t: Tensor, r: Tensor) -> Tensor:
        return -0.5 * torch.log(torch.expm1(2 * self.integral(t)))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # 2 A = log(1 + exp(-2 lambda)), exact for large and small lambda alike.
        return self.time_of_integral(0.5 * softplus(-2 * log_snr))


class Linear(_Rate):
    """beta(t) = beta_0 + t (beta_1 - beta_0); A = beta_0 t / 2 + (beta_1 - beta_0) t^2 / 4."""

    name = "linear"

    def __init__(self, beta_0: float = 0.1, beta_1: float = 20.0) -> None:
        if not 0 < beta_0 <= beta_1:
            raise ValueError(f"beta_0={beta_0}, beta_1={beta_1}: need 0 < beta_0 <= beta_1")
        self.b, self.a = beta_0 / 2, (beta_1 - beta_0) / 4

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.b + self.a * t)

    def integral_left(self, t: Tensor, r: Tensor) -> Tensor:
        """A(1) - A(t), accurate as r goes to 0."""
        return r * (self.b + self.a * (1 + t))

    def rate(self, t: Tensor) -> Tensor:
        return self.b + 2 * self.a * t

    def time_of_integral(self, a: Tensor) -> Tensor:
        return 2 * a / (self.b + torch.sqrt(self.b**2 + 4 * self.a * a))


class Quadratic(_Rate):
    """sqrt(beta) linear in t, p + d t: A = (p^2 t + p d t^2 + d^2 t^3 / 3) / 2."""

    name = "quadratic"

    def __init__(self, beta_0: float = 0.1, beta_1: float = 20.0) -> None:
        if not 0 < beta_0 <= beta_1:
            raise ValueError(f"beta_0={beta_0}, beta_1={beta_1}: need 0 < beta_0 <= beta_1")
        self.p = math.sqrt(beta_0)
        self.d = math.sqrt(beta_1) - self.p

    def integral(self, t: Tensor) -> Tensor:
        return 0.5 * t * (self.p**2 + t * (self.p * self.d + t * (self.d**2 / 3)))

    def rate(self, t: Tensor) -> Tensor:
        return 0.5 * (self.p + self.d * t) ** 2

    def time_of_integral(self, a: Tensor) -> Tensor:
        # (p + d t)^3 = p^3 + 6 d A; t = (q - p) / d written without the subtraction.
        q = cube_root(self.p**3 + 6 * self.d * a)
        return 6 * a / (q * q + q * self.p + self.p**2)


class Cosine(Schedule):
    """alpha = cos(a) / cos(b), a = (pi/2)(t + s)/(1 + s), b = a(0).

    cos^2 b - cos^2 a = sin(a - b) sin(a + b), so sigma = sqrt(sin(a - b) sin(a + b)) / cos b, and
    cos a = sin((pi/2) r / (1 + s)) is exactly 0 at t = 1.
    """

    name = "cosine"

    def __init__(self, s: float = 0.008) -> None:
        if not s >= 0:
            raise ValueError(f"s={s}: the cosine offset must be >= 0 (0.008 is usual)")
        self.k = math.pi / 2 / (1 + s)
        self.b = self.k * s
        self.cos_b, self.sin_b = math.cos(self.b), math.sin(self.b)

    def alpha(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.sin(self.k * r) / self.cos_b

    def sigma(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.sqrt(torch.sin(self.k * t) * self._sin_sum(t, r)) / self.cos_b

    def _sin_sum(self, t: Tensor, r: Tensor) -> Tensor:
        """sin(a + b); a + b passes pi/2, and is pi/2 + b - k r near the end."""
        return torch.sin(self.k * t + 2 * self.b)

    def alpha_dot(self, t: Tensor, r: Tensor) -> Tensor:
        return -self.k * torch.sin(self.k * t + self.b) / self.cos_b

    def sigma_dot(self, t: Tensor, r: Tensor) -> Tensor:
        if self.b == 0:  # the trigonometric schedule: alpha' and sigma vanish together at 0
            return self.k * torch.cos(self.k * t)
        return super().sigma_dot(t, r)

    def log_snr(self, t: Tensor, r: Tensor) -> Tensor:
        signal = torch.sin(self.k * r)
        return torch.log(signal) - 0.5 * (
            torch.log(torch.sin(self.k * t)) + torch.log(self._sin_sum(t, r))
        )

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        alpha_2, sigma_2 = sigmoid(2 * log_snr), sigmoid(-2 * log_snr)
        sin_a = torch.sqrt(self.sin_b**2 + self.cos_b**2 * sigma_2)
        cos_a = self.cos_b * torch.sqrt(alpha_2)
        # sin(a - b) = cos^2 b sigma^2 / sin(a + b): no difference of angles is taken.
        sin_sum = sin_a * self.cos_b + cos_a * self.sin_b
        sin_gap = self.cos_b**2 * sigma_2 / sin_sum
        cos_gap = cos_a * self.cos_b + sin_a * self.sin_b
        return angle(sin_gap, cos_gap) / self.k


class Trigonometric(Cosine):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): d alpha/dt = 0 at t = 0, no singularity."""

    name = "trig"

    def __init__(self) -> None:
        super().__init__(s=0.0)

    def sigma(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.sin(self.k * t)

    def log_snr(self, t: Tensor, r: Tensor) -> Tensor:
        return torch.log(torch.sin(self.k * r)) - torch.log(torch.sin(self.k * t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr)) / self.k


class ZeroTerminalSNR(Schedule):
    """Linear, shifted and scaled so that alpha(1) = 0: (alpha - alpha_1) / (1 - alpha_1).

    With q = 1 - alpha = -expm1(-A) / (1 - alpha_1): sigma = sqrt(q (2 - q)).
    """

    name = "zero-snr"

    def __init__(self, beta_0: float = 0.1, beta_1: float = 20.0) -> None:
        self.base = Linear(beta_0, beta_1)
        self.end = math.exp(-(self.base.b + self.base.a))

    def _lost(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.base.integral(t)) / (1 - self.end)

    def alpha(self, t: Tensor, r: Tensor) -> Tensor:
        # Near t = 1 from what is left, near 0 from what is lost: there the exponential of a large
        # number would lose digits, and alpha could be above 1.
        q = self._lost(t)
        left = self.end * torch.expm1(self.base.integral_left(t, r)) / (1 - self.end)
        return torch.where(q < 0.5, 1 - q, left)

    def sigma(self, t: Tensor, r: Tensor) -> Tensor:
        q = self._lost(t)
        return torch.sqrt(q * (1 + self.alpha(t, r)))

    def alpha_dot(self, t: Tensor, r: Tensor) -> Tensor:
        return self.base.alpha_dot(t, r) / (1 - self.end)

    def log_snr(self, t: Tensor, r: Tensor) -> Tensor:
        alpha = self.alpha(t, r)
        return torch.log(alpha) - 0.5 * (torch.log(self._lost(t)) + torch.log1p(alpha))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        alpha = torch.sqrt(sigmoid(2 * log_snr))
        q = sigmoid(-2 * log_snr) / (1 + alpha)
        return self.base.time_of_integral(-torch.log1p(-q * (1 - self.end)))


class SmoothStart(Schedule):
    """Another schedule evaluated at w(t) = t^2 (1 + s) / (t + s), so that sigma ~ t near 0.

    The paper's modified noise schedule ("Mod-NS"): d alpha/dt = O(t), hence no singularity of
    the coefficient. w(0) = 0, w(1) = 1, and 1 - w = r (t + s + s t) / (t + s).
    """

    def __init__(self, of: Schedule, s: float) -> None:
        if not 0 < s < math.inf:
            raise ValueError(f"smooth_start={s}: need a positive time scale, e.g. 0.1")
        self.of, self.s = of, s
        self.name = f"{of.name}+smooth-start({s:g})"

    def _warp(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        s = self.s
        return t * t * (1 + s) / (t + s), r * (t + s + s * t) / (t + s)

    def _warp_dot(self, t: Tensor) -> Tensor:
        s = self.s
        return (1 + s) * t * (t + 2 * s) / (t + s) ** 2

    def alpha(self, t: Tensor, r: Tensor) -> Tensor:
        return self.of.alpha(*self._warp(t, r))

    def log_alpha(self, t: Tensor, r: Tensor) -> Tensor:
        return self.of.log_alpha(*self._warp(t, r))

    def sigma(self, t: Tensor, r: Tensor) -> Tensor:
        return self.of.sigma(*self._warp(t, r))

    def alpha_dot(self, t: Tensor, r: Tensor) -> Tensor:
        return self.of.alpha_dot(*self._warp(t, r)) * self._warp_dot(t)

    def sigma_dot(self, t: Tensor, r: Tensor) -> Tensor:
        # Infinity times zero at t = 0: the limit is the value at a time that is 0 to rounding.
        t = t.clamp_min(1e-15)
        return self.of.sigma_dot(*self._warp(t, r)) * self._warp_dot(t)

    def log_snr(self, t: Tensor, r: Tensor) -> Tensor:
        return self.of.log_snr(*self._warp(t, r))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        w, s = self.of.time_of_log_snr(log_snr), self.s
        return (w + torch.sqrt(w * w + 4 * (1 + s) * s * w)) / (2 * (1 + s))


SCHEDULES: dict[str, type[Schedule]] = {
    cls.name: cls for cls in (Linear, Quadratic, Cosine, ZeroTerminalSNR, Trigonometric)
}


def make_schedule(name: str = "linear", smooth_start: float | None = None) -> Schedule:
    """A schedule by name, with an optional smooth start.

    Args:
        name: one of `SCHEDULES`: linear, quadratic, cosine, zero-snr, trig.
        smooth_start: time scale s of `SmoothStart`, or None for none.

    Raises:
        ValueError: unknown name, or a scale that is not positive.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule={name!r}: choose one of {', '.join(SCHEDULES)}")
    schedule = SCHEDULES[name]()
    return schedule if smooth_start is None else SmoothStart(schedule, smooth_start)
