r"""A model told another time than the one its sample has: eps(x, t) where the network hears s.

That is what sharing time does to a model that was trained without it. Only the condition changes:
alpha and sigma stay those of t. On an exact model, or one whose condition cannot be told apart, it
is eps(x, s).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..conditioning import Conditioning
from ..denoiser import Denoiser, Predictor
from ..guidance import Around, innermost

__all__ = ["noise_told"]


class _Constant(Conditioning):
    """c = of(s), whatever the time."""

    def __init__(self, of: Conditioning, s: float) -> None:
        self.of, self.s, self.span = of, s, of.span

    def __call__(self, t: Tensor) -> Tensor:
        return self.of(torch.full_like(t, self.s))


def noise_told(
    model: Predictor, x: Tensor, t: Tensor, s: float, label: Tensor | None = None
) -> Tensor:
    """The noise prediction at (x, t) where the network is told the time s.

    Args:
        model: a model or an oracle.
        x: samples, (B, ...).
        t: their times, (B,) float64 on the host.
        s: the time to tell.
        label: classes (B,), or None.
    """
    if isinstance(innermost(model), Denoiser):
        return _telling(model, s).noise(x, t, label)
    return model.noise(x, s, label)


def _telling(model: Predictor, s: float) -> Predictor:
    """The model with its network told s."""
    if isinstance(model, Around):
        return model.around(_telling(model.of, s))
    assert isinstance(model, Denoiser)
    return model.told(_Constant(model.conditioning, s))
