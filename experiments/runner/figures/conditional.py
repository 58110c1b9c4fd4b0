"""Figure of `conditional`: its arms side by side."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..spec import Experiment
from ..verdicts import Records
from .ranking import ranking

__all__ = ["draw"]

PROBLEMS = ("fashion-classes", "fashion-super")


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """A figure per problem, once there are results."""
    made = {problem: ranking(experiment, records, problem) for problem in PROBLEMS}
    return {
        problem: (figure, f"All arms on {problem}.")
        for problem, figure in made.items()
        if figure is not None
    }
