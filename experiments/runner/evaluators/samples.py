"""Quality of samples: every metric of the library against held-out data, and its floor.

Sample i of seed s starts from the same noise in every arm, so that differences between arms of
one seed are paired. The floor is the value of as many training samples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdeflow.metrics import Comparison, Features, Pixels, classifier_features
from sdeflow.sampling import sample
from sdeflow.super_resolution import first_images

from .measured import Measured

__all__ = ["samples"]

WORST = 10.0  # failed samples count as this far from everything


def samples(
    of: Measured,
    *,
    solver: str,
    count: int,
    steps: int | None = None,
    tolerance: float | None = None,
    chart: str | None = None,
    grid: str | None = None,
    t_min: float = 1e-3,
    final: str = "none",
    guidance: float = 1.0,
    tiles: int = 0,
    batch_size: int | None = 250,
) -> dict[str, Any]:
    """Draw samples and measure them.

    Args:
        of: the model.
        solver, steps, chart, grid, t_min, final, guidance, batch_size: as in `sdeflow.sample`.
        tolerance: rtol and atol, both.
        count: how many; at most as many as there are held-out and training samples.
        tiles: how many of them to keep as pictures.

    Returns:
        SPACE_METRIC and SPACE_METRIC_floor for each space and metric; evaluations of the model a
        sample, batched calls, share of samples that failed, seconds of sampling; rms_to_image: of
        super-resolution, the distance to the image that was made small.
    """
    data, seed = of.data, of.subject.seed
    count = min(count, len(data.heldout), len(data.train))
    factor = of.subject.config.super_resolution
    drawn = sample(
        of.model,
        of.shape,
        solver=solver,
        steps=steps,
        rtol=tolerance,
        atol=tolerance,
        chart=chart,
        grid=grid,
        t_min=t_min,
        final=final,  # type: ignore[arg-type]
        guidance=guidance,
        label=of.labels(count),
        image=first_images(data.heldout, factor, count) if factor else None,
        count=count,
        seed=seed,
        batch_size=batch_size,
        on_failure="return",
    )
    x = drawn.x.float().cpu()
    bad = ~torch.isfinite(x).flatten(1).all(1) | ~torch.from_numpy(drawn.ok)
    x[bad] = WORST
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:count]
    found: dict[str, Any] = {
        "evaluations": float(drawn.log.evaluations.mean()),
        "calls": int(drawn.log.calls),
        "failed": float(bad.double().mean()),
        "sampling_seconds": drawn.seconds,
        "count": count,
        "sampler": drawn.caption(),
    }
    if factor:  # the samples answer to held-out images, one each
        found["rms_to_image"] = float((x - data.heldout[:count]).square().mean().sqrt())
    for name, space in _spaces(of).items():
        found |= _distances(name, "", space, x, data.heldout[:count])
        found |= _distances(name, "_floor", space, data.train[rows], data.heldout[:count])
    if tiles and data.is_image:
        grey = ((x[:tiles, 0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        found["tiles"] = grey.tolist()
    elif tiles:
        found["tiles"] = [[round(v, 3) for v in point] for point in x[:tiles].tolist()]
    return found


def _spaces(of: Measured) -> dict[str, Features]:
    spaces: dict[str, Features] = {"pixels": Pixels(of.data.data_shape)}
    if of.data.is_image and of.data.num_classes > 1:
        spaces["classifier"] = classifier_features(of.data, of.cache)
    return spaces


def _distances(
    name: str, suffix: str, space: Features, x: Tensor, reference: Tensor
) -> dict[str, float]:
    """Each metric, once for all samples."""
    comparison = Comparison(space(x), space(reference), seed=0)
    values = comparison.values(np.ones((1, len(x))), np.ones((1, len(reference))))
    return {
        f"{name}_{metric}{suffix}": float(value[0]) if math.isfinite(value[0]) else math.inf
        for metric, value in values.items()
    }
