"""The samples on which a model is measured: x drawn at time t, the same noise at every time.

Sharing data and noise between times (and between models, given the seed) makes curves smooth and
comparisons paired: most of the sampling error of a difference cancels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batches import generator_of, labels_of
from ..denoiser import Predictor
from .derivative import precise, state_of

__all__ = ["Probe", "draw_data", "place", "statistics"]

Array = NDArray[np.float64]


class Probe:
    """Samples x_t of a model's process at any time, from the same data and noise at all times.

    Args:
        model: the model; of 16-bit weights a float32 copy is measured.
        x_0: data, (N, ...), on the host; None lets an exact model draw its own.
        label: classes of x_0, (N,), or None; sample i belongs to pair i of a `Paired` model.
        count: how many samples.
        batch_size: how many at once.
        seed: of the noise, and of which x_0.

    Attributes:
        model: what is to be asked.
        dtype, device: of x.
        x_0, noise: (count, ...) float64, on the host.
        label: (count,), or None.

    Raises:
        ValueError: sizes that cannot be, or no x_0.
    """

    def __init__(
        self,
        model: Predictor,
        x_0: Tensor | None,
        label: Tensor | None,
        count: int,
        batch_size: int,
        seed: int,
    ) -> None:
        if count < 2 or batch_size < 1:
            raise ValueError(f"count={count}, batch_size={batch_size}: need 2 and 1 at least")
        self.model = model = precise(model)
        self.dtype, self.device = state_of(model)
        self.batch_size = batch_size
        generator = generator_of(seed)
        if x_0 is None:
            x_0 = draw_data(model, count, seed)
        else:
            if label is not None and len(label) != len(x_0):
                raise ValueError(f"label: {len(label)} classes for {len(x_0)} samples of x_0")
            if label is None:
                label = labels_of(None, len(x_0), model)
            # Each sample once before any comes again.
            rounds = [
                torch.randperm(len(x_0), generator=generator) for _ in range(-(-count // len(x_0)))
            ]
            chosen = torch.cat(rounds)[:count]
            x_0, label = x_0[chosen], None if label is None else label[chosen]
        self.x_0, self.label = x_0.to(torch.float64), label
        self.noise = torch.randn(self.x_0.shape, dtype=torch.float64, generator=generator)

    def rows(self) -> list[slice]:
        """The batches."""
        starts = range(0, len(self.x_0), self.batch_size)
        return [slice(i, i + self.batch_size) for i in starts]

    def batches(self, t: float) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """x drawn at time t, with t (float64, on the host) and labels, a batch at a time."""
        made = []
        for rows in self.rows():
            x = self.model.sde.perturb(self.x_0[rows], t, self.noise[rows])
            x = x.to(self.dtype).to(self.device)
            label = None if self.label is None else self.label[rows].to(self.device)
            made.append((x, torch.full((len(x),), t, dtype=torch.float64), label))
        return made


def draw_data(model: Predictor, count: int, seed: int = 0) -> Tensor:
    """Samples x_0 of an exact model's own data, (count, ...).

    Raises:
        ValueError: the model does not know its data.
    """
    of: Any = model
    while not hasattr(of, "sample"):
        if hasattr(of, "of"):
            of = of.of
        elif hasattr(of, "members"):
            of = of.members[-1]
        else:
            raise ValueError("x_0 is missing: give samples of the data the model was made for")
    drawn: Tensor = of.sample(count, generator=generator_of(seed))
    return drawn


def statistics(values: Array) -> dict[str, float]:
    """Mean over samples, its standard error, median and maximum."""
    return {
        "mean": float(values.mean()),
        "error": float(values.std(ddof=1) / math.sqrt(len(values))),
        "median": float(np.median(values)),
        "maximum": float(values.max()),
    }


def place(model: Predictor, t: float) -> dict[str, float]:
    """A time, and what the noise is there."""
    return {"t": t, "sigma": float(model.sde.sigma(t)), "log_snr": float(model.sde.log_snr(t))}
