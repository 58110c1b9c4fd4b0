"""A comparison in words, and its change in numbers."""

from __future__ import annotations

import math

from .verdicts import Finding
from .words import arm_words, evaluation_words, metric_words, setting_words

__all__ = ["changed", "compared", "number", "written"]

FEW = 4  # arms that are named one by one


def compared(f: Finding) -> str:
    """What is compared with what, in words."""
    metrics = f.metric.split(", ")
    settings = list(dict.fromkeys(filter(None, map(setting_words, metrics))))
    how = f"mean of {len(settings)} settings" if len(settings) > 1 else "".join(settings)
    what = ", ".join(dict.fromkeys(map(metric_words, metrics)))
    arms, others = (_arms(text) for text in (f.arm, f.against))
    if f.against.endswith(" blind"):
        others = "the solver not told"
    elif f.evaluation == "steps" and setting_words(f.against):
        others = setting_words(f.against)
    elif f.against in metrics or f.against.startswith("backward"):
        others = f"the one to t ={f.against.removeprefix('backward')}"
    pieces = [what, how or evaluation_words(f.evaluation)]
    head = f"{', '.join(filter(None, pieces))}: {arms}"
    return head if f.against == "0" else f"{head} against {others}"


def _arms(names: str) -> str:
    listed = names.split(", ")
    if len(listed) > FEW:
        return f"mean of {len(listed)} arms"
    return " and ".join(map(arm_words, listed))


def changed(f: Finding) -> str:
    """The change of a comparison, with its interval where there are two seeds or more."""
    assert f.paired is not None
    numbers = [written(f.change(v), f.kind) for v in (f.paired.value, f.paired.low, f.paired.high)]
    if not math.isfinite(f.paired.low):
        return numbers[0]
    return f"{numbers[0]} [{numbers[1].rstrip(' %')}, {numbers[2].rstrip(' %')}]"


def written(value: float, kind: str) -> str:
    """A change as it is reported: a factor, in per cent, or as it is."""
    if kind == "log":
        return f"×{number(value, signed=False)}"
    return number(value) + (" %" if kind == "ratio" else "")


def number(value: float, signed: bool = True) -> str:
    """Three digits; whole numbers from a thousand on."""
    text = f"{value:+.3g}" if abs(value) < 1000 else f"{value:+,.0f}"
    return (text if signed else text.lstrip("+")).replace("-", "−")
