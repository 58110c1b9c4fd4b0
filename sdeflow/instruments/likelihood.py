r"""What a model thinks of data: bits per dimension, and what is left after encoding and decoding.

Data with Q integer levels are dequantised, y = 2 (k + u)/Q - 1 with u uniform in [0, 1)^D, so that
the density of y bounds the probability of k (Theis et al. 2016, arXiv 1511.01844):

    bits per dimension    -log2 p(y) / D + log2(Q/2)  >=  -log2 P(k) / D  on average
    nats per dimension    -log p(x) / D, for data without levels

Reconstruction: y is carried to t_max along the flow and back again by sampling; in exact
arithmetic that is the identity, so what differs is the solver's error, both ways.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from solvers import Controller, Status

from ..batches import Progress
from ..chart import Chart
from ..denoiser import Predictor
from ..likelihood import Likelihood, bits_per_dimension, dequantise, log_likelihood
from ..modes import evaluated
from ..samplers import DEFAULT_SOLVER
from ..sampling import sample

__all__ = ["DataLikelihood", "data_likelihood"]


@dataclass(frozen=True)
class DataLikelihood:
    """Likelihood of data, in the unit that suits them.

    Attributes:
        unit: "bits/dim", or "nats/dim" for data without levels.
        value: (N,) negative log-likelihood per dimension, float64; NaN where it failed.
        divergence_error: (N,) standard error of it from Hutchinson's draws; None where the
            divergence is exact, NaN with one draw.
        prior: (N,) the prior's part of it.
        offset: log2(Q/2) for Q levels, in it already; 0 without.
        reconstruction: (N,) root mean square over the dimensions of decoded minus encoded, in
            units of x; NaN where either failed.
        levels: Q, or None.
        dimension: D.
        likelihood: What it was made of: status, latent, evaluations, settings.
    """

    unit: str
    value: Tensor
    divergence_error: Tensor | None
    prior: Tensor
    offset: float
    reconstruction: Tensor
    levels: int | None
    dimension: int
    likelihood: Likelihood

    @property
    def ok(self) -> np.ndarray:
        """Which samples have a likelihood, (N,) bool."""
        good: np.ndarray = self.likelihood.status == Status.ok
        return good

    def summary(self) -> dict[str, Any]:
        """Means over the samples that succeeded, with standard errors, ready for JSON."""
        ok = torch.from_numpy(self.ok)
        count, error, spread = int(ok.sum()), None, None
        if count > 1:
            spread = _number(self.value[ok].std() / math.sqrt(count))
        if self.divergence_error is not None:
            # One part of the standard error, not to be added to it.
            error = _number((self.divergence_error[ok] ** 2).sum().sqrt() / max(count, 1))
        evaluations = self.likelihood.evaluations
        back = self.reconstruction[~self.reconstruction.isnan()]
        return {
            "unit": self.unit,
            "mean": _number(self.value[ok].mean()),
            "standard_error": spread,
            "divergence_error": error,
            "prior": _number(self.prior[ok].mean()),
            "offset": self.offset,
            "reconstruction": _number((back**2).mean().sqrt()),
            "levels": self.levels,
            "dimension": self.dimension,
            "count": len(self.value),
            "failed": len(ok) - count,
            "evaluations": float(evaluations.mean()),
            **self.likelihood.settings,
        }

    def columns(self) -> dict[str, np.ndarray]:
        """The numbers of each sample, by name."""
        found = {
            "sample": np.arange(len(self.value)),
            self.unit.replace("/", "_per_"): self.value.numpy(),
            "prior": self.prior.numpy(),
            "reconstruction": self.reconstruction.numpy(),
            "evaluations": self.likelihood.evaluations,
            "status": self.likelihood.status,
        }
        if self.divergence_error is not None:
            found["divergence_error"] = self.divergence_error.numpy()
        return found


@evaluated
def data_likelihood(
    denoiser: Predictor,
    x: Tensor,
    levels: int | None = None,
    *,
    divergence: Literal["exact", "hutchinson"] = "hutchinson",
    draws: int = 2,
    seed: int = 0,
    solver: str = DEFAULT_SOLVER,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    controller: str | Controller = "pi",
    chart: str | Chart | None = None,
    t_min: float = 1e-5,
    t_max: float | None = None,
    breaks: bool | None = None,
    label: int | Tensor | None = None,
    batch_size: int | None = None,
    max_evaluations: int = 10_000,
    progress: Progress | None = None,
) -> DataLikelihood:
    """Likelihood of data under a model or an oracle, and its reconstruction.

    Args:
        denoiser: the model.
        x: (N, ...) data in [-1, 1] where they have levels.
        levels: Q, from `sdeflow.likelihood.levels_of`; None for data without, which are taken
            as they are.
        seed: of the dequantisation and of Hutchinson's signs.
        divergence, draws, solver, rtol, atol, controller, chart, t_min, t_max, breaks, label,
            batch_size, max_evaluations: as in `sdeflow.likelihood.log_likelihood`.
        progress: called with the share of the work done, in [0, 1].

    Raises:
        ValueError: an argument out of range, or a solver that cannot do this.
    """
    if len(x) < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}: needs at least 1 sample")
    y = x if levels is None else dequantise(x, levels, seed)

    def share(low: float, width: float) -> Progress | None:
        return None if progress is None else lambda part: progress(low + width * part)

    found = log_likelihood(
        denoiser, y, divergence=divergence, draws=draws, seed=seed, solver=solver, rtol=rtol,
        atol=atol, controller=controller, chart=chart, t_min=t_min, t_max=t_max, breaks=breaks,
        label=label, batch_size=batch_size, max_evaluations=max_evaluations,
        progress=share(0.0, 0.8),
    )  # fmt: skip
    ok = torch.from_numpy(found.status == Status.ok)
    back = torch.full((len(y),), math.nan, dtype=torch.float64)
    if ok.any():
        last = found.settings["t_max"]
        start = found.latent[ok.to(found.latent.device)] / denoiser.sde.prior_scale(last)
        decoded = sample(
            denoiser, solver=solver, rtol=rtol, atol=atol, controller=controller, chart=chart,
            t_min=t_min, t_max=last, breaks=breaks, noise=start, dtype=y.dtype,
            label=label[ok] if isinstance(label, Tensor) and label.dim() else label,
            batch_size=batch_size, max_evaluations=max_evaluations, on_failure="return",
            progress=share(0.8, 0.2),
        )  # fmt: skip
        change = (decoded.x.cpu().double() - y[ok].cpu().double()).flatten(1)
        change[torch.from_numpy(~decoded.ok)] = math.nan
        back[ok] = (change**2).mean(1).sqrt()
    dimension = y[0].numel()
    scale = dimension if levels is None else dimension * math.log(2)
    value = -found.log_prob / dimension
    if levels is not None:
        value = bits_per_dimension(found.log_prob, dimension, levels)
    return DataLikelihood(
        unit="nats/dim" if levels is None else "bits/dim",
        value=value.cpu(),
        divergence_error=None if found.error is None else found.error.cpu() / scale,
        prior=-found.prior.cpu() / scale,
        offset=0.0 if levels is None else math.log2(levels / 2),
        reconstruction=back,
        levels=levels,
        dimension=dimension,
        likelihood=found,
    )


def _number(value: Tensor) -> float | None:
    """A number that JSON can hold; None for NaN."""
    return float(value) if math.isfinite(float(value)) else None
