"""How much answers and samples change when the model is perturbed, by the library's instrument."""

from __future__ import annotations

from typing import Any

from sdeflow.instruments.sensitivity import sensitivity_study

from .measured import Measured

__all__ = ["sensitivity"]

TIMES = (0.002, 0.01, 0.05, 0.1, 0.5)
SCALES = (0.01, 0.1)
PERTURBED = ("x", "condition", "features")


def sensitivity(of: Measured, *, count: int, steps: int = 20) -> dict[str, Any]:
    """Relative changes of the noise prediction and of the samples.

    Returns:
        Means over samples, under "PERTURBED ANSWER T SCALE"; perturbed one of x, condition and
        features, answer one of prediction and sample; times, scales.
    """
    labels = of.data.heldout_labels if of.subject.config.class_condition else None
    study = sensitivity_study(
        of.model,
        of.probes(),
        TIMES,
        scales=SCALES,
        perturb=PERTURBED,
        samples=True,
        steps=steps,
        label=labels,
        count=count,
        seed=of.subject.seed,
    )
    found: dict[str, Any] = {"times": list(TIMES), "scales": list(SCALES)}
    for row in study.rows:
        key = f"{row['perturbed']} {row['answer']} {row['t']:g} {row['scale']:g}"
        found[key] = row["mean"]
    return found
