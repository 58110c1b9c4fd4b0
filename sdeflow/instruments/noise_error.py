r"""Noise-prediction errors of a run where no exact model is known: what can be said of them.

Per bin of t, on the fixed probes of `sdeflow.training.heldout`, the mean squared error per number

    held out    E |eps-hat - eps|^2 / d     on data the network never saw
    train       the same on its training data: less, where it has learnt them by heart
    linear      held out, of the exact denoiser of one Gaussian with the mean and covariance of the
                training data: what the best affine prediction reaches

Each holds the part that no prediction can avoid, E Var[eps | x], so none is the model's error
alone; but differences are free of it: (held out - train) is what the model loses to overfitting,
and (linear - held out) what it gains over second moments.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from ..batches import device_of
from ..data import Dataset
from ..denoiser import Denoiser
from ..modes import evaluated
from ..oracle import Gaussian, Oracle
from ..sde import SDE
from ..training.heldout import HeldOut
from ..training.loss import DenoisingLoss, TimeDistribution

__all__ = ["heldout_errors"]

LARGEST = 1024  # numbers in a sample up to which a full covariance is used
SAMPLES = 10_000  # training samples behind the covariance, at most


class _Network(Denoiser):
    """An exact model where a network is expected: its own output is the noise prediction."""

    def __init__(self, of: Oracle) -> None:
        super().__init__(torch.nn.Identity(), of.sde)
        self.exact = of

    def raw(
        self,
        x: Tensor,
        t: Tensor | float,
        label: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        return self.exact.noise(x.cpu(), t).to(x.device)


@evaluated
def heldout_errors(
    model: Denoiser,
    data: Dataset,
    *,
    t_min: float,
    t_max: float,
    labels: bool = False,
    batch_size: int = 128,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Errors per bin of t.

    Args:
        model: the run's model.
        data: what it was trained on.
        t_min, t_max: the training times.
        labels: whether the model is told classes.
        batch_size: probes at once.
        seed: of the probes.

    Returns:
        A row per bin with keys t_high, t_low, sigma_high, sigma_low, log_snr_high, log_snr_low,
        heldout, train, and linear (None for samples of more than 1024 numbers).
    """
    sde = model.sde
    device = device_of(model)
    law = TimeDistribution("uniform", sde, t_min, t_max)

    def errors(of: Denoiser, x: Tensor, classes: Tensor | None) -> tuple[float, ...]:
        loss = DenoisingLoss(of.prediction, "simple", law)
        probes = HeldOut(loss, x, classes if labels else None, device, batch_size, seed)
        edges.extend(probes.edges[len(edges) :])
        return probes.evaluate(of).bins

    edges: list[float] = []
    columns: dict[str, tuple[float | None, ...]] = {
        "heldout": errors(model, data.heldout, data.heldout_labels),
        "train": errors(model, data.train, data.train_labels),
    }
    columns["linear"] = (None,) * (len(edges) - 1)
    if data.heldout[0].numel() <= LARGEST:
        columns["linear"] = errors(_linear(sde, data.train), data.heldout, None)
    return [
        {
            "t_high": high,
            "t_low": low,
            "sigma_high": float(sde.sigma(high)),
            "sigma_low": float(sde.sigma(low)),
            "log_snr_high": float(sde.log_snr(low)),
            "log_snr_low": float(sde.log_snr(high)),
            **{name: values[i] for name, values in columns.items()},
        }
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    ]


def _linear(sde: SDE, x: Tensor) -> Denoiser:
    """The exact denoiser of the Gaussian with the mean and covariance of x."""
    points = x[torch.linspace(0, len(x) - 1, min(len(x), SAMPLES)).long()].double()
    covariance = torch.cov(points.flatten(1).T).reshape(points[0].numel(), -1)
    return _Network(Gaussian(sde, points.mean(0), covariance=covariance))
