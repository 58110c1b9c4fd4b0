"""The claims of an experiment that compare by ratio, a line for each comparison.

Comparisons of one kind (distances, errors, steepness, evaluations) share an axis of their own, so
that changes of a few per cent are not lost beside factors of ten.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdeflow.plots import STYLE, captioned

from ..spec import Experiment
from ..verdicts import FAILS, HOLDS, Finding
from ..wording import changed, compared
from ..words import metric_words
from .common import plain

__all__ = ["forest"]

WIDEST = math.log(30)  # factors beyond are drawn at the edge
LOOKS = {HOLDS: ("o", "0.0"), FAILS: ("X", "#b03030")}
LINE = 0.19  # inches
GAP = 2.6  # lines between axes: ticks and a label
WIDTH, LEFT, AXIS = 12.1, 6.44, 2.3  # inches: of the page, left of the axes, and theirs
HEADING = 95  # characters of a heading that fit on the left


def forest(experiment: Experiment, found: Sequence[Finding]) -> Figure | None:
    """Ratios with their intervals; None where there are none yet."""
    shown = [f for f in found if f.ratio and f.paired is not None]
    if not shown:
        return None
    blocks: dict[str, list[Finding]] = {}
    for f in shown:
        blocks.setdefault(metric_words(f.metric.split(", ")[0]).partition(" (")[0], []).append(f)
    caption = (
        f"{experiment.title.rstrip('.?')}, scale {experiment.scale}. Ratio of the first to the "
        "second, a line for each comparison; small dots: seeds; bars: paired 95 % intervals over "
        "seeds, cut at the edge. Shaded: the claimed side. Filled circle: holds, red cross: does "
        "not hold here, open: undecided or incomplete. Comparisons of a claim are corrected for "
        "their number: a bar clear of the edge of the shade can be undecided."
    )
    lines = {
        name: len(mine) + sum(len(_heading(text)) for _, text in {(f.id, f.text) for f in mine})
        for name, mine in blocks.items()
    }
    height = LINE * (sum(lines.values()) + GAP * len(blocks))
    with rc_context(STYLE):
        figure, _ = captioned(WIDTH, height + 0.1, caption)
        tall = figure.get_size_inches()[1]
        top = 1 - 0.05 / tall
        for name, mine in blocks.items():
            low = top - LINE * lines[name] / tall
            place = (LEFT / WIDTH, low, AXIS / WIDTH, top - low)
            _block(figure.add_axes(place), name, mine, lines[name])
            top = low - LINE * GAP / tall
    return figure


def _heading(text: str) -> list[str]:
    """A claim in as many lines as it needs left of the axes."""
    return textwrap.wrap(text, HEADING)


def _block(axes: Axes, name: str, shown: Sequence[Finding], lines: int) -> None:
    """The comparisons of one kind."""
    edges = [v for f in shown if f.paired for v in (f.paired.low, f.paired.high, *f.paired.each)]
    edges += [f.shift for f in shown]
    reach = min(WIDEST, max(0.05, *(1.1 * abs(v) for v in edges if math.isfinite(v))))
    y, before = 0.0, ""
    for f in shown:
        if f.id != before:
            for row in _heading(f.text):
                axes.text(-2.77, y, row, transform=axes.get_yaxis_transform(), fontsize=7.5,
                          va="center", weight="bold")  # fmt: skip
                y -= 1
            before = f.id
        limit = min(1.0, max(0.0, 0.5 + f.shift / (2 * reach)))
        low = f.expect == "lower"
        axes.axhspan(y - 0.5, y + 0.5, 0.0 if low else limit, limit if low else 1.0,
                     color="#e9f0e4", linewidth=0, zorder=0)  # fmt: skip
        _line(axes, f, name, y, reach)
        y -= 1
    axes.axvline(1, color="0.4", linewidth=0.7)
    axes.set_xscale("log")
    axes.set_xlim(math.exp(-reach), math.exp(reach))
    plain(axes, "x")
    axes.set(ylim=(0.5 - lines, 0.5), yticks=[], xlabel=f"ratio of {name}")
    axes.spines["left"].set_visible(False)


def _line(axes: Axes, f: Finding, name: str, y: float, reach: float) -> None:
    assert f.paired is not None
    clip = lambda value: math.exp(max(-reach, min(reach, value)))  # noqa: E731
    mark, colour = LOOKS.get(f.verdict, ("o", "0.35"))
    filled = colour if f.verdict in LOOKS else "white"
    if math.isfinite(f.paired.low):
        axes.plot([clip(f.paired.low), clip(f.paired.high)], [y, y], color=colour, linewidth=1)
    axes.plot([clip(v) for v in f.paired.each], [y] * len(f.paired.each), ".", color="0.6",
              markersize=3, zorder=3)  # fmt: skip
    axes.plot(clip(f.paired.value), y, mark, color=colour, markerfacecolor=filled, markersize=5,
              zorder=4, clip_on=False)  # fmt: skip
    transform = axes.get_yaxis_transform()
    about = (
        f"{f.problem}: {compared(f).replace(f'{name} (', '(').removeprefix(name).lstrip(', :')}"
    )
    axes.text(-2.74, y, about[:140], transform=transform, fontsize=6.5, va="center", color="0.2")
    text = f"{changed(f)}, {f.verdict}"
    axes.text(1.04, y, text[:60], transform=transform, fontsize=6.5, va="center")
