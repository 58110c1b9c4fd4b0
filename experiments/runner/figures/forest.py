"""The claims of an experiment that compare by ratio, one line each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import STYLE, captioned

from ..spec import Experiment
from ..verdicts import FAILS, HOLDS, Finding
from ..words import arm_words, metric_words, setting_words
from .common import plain

__all__ = ["forest"]

WIDEST = math.log(30)  # factors beyond are drawn at the edge
LOOKS = {HOLDS: ("o", "0.0"), FAILS: ("X", "#b03030")}


def forest(experiment: Experiment, found: Sequence[Finding]) -> Figure | None:
    """Ratios with their intervals; None where there are none yet."""
    shown = [f for f in found if f.ratio and f.paired is not None]
    if not shown:
        return None
    edges = [v for f in shown if f.paired for v in (f.paired.low, f.paired.high, *f.paired.each)]
    reach = min(WIDEST, max(0.05, *(1.1 * abs(v) for v in edges if math.isfinite(v))))
    caption = (
        f"{experiment.title}, scale {experiment.scale}. Ratio of the first to the second; small "
        "dots: seeds; bars: paired 95 % intervals over seeds, cut at the edge. Shaded: the "
        "claimed side. Filled circle: holds, red cross: does not hold here, open: undecided or "
        "incomplete."
    )
    if any(f.family for f in shown):
        caption += (
            " Claims of many comparisons are corrected for their number: a bar clear of 1 can be "
            "undecided there."
        )
    with rc_context(STYLE):
        figure, bottom = captioned(11.5, 0.7 + 0.19 * (len(shown) + _claims(shown)), caption)
        room = 0.42 / figure.get_size_inches()[1]  # of the ticks and the label below
        axes = figure.add_axes((0.48, bottom + room, 0.30, 0.99 - bottom - room))
        y, before = 0.0, ""
        for f in shown:
            if f.id != before:
                axes.text(
                    -1.56, y, f.text[:112], transform=axes.get_yaxis_transform(), fontsize=7.5,
                    va="center", weight="bold",
                )  # fmt: skip
                y, before = y - 1, f.id
            low = f.expect == "lower"
            axes.axhspan(y - 0.5, y + 0.5, 0.0 if low else 0.5, 0.5 if low else 1.0,
                         color="#e9f0e4", linewidth=0, zorder=0)  # fmt: skip
            _line(axes, f, y, reach)
            y -= 1
        axes.axvline(1, color="0.4", linewidth=0.7)
        axes.set_xscale("log")
        axes.set_xlim(math.exp(-reach), math.exp(reach))
        plain(axes, "x")
        axes.set(ylim=(y, 0.8), yticks=[], xlabel="ratio")
        axes.spines["left"].set_visible(False)
    return figure


def _claims(shown: Sequence[Finding]) -> int:
    return len({f.id for f in shown})


def _line(axes, f: Finding, y: float, reach: float) -> None:  # type: ignore[no-untyped-def]
    assert f.paired is not None
    clip = lambda value: math.exp(max(-reach, min(reach, value)))  # noqa: E731
    mark, colour = LOOKS.get(f.verdict, ("o", "0.35"))
    filled = colour if f.verdict in LOOKS else "white"
    if math.isfinite(f.paired.low):
        axes.plot([clip(f.paired.low), clip(f.paired.high)], [y, y], color=colour, linewidth=1)
    axes.plot([clip(v) for v in f.paired.each], [y] * len(f.paired.each), ".", color="0.6",
              markersize=3, zorder=3)  # fmt: skip
    axes.plot(clip(f.paired.value), y, mark, color=colour, markerfacecolor=filled, markersize=5,
              zorder=4)  # fmt: skip
    about = f"{f.problem}, {_setting(f)}: {arm_words(f.arm)} / {_against(f)}"
    transform = axes.get_yaxis_transform()
    axes.text(-1.53, y, about[:112], transform=transform, fontsize=6.5, va="center", color="0.2")
    text = f"{f.change(f.paired.value):+.1f} %"
    if math.isfinite(f.paired.low):
        text += f" ({f.change(f.paired.low):+.0f}, {f.change(f.paired.high):+.0f})"
    text += f", {f.verdict}"
    axes.text(1.02, y, text[:52], transform=transform, fontsize=6.5, va="center")


def _setting(f: Finding) -> str:
    """The metric, and the evaluation or the setting of the solver."""
    setting = setting_words(f.metric) if f.evaluation == "steps" else f.evaluation
    return f"{metric_words(f.metric)}, {setting}"


def _against(f: Finding) -> str:
    """What is compared with: an arm, a constant, or the same arm otherwise."""
    if f.against.endswith(" blind"):
        return "not told"
    setting = setting_words(f.against) if f.evaluation == "steps" else ""
    return setting.split(", ")[1] if setting else arm_words(f.against)
