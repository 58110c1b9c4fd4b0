"""Figures of `smooth_time`: steepness, error by time, and what the scale s does."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..spec import Experiment
from ..verdicts import Records
from .common import arms_of
from .curves import steepness
from .quality import error_by_time
from .ranking import ranking

__all__ = ["draw"]

MAIN = ["baseline", "etsdm", "smooth-0.1"]
HELD = ["baseline", "smooth-0.1", "smooth-low", "smooth-penalty"]
SHAPES = ["baseline", "smooth-0.1", "power-1.5", "power-4", "equalised", "equalised-0.01"]
SCALES = ["baseline", "smooth-0.02", "smooth-0.05", "smooth-0.1", "smooth-0.2", "smooth-0.5"]


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """The figures for which there are results."""
    made: dict[str, tuple[Figure | None, str]] = {
        problem: (
            steepness(experiment, records, problem, MAIN, f"Networks trained on {problem}"),
            f"Steepness on {problem}: baseline, E-TSDM and smooth time.",
        )
        for problem in ("fashion", "fashion-9000", "digits")
    }
    made["scales"] = (
        steepness(experiment, records, "digits", SCALES, "Scales of smooth time, digits"),
        "Steepness in time for five scales of smooth time.",
    )
    made["held-down"] = (
        steepness(experiment, records, "digits", HELD, "What holds smooth time down, digits"),
        "Smooth time with a narrower embedding, or with a small penalty on steepness.",
    )
    made["shapes"] = (
        steepness(experiment, records, "digits", SHAPES, "Shapes of smooth time, digits"),
        "Steepness in time for other shapes of smooth time.",
    )
    made["arms"] = (ranking(experiment, records, "digits"), "All arms on digits.")
    made["error"] = (
        error_by_time(experiment, records, MAIN),
        "Held-out error of the noise prediction by time, over the baseline's.",
    )
    if all(arm in MAIN for arm in arms_of(records, "digits", "lipschitz")):  # nothing to add yet
        for name in ("scales", "held-down", "shapes"):
            del made[name]
    return {name: (figure, text) for name, (figure, text) in made.items() if figure is not None}
