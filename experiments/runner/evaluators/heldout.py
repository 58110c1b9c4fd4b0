"""Error of the noise prediction on held-out data, by time."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdeflow.denoiser import Denoiser
from sdeflow.training.heldout import HeldOut
from sdeflow.training.loss import DenoisingLoss, TimeDistribution

from .measured import Measured

__all__ = ["heldout"]


def heldout(
    of: Measured, *, draws: int, t_min: float | None = None, t_max: float = 0.999
) -> dict[str, Any]:
    """Mean squared error of the noise prediction per bin of t, and where sharing acts.

    The bins reach over the same times in all arms, and the probes are the same for all arms and
    seeds.

    Args:
        of: a trained model.
        draws: sets of probes to average over, each as large as a training's own.
        t_min, t_max: the range; from where the training began by default.

    Returns:
        edges, bins; early: mean over t uniform in [0, 0.1) from t_min on; all: over all t.
    """
    if not isinstance(of.model, Denoiser):
        raise ValueError("heldout: an exact model has no error to measure")
    config, data = of.subject.config, of.data
    least = config.t_min if t_min is None else t_min
    law = TimeDistribution("uniform", of.model.sde, least, t_max)
    loss = DenoisingLoss(config.predict, "simple", law)
    labels = data.heldout_labels if config.class_condition else None
    device = next(of.model.parameters()).device
    bins = []
    for draw in range(draws):
        probes = HeldOut(loss, data.heldout, labels, device, 256, seed=1000 + draw)
        bins.append(probes.evaluate(of.model).bins)
    mean, edges = np.mean(bins, axis=0), np.array(probes.edges)
    width = np.diff(edges)
    early = edges[1:] <= 0.1
    return {
        "edges": edges.tolist(),
        "bins": mean.tolist(),
        "early": float((width * mean)[early].sum() / width[early].sum()),
        "all": float((width * mean).sum() / width.sum()),
    }
