r"""What training does near t = 0, on probes that never change: its gradients, and K.

For bin i of `time_bins`, probes j = 1..n with t in the bin (where noise levels are shared, at the
level of t), and the denoising loss l (its weight w(t) included; the density p(t) and penalties
left out),

    G_ij        gradient of l(x_0j, t_j, eps_j) in all weights
    norm        mean over j of ||G_ij||
    variance    their sample variance, 1/(n - 1) sum_j (||G_ij|| - norm)^2
    noise       1/(n - 1) sum_j ||G_ij - mean_j G_ij||^2, an unbiased estimate of the trace of the
                covariance of one sample's gradient; a batch of B has a B-th of it

of the network being trained, and of its average the paper's K(t) = K(t, t + 1/1000) and, where
the condition jumps, the jumps (`sdeflow.instruments.lipschitz`). Everything is computed in float32
without autocast or dropout.

Nothing here draws from a generator that training uses, nor leaves a trace in weights, gradients or
modes: a run with diagnostics has the weights of one without, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..denoiser import Denoiser
from ..instruments.lipschitz import JUMP_STEP, lipschitz_study
from ..precision import own_precision
from .draws import seed_of
from .loss import DenoisingLoss, time_bins

__all__ = ["Diagnosis", "Diagnostics"]

PER_BIN = 8  # n: variances from so few are good to a factor of 1.5, but paired between steps
NUMBERS = 2**25  # of gradients held at once
K_TIMES = (1e-3, 1e-2, 0.1, 0.5)  # besides t_min
K_SAMPLES = 16


@dataclass(frozen=True)
class Diagnosis:
    """Result of one look at a training.

    Attributes:
        norm, variance, noise: of the gradients per bin.
        k: K(t) at each time of `Diagnostics.times`.
        k_error: their standard errors over the probes.
        k_crosses: whether t + 1/1000 lies beyond a jump, so that K is made of that.
        jumps: mean jump of the noise prediction at each of `Diagnostics.breaks`.
    """

    norm: tuple[float, ...]
    variance: tuple[float, ...]
    noise: tuple[float, ...]
    k: tuple[float, ...]
    k_error: tuple[float, ...]
    k_crosses: tuple[bool, ...]
    jumps: tuple[float, ...]


class Diagnostics:
    """Fixed probes of a training.

    Args:
        loss: the training loss.
        data: held-out samples (N, ...).
        labels: their classes (N,), or None.
        device: where the network is.
        breaks: times at which the condition jumps.
        batch_size: probes of K evaluated together.
        seed: of the probes.

    Attributes:
        edges: edges of the bins of the gradients.
        times: where K is measured.
        breaks: where jumps are.
    """

    def __init__(
        self,
        loss: DenoisingLoss,
        data: Tensor,
        labels: Tensor | None,
        device: torch.device,
        breaks: tuple[float, ...],
        batch_size: int,
        seed: int = 0,
    ) -> None:
        self.loss, self.data, self.labels, self.device = loss, data, labels, device
        self.batch_size, self.seed = batch_size, seed
        t_min, t_max = loss.time.t_min, loss.time.t_max
        self.edges = time_bins(t_min, t_max)
        inside = [t for t in K_TIMES if t_min < t <= t_max - JUMP_STEP]
        self.times = tuple([t_min, *inside] if t_min <= t_max - JUMP_STEP else inside)
        self.breaks = tuple(b for b in breaks if self.times and t_min <= b <= self.times[-1])
        low = torch.tensor(self.edges[:-1], dtype=torch.float64)
        high = torch.tensor(self.edges[1:], dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed_of(seed, "diagnostics"))
        share = torch.rand(len(low), PER_BIN, generator=generator, dtype=torch.float64)
        share = (torch.arange(PER_BIN, dtype=torch.float64) + share) / PER_BIN
        self.t = loss.time.visited(low[:, None] + (high - low)[:, None] * share)
        self.rows = torch.randint(len(data), (len(low), PER_BIN), generator=generator)
        self.noise = torch.randn(*self.rows.shape, *data.shape[1:], generator=generator)

    def diagnose(self, denoiser: Denoiser, average: Denoiser) -> Diagnosis:
        """Look at the network being trained (its gradients) and at its average (K)."""
        norm, variance, noise = self._gradients(denoiser)
        if not self.times:
            return Diagnosis(norm, variance, noise, (), (), (), ())
        study = lipschitz_study(
            average,
            self.data,
            self.times,
            steps=(JUMP_STEP,),
            measure=("noise",),
            derivative=False,
            label=self.labels,
            count=K_SAMPLES,
            batch_size=self.batch_size,
            seed=seed_of(self.seed, "steepness"),
        )
        k, error, crosses = (
            tuple(row[key] for row in study.curve) for key in ("mean", "error", "crosses")
        )
        jumps = tuple(row["mean"] for row in study.jumps)
        return Diagnosis(norm, variance, noise, k, error, crosses, jumps)

    def metrics(self, found: Diagnosis) -> dict[str, Any]:
        """A diagnosis as a line of ``metrics.jsonl``."""
        return {
            "grad_norm_bins": found.norm,
            "grad_norm_variance_bins": found.variance,
            "grad_noise_bins": found.noise,
            "bin_edges": self.edges,
            "k_times": self.times,
            "k": found.k,
            "k_error": found.k_error,
            "k_crosses": found.k_crosses,
            "jump_times": self.breaks,
            "jumps": found.jumps,
        }

    def named(self, found: Diagnosis) -> dict[str, float]:
        """A diagnosis as named numbers, for tracking."""
        names = [f"t {low:g} to {high:g}" for low, high in pairwise(self.edges)]
        columns = {
            "gradient norm": (names, found.norm),
            "gradient norm variance": (names, found.variance),
            "gradient noise": (names, found.noise),
            "K": ([f"t {t:g}" for t in self.times], found.k),
            "jump": ([f"t {t:g}" for t in self.breaks], found.jumps),
        }
        return {
            f"{kind}/{name}": value
            for kind, (names, values) in columns.items()
            for name, value in zip(names, values, strict=True)
        }

    def _gradients(self, denoiser: Denoiser) -> tuple[tuple[float, ...], ...]:
        """Norm, variance of the norm, and noise, per bin."""
        training = {module: module.training for module in denoiser.modules()}
        denoiser.eval()  # no dropout
        try:
            bins = [self._bin(denoiser, index) for index in range(len(self.t))]
        finally:
            _restore(training)
        return tuple(zip(*bins, strict=True))

    def _bin(self, denoiser: Denoiser, index: int) -> tuple[float, float, float]:
        weights = {
            name: weight.detach()
            for name, weight in denoiser.network.named_parameters()
            if weight.requires_grad
        }
        chunk = max(1, NUMBERS // sum(weight.numel() for weight in weights.values()))
        squares: list[Tensor] = []
        total: list[Tensor] = []
        for first in range(0, PER_BIN, chunk):
            gradients = self._gradients_of(denoiser, weights, index, slice(first, first + chunk))
            flat = [gradient.flatten(1) for gradient in gradients]
            squares.append(torch.stack([g.square().sum(1) for g in flat]).sum(0).cpu().double())
            sums = [g.sum(0) for g in flat]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
        size = torch.cat(squares)
        summed = torch.stack([t.square().sum() for t in total]).cpu().double().sum()
        noise = (size.sum() - summed / PER_BIN) / (PER_BIN - 1)
        norms = size.sqrt()
        return float(norms.mean()), float(norms.var()), float(noise)

    def _gradients_of(
        self, denoiser: Denoiser, weights: dict[str, Tensor], index: int, which: slice
    ) -> tuple[Tensor, ...]:
        """Gradient of each sample's loss in each weight, (b, ...) each."""
        rows, t = self.rows[index, which], self.t[index, which]
        x_0 = self.data[rows].to(self.device)
        noise = self.noise[index, which].to(self.device)
        x, c = denoiser.inputs(self.loss.sde.perturb(x_0, t, noise), t)
        given = [x, c]
        if self.labels is not None:
            given.append(self.labels[rows].to(self.device))
        inputs = [a.unsqueeze(1) for a in (x_0, noise, t, *given)]

        def loss(
            weights: dict[str, Tensor], x_0: Tensor, noise: Tensor, t: Tensor, *given: Tensor
        ) -> Tensor:
            output = functional_call(denoiser.network, weights, given)
            return self.loss(output, x_0, noise, t).sum()

        each = vmap(grad(loss), in_dims=(None, *[0] * len(inputs)))
        with own_precision(self.device):
            return tuple(each(weights, *inputs).values())


def _restore(training: dict[nn.Module, bool]) -> None:
    """Each module's mode as it was."""
    for module, mode in training.items():
        module.training = mode
