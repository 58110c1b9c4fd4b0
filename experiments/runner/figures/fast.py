"""Figure of `fast`: Fréchet distance against evaluations, a panel per sampler and problem."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE

from ..spec import Experiment
from ..verdicts import Records
from ..words import arm_words
from .common import arms_of, legend_above, panels, pick, plain, seeds_of, shared, style
from .pictures import pictures

__all__ = ["draw"]

FAMILIES = {
    "DDIM, time grid": ("ddim-5", "ddim-10", "ddim-20", "ddim-50"),
    "DPM-Solver++, log-SNR grid": ("dpmpp-5", "dpmpp-10", "dpmpp-20", "dpmpp-50"),
    "DPM-Solver++, time grid": ("dpmpp-time-10", "dpmpp-time-20"),
    "adaptive dopri5": ("adaptive-loose", "adaptive"),
}


def draw(experiment: Experiment, records: Records) -> dict[str, tuple[Figure, str]]:
    """The figure, once there are results."""
    problems = [p for p in ("fashion", "digits") if arms_of(records, p, "ddim-10")]
    if not problems:
        return {}
    mine = [r for r in records if r["problem"] in problems and r["kind"] == "samples"]
    caption = (
        f"Lower is better; {_all_seeds(mine)}: lines are means, marks seeds, the same of all "
        "arms of a point; dotted: the same number of training images in place of samples, the "
        "floor."
    )
    figure, grid = panels(experiment, len(problems), 4, caption, height=2.3, sharex=False)
    with rc_context(STYLE):
        for problem, row in zip(problems, grid, strict=True):
            for axes, (name, evaluations) in zip(row, FAMILIES.items(), strict=True):
                _family(axes, records, problem, evaluations)
                axes.set_title(f"{problem}: {name}", fontsize=8)
            row[0].set_ylabel("Fréchet distance,\nclassifier features")
        for axes in grid[-1]:
            axes.set_xlabel("evaluations a sample")
        legend_above(figure, grid[0][0])
    made = {"curves": (figure, "Fréchet distance of samples against evaluations.")}
    for problem in problems:
        shown = pictures(experiment, records, problem, ("ddim-10", "dpmpp-20"))
        if shown is not None:
            made[f"samples-{problem}"] = (shown, f"Samples of each arm on {problem}.")
    return made


def _all_seeds(records: Records) -> str:
    """The seeds behind the points of each problem."""
    told = []
    for problem in dict.fromkeys(r["problem"] for r in records):
        mine = [r for r in records if r["problem"] == problem]
        points = [shared(pick(mine, evaluation=e)) for e in {r["evaluation"] for r in mine}]
        told.append(f"{problem}, {seeds_of(r for point in points for r in point)}")
    return "; ".join(told)


def _family(axes, records: Records, problem: str, evaluations: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    floors = []
    for index, arm in enumerate(arms_of(records, problem, "ddim-10")):
        x, y = [], []
        for evaluation in evaluations:
            point = shared(pick(records, problem=problem, evaluation=evaluation))
            found = pick(point, arm=arm)
            if found:
                x.append(np.mean([r["values"]["evaluations"] for r in found]))
                values = [r["values"]["classifier_frechet"] for r in found]
                floors += [r["values"]["classifier_frechet_floor"] for r in found]
                y.append(np.mean(values))
                look = style(index)
                axes.plot(
                    [x[-1]] * len(values), values, look["marker"], color=look["color"],
                    markersize=2.5, alpha=0.6,
                )  # fmt: skip
        if x:
            look = style(index) | {"marker": ""}
            axes.plot(x, y, label=arm_words(arm), **look)
    if floors:
        axes.axhline(np.mean(floors), color="0.3", linestyle=":", linewidth=0.8)
    axes.set(xscale="log", yscale="log")
    plain(axes, "x")
    plain(axes, "y")
    if not any(name.startswith("adaptive") for name in evaluations):
        numbers = [name.rpartition("-")[2] for name in evaluations]
        axes.set_xticks([int(number) for number in numbers], numbers)
