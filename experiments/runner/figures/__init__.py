"""The figures: every experiment has one of its claims, and what its file names besides."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from ..spec import Experiment
from ..verdicts import Finding, Records
from .forest import forest

__all__ = ["draw"]


def draw(
    experiment: Experiment, records: Records, found: Sequence[Finding]
) -> dict[str, tuple[Figure, str]]:
    """Name -> figure and what it shows, in a sentence; those for which there are results."""
    module = importlib.import_module(f".{experiment.figure}", __package__)
    figures: dict[str, tuple[Figure, str]] = module.draw(experiment, records)
    claims = forest(experiment, found)
    if claims is not None:
        figures["claims"] = (
            claims,
            "Each comparison: dots are seeds, bars 95 % intervals; left of 1 the first is lower.",
        )
    return figures
