"""Conditions that are a function of time or of the noise level, and what all promise."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, zeros_like

from ..sde import SDE

__all__ = ["EDM", "Conditioning", "LogSNR", "NoTime", "Sigma", "Time"]


class Conditioning(ABC):
    """c = c(t), float64 (B,) to float64 (B,).

    Attributes:
        breaks: the times at which c jumps (or has a kink), ascending, inside (0, 1).
        span: size of the range c covers over a run, in c's own unit; the embedding of a network
            divides by it so that every condition meets the same frequencies.
        quantised: whether the model knows some noise levels only: those of `visited`.
    """

    breaks: tuple[float, ...] = ()
    span: float = 1.0
    quantised: bool = False

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """The condition at times t."""

    def visited(self, t: Tensor) -> Tensor:
        """The times at which the process itself is to be instead of t: t, unless `quantised`."""
        return t

    def __repr__(self) -> str:
        return type(self).__name__


class Time(Conditioning):
    """c = t."""

    def __call__(self, t: Tensor) -> Tensor:
        return t


class _OfNoise(Conditioning):
    """A condition that is a function of the noise level."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde


class LogSNR(_OfNoise):
    """c = lambda(t) = log(alpha/sigma)."""

    span = 20.0

    def __call__(self, t: Tensor) -> Tensor:
        return self.sde.log_snr(t)


class Sigma(_OfNoise):
    """c = sigma(t)."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(sde)
        self.span = float(sde.sigma(1.0))

    def __call__(self, t: Tensor) -> Tensor:
        return self.sde.sigma(t)


class EDM(_OfNoise):
    """c = ln(sigma/alpha) / 4, the condition of Karras et al. 2022 (arXiv 2206.00364)."""

    span = 5.0

    def __call__(self, t: Tensor) -> Tensor:
        return -self.sde.log_snr(t) / 4


class NoTime(Conditioning):
    """c = 0: the network is told nothing, E-TSDM's limit."""

    def __call__(self, t: Tensor) -> Tensor:
        return zeros_like(t)
