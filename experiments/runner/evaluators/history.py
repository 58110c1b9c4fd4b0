"""What a training recorded on its way: gradients and steepness by time, from its journal."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from .measured import Measured

__all__ = ["history"]

EARLY = 0.1  # below: where E-TSDM shares time


def history(of: Measured) -> dict[str, Any]:
    """The diagnostics of a training that was asked for them.

    Returns:
        step, edges, norm, variance and noise (by step and bin), k_times, k and jumps (by step);
        heldout_step and heldout; and, in single numbers, for the last quarter of the training,
        early_noise and late_noise (trace of the covariance of a sample's gradient, mean over bins
        of t below and above 0.1), and noise_ratio, the logarithm of the first over the second.

    Raises:
        ValueError: there is no run, or it has no diagnostics.
    """
    if of.run is None:
        raise ValueError("history: an exact model has none")
    lines = [json.loads(line) for line in (of.run / "metrics.jsonl").read_text().splitlines()]
    looks = [line for line in lines if "grad_noise_bins" in line]
    if not looks:
        raise ValueError("history: train with diagnostics: true")
    held = [line for line in lines if "heldout" in line]
    edges = np.array(looks[-1]["bin_edges"])
    width, early = np.diff(edges), edges[1:] <= EARLY
    late = looks[len(looks) * 3 // 4 :]
    noise = np.mean([line["grad_noise_bins"] for line in late], axis=0)
    means = [float((width * noise)[rows].sum() / width[rows].sum()) for rows in (early, ~early)]
    return {
        "step": [line["step"] for line in looks],
        "edges": edges.tolist(),
        "norm": [line["grad_norm_bins"] for line in looks],
        "noise": [line["grad_noise_bins"] for line in looks],
        "k_times": looks[-1]["k_times"],
        "k": [line["k"] for line in looks],
        "jumps": [line["jumps"] for line in looks],
        "heldout_step": [line["step"] for line in held],
        "heldout": [line["heldout"] for line in held],
        "early_noise": means[0],
        "late_noise": means[1],
        "noise_ratio": math.log(means[0] / means[1]),
    }
