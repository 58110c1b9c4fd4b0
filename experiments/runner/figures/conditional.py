"""Figure of `conditional`: its arms side by side."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..spec import Experiment
from ..verdicts import Records
from .pictures import pictures
from .ranking import ranking

__all__ = ["draw"]

PROBLEMS = ("fashion-classes", "fashion-super")


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """A figure per problem, once there are results."""
    made: dict[str, tuple[Figure, str]] = {}
    for problem, sampler in zip(PROBLEMS, ("dpmpp-20-guided", "dpmpp-20-super"), strict=True):
        figure = ranking(experiment, records, problem)
        if figure is not None:
            made[problem] = (figure, f"All arms on {problem}.")
        shown = pictures(experiment, records, problem, (sampler,))
        if shown is not None:
            made[f"samples-{problem}"] = (shown, f"Samples of each arm on {problem}.")
    return made
