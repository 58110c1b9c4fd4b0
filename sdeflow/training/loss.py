r"""Denoising score matching, its weights and its distributions of training times.

With x_t = alpha x_0 + sigma eps, t ~ p on [t_min, t_max], and a network whose prediction implies
the noise eps-hat, every loss here is

    L = E_{t ~ p} [ w(t) |eps-hat - eps|^2 / d ],        d = number of elements of x.

A network is compared with its own target, whose error is that of the noise divided by k(t):

    prediction   target F*                                    k
    noise        eps                                          1
    data         x_0                                          alpha / sigma
    velocity     (alpha eps - sigma x_0) / s                  alpha / s,   s^2 = alpha^2 + sigma^2
    score        -eps / sigma                                 sigma

so that |eps-hat - eps|^2 = k^2 |F - F*|^2. The weights, with SNR = (alpha/sigma)^2 = e^(2 lambda):

    simple        1 / k^2: the plain mean square error of the network's own target, which has unit
                  variance (of the score that is sigma * score, so w = 1)
    likelihood    (g^2 / 2 sigma^2) / p(t) = -lambda'(t) / p(t)
    min-snr       min(1, 5 / SNR)
    score-sigma2  1: the score's error weighted by sigma^2
    score         1 / sigma^2: the score's plain error

What the density p does: a weight is applied **as it stands**, so under another density the
effective weight over time is w(t) p(t), which is how `log-normal` is meant to act (EDM). Only
`likelihood` is a definite integral in t, the bound on the negative log-likelihood in nats per
dimension up to a constant; it is divided by p(t), so every density estimates the same integral
and differs in variance alone (under `log-snr` its weight is constant).

Sources: Song et al. 2021, arXiv 2101.09258 (likelihood weighting); Kingma et al. 2021, arXiv
2107.00630 (the integral in log-SNR); Hang et al. 2023, arXiv 2303.09556 (min-SNR);
Karras et al. 2022, arXiv 2206.00364 (log-normal).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..config import PREDICTIONS, TIME_DISTRIBUTIONS, WEIGHTINGS
from ..sde import SDE, like

__all__ = ["DenoisingLoss", "TimeDistribution", "time_bins"]

GAMMA = 5.0  # of min-SNR, on the power SNR
LOG_MEAN, LOG_STD = -1.2, 1.2  # EDM's law of ln(sigma/alpha)
DISCRETE_STEPS = 1000  # the paper's number of time steps
BINS = (1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def time_bins(t_min: float, t_max: float) -> tuple[float, ...]:
    """Edges of the bins over which losses are reported, from t_min to t_max.

    Fine near 0, where the singularity is; 0.1 is the paper's threshold of shared time.
    """
    return (t_min, *(edge for edge in BINS if t_min < edge < t_max), t_max)


class TimeDistribution:
    """How training times are drawn: t = Q(u) with Q the quantile function and u uniform.

    Args:
        kind: `uniform`; `stratified`, uniform with one draw in each of B equal slices;
            `discrete`, uniform over t = k/1000; `log-snr`, log-SNR uniform; `log-normal`,
            ln(sigma/alpha) normal with mean -1.2 and deviation 1.2, truncated to the interval.
        sde: the process, for the two laws of the noise level.
        t_min: smallest time, in (0, 1).
        t_max: largest time, in (t_min, 1].
        visited: where the process is instead of a time that was drawn (shared noise levels);
            the density is that of the times drawn.

    Raises:
        ValueError: an unknown kind, an empty interval, or infinite log-SNR at its ends.
    """

    def __init__(
        self,
        kind: str,
        sde: SDE,
        t_min: float,
        t_max: float,
        visited: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if kind not in TIME_DISTRIBUTIONS:
            names = ", ".join(TIME_DISTRIBUTIONS)
            raise ValueError(f"time_distribution={kind!r}: choose one of {names}")
        if not 0 <= t_min < t_max <= 1:
            raise ValueError(f"t_min={t_min}, t_max={t_max}: need 0 <= t_min < t_max <= 1")
        self.kind, self.sde, self.t_min, self.t_max = kind, sde, t_min, t_max
        self.visited = _itself if visited is None else visited
        if kind in ("log-snr", "log-normal"):
            self._high, self._low = float(sde.log_snr(t_min)), float(sde.log_snr(t_max))
            if not math.isfinite(self._high - self._low):
                raise ValueError(
                    f"time_distribution={kind!r}: log-SNR is {self._high:g} at t_min={t_min} and "
                    f"{self._low:g} at t_max={t_max}; keep both finite, e.g. t_max=0.999"
                )
            ends = torch.tensor([-self._high, -self._low], dtype=torch.float64)
            low, high = torch.special.ndtr((ends - LOG_MEAN) / LOG_STD).tolist()
            self._cdf_low, self._mass = low, high - low
        if kind == "discrete":
            # A relative margin, because 0.999 * 1000 may round to just below 999.
            self._first = max(1, math.ceil(t_min * DISCRETE_STEPS * (1 - 1e-12)))
            self._last = math.floor(t_max * DISCRETE_STEPS * (1 + 1e-12))
            if self._last < self._first:
                raise ValueError(
                    f"time_distribution='discrete': no k/{DISCRETE_STEPS} lies in "
                    f"[{t_min}, {t_max}]; widen it"
                )

    def quantile(self, u: Tensor) -> Tensor:
        """t with P(t' <= t) = u; float64, any shape, u in [0, 1)."""
        if self.kind == "discrete":
            count = self._last - self._first + 1
            k = self._first + torch.clamp(torch.floor(u * count), max=count - 1)
            return k / DISCRETE_STEPS
        if self.kind == "log-snr":
            t = self.sde.time_of_log_snr(self._high + (self._low - self._high) * u)
        elif self.kind == "log-normal":
            normal = torch.special.ndtri(self._cdf_low + self._mass * u)
            t = self.sde.time_of_log_snr(-(LOG_MEAN + LOG_STD * normal))
        else:
            t = self.t_min + (self.t_max - self.t_min) * u
        return torch.clamp(t, self.t_min, self.t_max)

    def density(self, t: Tensor) -> Tensor:
        """p(t) on [t_min, t_max]; for `discrete` the density of the uniform law it stands for."""
        if self.kind == "log-snr":
            return -self.sde.log_snr_dot(t) / (self._high - self._low)
        if self.kind == "log-normal":
            z = (-self.sde.log_snr(t) - LOG_MEAN) / LOG_STD
            normal: Tensor = torch.exp(-0.5 * z * z) / (
                math.sqrt(2 * math.pi) * LOG_STD * self._mass
            )
            return -self.sde.log_snr_dot(t) * normal
        return torch.full_like(t, 1 / (self.t_max - self.t_min))

    def below(self, t: float) -> float:
        """P(t' < t), for t in [t_min, t_max]; short of 1 for `discrete`."""
        if self.kind == "discrete":
            first = min(self._last, math.ceil(t * DISCRETE_STEPS * (1 - 1e-12)))
            return max(0, first - self._first) / (self._last - self._first + 1)
        if self.kind == "log-snr":
            return (self._high - float(self.sde.log_snr(t))) / (self._high - self._low)
        if self.kind == "log-normal":
            z = (-self.sde.log_snr(t) - LOG_MEAN) / LOG_STD
            share: float = (float(torch.special.ndtr(z)) - self._cdf_low) / self._mass
            return share
        return (t - self.t_min) / (self.t_max - self.t_min)

    def sample(self, count: int, generator: torch.Generator, start: float = 0.0) -> Tensor:
        """`count` times, float64 on the host, from a host generator.

        Args:
            count: how many.
            generator: the generator.
            start: share of the law that is left out at its lower end, in [0, 1).
        """
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        if self.kind == "stratified":
            u = (torch.arange(count, dtype=torch.float64) + u) / count
        return self.visited(self.quantile(start + (1 - start) * u))


def _itself(t: Tensor) -> Tensor:
    return t


class DenoisingLoss:
    """The loss of one sample at one time, for a prediction and a weighting.

    Args:
        predict: what the network predicts: noise, data, velocity or score.
        weighting: simple, likelihood, min-snr, score-sigma2 or score (module docstring).
        time: the distribution of training times; gives the process, and p(t) for `likelihood`.
    """

    def __init__(self, predict: str, weighting: str, time: TimeDistribution) -> None:
        for name, value, known in (
            ("predict", predict, PREDICTIONS),
            ("weighting", weighting, WEIGHTINGS),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(known)}")
        self.predict, self.weighting, self.time, self.sde = predict, weighting, time, time.sde

    def noise_factor(self, t: Tensor) -> Tensor:
        """k(t)^2 of the residual that `errors` squares (1 for the score's); float64 (B,)."""
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        if self.predict == "data":
            return (alpha / sigma) ** 2
        if self.predict == "velocity":
            return alpha**2 / (alpha**2 + sigma**2)
        return torch.ones_like(t)

    def weight(self, t: Tensor) -> Tensor:
        """w(t) k(t)^2, the factor of the squared residual; float64 (B,)."""
        if self.weighting == "simple":
            return torch.ones_like(t)
        factor = self.noise_factor(t)
        if self.weighting == "likelihood":
            return -self.sde.log_snr_dot(t) / self.time.density(t) * factor
        if self.weighting == "min-snr":
            return torch.exp(-2 * self.sde.log_snr(t)).mul(GAMMA).clamp(max=1) * factor
        if self.weighting == "score":
            return factor / self.sde.sigma(t) ** 2
        return factor

    def errors(self, output: Tensor, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared residual of the network's output, float32 (B,).

        Args:
            output: the network's own output, (B, ...).
            x_0: clean samples, like `output`.
            noise: the noise they were perturbed with.
            t: times, float64 on the host, (B,).
        """
        output = output.float()
        if self.predict == "noise":
            residual = output - noise
        elif self.predict == "data":
            residual = output - x_0
        elif self.predict == "velocity":
            alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
            size = torch.sqrt(alpha**2 + sigma**2)
            residual = output - (like(alpha / size, x_0) * noise - like(sigma / size, x_0) * x_0)
        else:  # sigma (score - score*): of order one, where the score itself is of order 1/sigma
            residual = like(self.sde.sigma(t), x_0) * output + noise
        return residual.square().flatten(1).mean(1)

    def __call__(self, output: Tensor, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Weighted loss of each sample, float32 (B,); arguments as of `errors`."""
        errors = self.errors(output, x_0, noise, t)
        return like(self.weight(t), errors) * errors
