r"""The loss on held-out data, in all and per bin of t, on probes that never change.

Each bin [a_i, b_i) of `time_bins` holds the same number of probes (x_0, t, eps), t stratified
inside the bin. With e the squared error at a probe and p the training density of t,

    per bin     mean of |eps-hat - eps|^2 / d, in noise units: comparable between predictions,
                weightings and time distributions
    in all      sum_i (b_i - a_i) mean_i[ p(t) w(t) e ], the training objective; where noise levels
                are shared p is taken at the time drawn, w and e at its level

The probes are the same for every checkpoint and every run with the same data and seed, so
differences are the network's, not the draw's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..super_resolution import low_resolution
from .draws import seed_of
from .loss import DenoisingLoss, time_bins

__all__ = ["HeldOut", "HeldOutLoss"]

PROBES = (32, 1024)  # in a bin, at least and at most
ELEMENTS = 4096  # errors averaged in a bin: its spread between draws is then some 2 per cent
BLOCK = 256  # probes per noise generator, whatever the size of a batch


@dataclass(frozen=True)
class HeldOutLoss:
    """Result of an evaluation.

    Attributes:
        loss: the training objective on held-out data.
        bins: mean squared error of the noise per bin.
    """

    loss: float
    bins: tuple[float, ...]


class HeldOut:
    """Fixed probes of a denoiser.

    Args:
        loss: the training loss; gives the density of t and the weights.
        data: held-out samples (N, ...).
        labels: their classes (N,), or None.
        device: where the network is.
        batch_size: probes evaluated together, 256 at most; changes no probe.
        seed: of the probes.
        super_resolution: factor by which the image given to the network is smaller, or None.

    Attributes:
        edges: edges of the bins.
        per_bin: number of probes in each bin.
        drawn: times of the probes as drawn, float64 (N,).
        t: times at which the process is instead, unlike `drawn` where noise levels are shared.
    """

    def __init__(
        self,
        loss: DenoisingLoss,
        data: Tensor,
        labels: Tensor | None,
        device: torch.device,
        batch_size: int,
        seed: int = 0,
        super_resolution: int | None = None,
    ) -> None:
        self.super_resolution = super_resolution
        self.loss, self.device, self.batch_size = loss, device, batch_size
        self.edges = time_bins(loss.time.t_min, loss.time.t_max)
        low = torch.tensor(self.edges[:-1], dtype=torch.float64)
        high = torch.tensor(self.edges[1:], dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed_of(seed, "heldout"))
        least, most = PROBES
        self.per_bin = min(most, max(least, ELEMENTS // data[0].numel()))
        count = self.per_bin * len(low)
        share = torch.rand(len(low), self.per_bin, generator=generator, dtype=torch.float64)
        share = (torch.arange(self.per_bin, dtype=torch.float64) + share) / self.per_bin
        self.drawn = (low[:, None] + (high - low)[:, None] * share).flatten()
        self.t = loss.time.visited(self.drawn)
        self._width = high - low
        rows = torch.randperm(max(count, len(data)), generator=generator)[:count] % len(data)
        self.x_0 = data[rows]
        self.labels = None if labels is None else labels[rows]
        self.seed = seed

    @torch.no_grad()
    def evaluate(self, denoiser: Denoiser) -> HeldOutLoss:
        """Errors of the denoiser on the probes, its network in its own precision (no autocast)."""
        errors = torch.empty(len(self.t), dtype=torch.float64)
        generator = torch.Generator(self.device)
        for block in torch.split(torch.arange(len(self.t)), BLOCK):
            generator.manual_seed(seed_of(self.seed, "heldout", int(block[0])))
            shape = (len(block), *self.x_0.shape[1:])
            noise = torch.randn(shape, generator=generator, device=self.device)
            parts = (torch.split(each, self.batch_size) for each in (block, noise))
            for rows, eps in zip(*parts, strict=True):
                errors[rows] = self._errors(denoiser, rows, eps)
        density = self.loss.time.density(self.drawn) * self.loss.weight(self.t)
        objective = (density * errors).view(-1, self.per_bin).mean(1)
        in_noise = (self.loss.noise_factor(self.t) * errors).view(-1, self.per_bin).mean(1)
        return HeldOutLoss(float(self._width @ objective), tuple(in_noise.tolist()))

    def _errors(self, denoiser: Denoiser, rows: Tensor, noise: Tensor) -> Tensor:
        """Errors at some of the probes, float64 on the host (b,)."""
        t, x_0 = self.t[rows], self.x_0[rows].to(self.device)
        label = None if self.labels is None else self.labels[rows].to(self.device)
        factor = self.super_resolution
        image = low_resolution(x_0, factor) if factor else None
        output = denoiser.raw(self.loss.sde.perturb(x_0, t, noise), t, label, image)
        return self.loss.errors(output, x_0, noise, t).cpu().double()
