"""What the figures share: the style of each arm, means over seeds, and axes in one style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from sdeflow.plots import LINES, STYLE, captioned

from ..spec import Experiment
from ..verdicts import Records

__all__ = [
    "arms_of",
    "band",
    "bands_of",
    "legend_above",
    "means_of",
    "panels",
    "pick",
    "plain",
    "seeds_of",
    "shared",
    "style",
]

Array = NDArray[np.float64]
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<")
LOOKS = (
    *LINES,
    ("#8d4c9e", (0, (1, 1))),
    ("#c9a227", "-"),
    ("#3f9a97", (0, (6, 2))),
)


def style(index: int) -> dict[str, Any]:
    """Line and mark of the arm with a number; told apart without colour."""
    colour, dash = LOOKS[index % len(LOOKS)]
    return {"color": colour, "linestyle": dash, "marker": MARKS[index % len(MARKS)]}


def plain(axes: Axes, which: str) -> None:
    """A logarithmic axis (x or y) that spans little, labelled 0.5, 1, 2 in place of powers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if high / low < 4:  # powers and their multiples would leave one or two
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_above(figure: Figure, axes: Axes) -> None:
    """What an axes shows, named above the panels on the right, in two rows if need be."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    fits = sum(len(label) + 8 for label in named) < 12.5 * figure.get_size_inches()[0]
    columns = len(named) if fits else -(-len(named) // 2)
    figure.legend(named.values(), named.keys(), loc="upper right", ncols=max(1, columns))


def pick(records: Records, **wanted: Any) -> list[Any]:
    """Records in which the named fields have these values, by seed."""
    found = [r for r in records if all(r[name] == value for name, value in wanted.items())]
    return sorted(found, key=lambda record: record["seed"])


def arms_of(records: Records, problem: str, evaluation: str) -> list[str]:
    """Arms with results, in the order of the file."""
    found = [r["arm"] for r in records if (r["problem"], r["evaluation"]) == (problem, evaluation)]
    return list(dict.fromkeys(found))


def shared(records: Records) -> list[Any]:
    """Those of the seeds that all arms among the records have, so that means can be compared."""
    seeds: dict[str, set[int]] = {}
    for record in records:
        seeds.setdefault(record["arm"], set()).add(record["seed"])
    common = set.intersection(*seeds.values()) if seeds else set()
    return [record for record in records if record["seed"] in common]


def seeds_of(records: Iterable[Any]) -> str:
    """The seeds behind some records, for captions."""
    seeds = sorted({record["seed"] for record in records})
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def means_of(records: Iterable[Any]) -> str:
    """What a line of some records is, for captions: a mean over seeds, or the one seed."""
    seeds = seeds_of(records)
    return f"mean over {seeds}" if "," in seeds else seeds


def bands_of(records: Iterable[Any]) -> str:
    """What the bands of some records are, for the end of a caption: nothing with one seed."""
    return "; bands: range over seeds" if "," in seeds_of(records) else ""


def band(
    axes: Axes, x: Sequence[float] | Array, series: Sequence[Any], label: str, index: int,
    marks: bool = True,
) -> None:  # fmt: skip
    """Mean over seeds as a line, smallest to largest as a band."""
    values = np.array([[np.nan if v is None else v for v in one] for one in series], dtype=float)
    look = style(index)
    if not marks:
        look["marker"] = ""
    axes.plot(x, values.mean(0), label=label, markersize=3, **look)
    if len(values) > 1:
        axes.fill_between(
            x, values.min(0), values.max(0), color=look["color"], alpha=0.15, linewidth=0
        )


def panels(
    experiment: Experiment, rows: int, columns: int, caption: str, width: float = 10.5,
    height: float = 2.6, **more: Any,
) -> tuple[Figure, NDArray[Any]]:  # fmt: skip
    """A grid of axes with room for a caption and a legend above."""
    with rc_context(STYLE):
        text = f"{experiment.title.rstrip('.?')}, scale {experiment.scale}. {caption}"
        figure, bottom = captioned(width, 0.65 + height * rows, text)
        grid = figure.subplots(rows, columns, squeeze=False, **more)
        tall = figure.get_size_inches()[1]
        figure.subplots_adjust(
            left=0.85 / width,
            right=1 - 0.15 / width,
            top=1 - 0.6 / tall,
            bottom=bottom + 0.5 / tall,
            wspace=0.28,
            hspace=0.42,
        )
    return figure, grid
