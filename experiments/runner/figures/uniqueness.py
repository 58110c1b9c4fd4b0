"""Figure of `uniqueness`: separation of neighbours against the end time, both directions."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import band, bands_of, legend_above, panels, pick, seeds_of

__all__ = ["draw"]


def _seeds(records: Records) -> str:
    """Seeds by problem; the plane stands for exact models."""
    names = {"plane": "exact models"}
    problems = dict.fromkeys(r["problem"] for r in records)
    return "; ".join(
        f"{names.get(p, p)}, {seeds_of(r for r in records if r['problem'] == p)}" for p in problems
    )


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """The figure, once there are results."""
    mine = [r for r in records if r["evaluation"] == "neighbours"]
    if not mine:
        return {}
    caption = (
        f"Mean over pairs and seeds ({_seeds(mine)}) of log(distance at the end / at the start), "
        f"a hundred-thousandth apart at first{bands_of(mine)}. Below 0: neighbours merge."
    )
    figure, grid = panels(experiment, 1, 2, caption, width=9, height=3.0)
    with rc_context(STYLE):
        for axes, way in zip(grid[0], ("backward", "forward"), strict=True):
            pairs = list(dict.fromkeys((r["problem"], r["arm"]) for r in mine))
            for index, (problem, arm) in enumerate(pairs):
                found = pick(mine, problem=problem, arm=arm)
                exact = arm.startswith("exact")
                name = arm_words(arm) if exact else f"{problem}, {arm_words(arm)}"
                series = [r["values"][way] for r in found]
                band(axes, found[0]["values"]["t_min"], series, name, index)
            axes.axhline(0, color="0.4", linewidth=0.6)
            start, end = ("1", "t_min") if way == "backward" else ("t_min", "1")
            axes.set(xscale="log", xlabel="t_min", title=f"{way}: from t = {start} to {end}")
        grid[0][0].set_ylabel("separation, nats")
        legend_above(figure, grid[0][0])
    return {"separation": (figure, "Separation of neighbouring solutions.")}
