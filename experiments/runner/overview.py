"""The tables that open the report: what is claimed, what was measured, the verdict.

A row stands for some claims of the experiments' files, and those for comparisons. With h, f and u
the numbers of comparisons that are complete and hold, do not hold, and are undecided:

    holds                 h > 0,  f = u = 0
    holds in part         h > 0,  f = 0,  u > 0
    mixed                 h > 0,  f > 0
    does not hold here    h = 0,  f > 0
    undecided             h = f = 0,  u > 0
    open                  h = f = u = 0: not all seeds are done; not tested here: not in the grid
"""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from .spec import ROOT
from .verdicts import FAILS, HOLDS, UNDECIDED, UNTESTED, Finding

__all__ = ["groups", "number", "overview", "together"]

WORDS = {  # of metrics, by the start of their name
    "classifier_frechet": "Fréchet distance",
    "k_0.001": "K(0.001)",
    "largest_k": "largest K",
    "early_mean": "mean early K",
    "early_max": "largest early K",
    "growth": "log growth of the derivative",
    "early_noise": "variance of the gradient, t < 0.1",
    "early": "error, t < 0.1",
    "noise_ratio": "log ratio of variances",
    "mean": "negative log-likelihood",
    "evaluations": "evaluations",
    "smallest": "smallest step",
    "backward": "log separation",
    "x sample": "change of samples",
    "condition sample": "change of samples",
    "features sample": "change of samples",
    "x prediction": "change of predictions",
    "condition prediction": "change of predictions",
    "features prediction": "change of predictions",
}


@functools.cache
def groups() -> Sequence[Mapping[str, Any]]:
    """The content of claims.yaml.

    Raises:
        ValueError: a row without what it says or what it is judged by, or with more.
    """
    path = ROOT / "claims.yaml"
    found: Sequence[Mapping[str, Any]] = yaml.safe_load(path.read_text("utf-8"))
    for row in (row for group in found for row in group["rows"]):
        if not {"says", "by"} <= set(row) <= {"says", "by", "undecided"}:
            raise ValueError(f"{path}: a row has the keys {sorted(row)}; give says and by")
    return found


def overview(found: Mapping[str, Sequence[Finding]]) -> str:
    """Tables of all groups.

    Args:
        found: experiment -> its comparisons.

    Raises:
        ValueError: a row names a claim that no experiment has.
    """
    lines = []
    for group in groups():
        lines += [f"## {group['title']}\n", "| in short | measured | verdict |", "|---|---|---|"]
        for row in group["rows"]:
            mine = [f for name in row["by"] for f in _named(found, name)]
            where = ", ".join(
                f"[{n}](#{n})" for n in dict.fromkeys(_split(b)[0] for b in row["by"])
            )
            text = together(mine, row.get("undecided", UNDECIDED))
            lines.append(f"| {row['says']} | {where}: {'; '.join(_measured(mine))} | {text} |")
        lines.append("")
    return "\n".join(lines)


def _split(name: str) -> tuple[str, str]:
    experiment, _, claim = name.partition("/")
    return experiment, claim


def _named(found: Mapping[str, Sequence[Finding]], name: str) -> list[Finding]:
    experiment, claim = _split(name)
    mine = [f for f in found.get(experiment, ()) if f.id == claim]
    if not mine:
        raise ValueError(f"{ROOT / 'claims.yaml'}: {name} is no claim of an experiment")
    return mine


def together(found: Sequence[Finding], undecided: str = UNDECIDED) -> str:
    """The verdict on some comparisons.

    Args:
        found: the comparisons.
        undecided: what to call it where no difference was found.
    """
    counts = Counter(f.verdict for f in found)
    holds, fails, even = (counts[name] for name in (HOLDS, FAILS, UNDECIDED))
    rest = [f for f in found if f.verdict not in (HOLDS, FAILS, UNDECIDED, UNTESTED)]
    pairs = sum(len(f.seeds) for f in rest), sum(f.wanted for f in rest)
    if not holds + fails + even:
        if not rest:
            return UNTESTED
        return f"open ({pairs[0]} of {pairs[1]} pairs)" if pairs[0] else "open"
    if holds:
        name = "mixed" if fails else "holds in part" if even else HOLDS
    else:
        name = FAILS if fails else undecided
    parts = [f"{HOLDS} {holds}", f"{FAILS} {fails}", f"{undecided} {even}", f"open {len(rest)}"]
    numbers = (holds, fails, even, len(rest))
    told = [part for part, count in zip(parts, numbers, strict=True) if count]
    if len(told) == 1:
        return f"**{name}** ({holds + fails + even} of {holds + fails + even})"
    return f"**{name}** ({', '.join(told)})"


def _measured(found: Sequence[Finding]) -> Iterator[str]:
    """What was measured and how it changed: a piece for each metric, in words."""
    kinds: dict[tuple[str, bool], list[Finding]] = {}
    for f in found:
        kinds.setdefault((_words(f.metric), f.ratio), []).append(f)
    for (words, ratio), mine in kinds.items():
        unit = " %" if ratio else ""
        changes = sorted(f.change(f.paired.value) for f in mine if f.paired)
        if not changes:
            yield words
        elif len(changes) == 1:
            yield f"{words} {number(changes[0])}{unit}"
        else:
            middle = number(statistics.median(changes))
            yield (
                f"{words} {number(changes[0])} to {number(changes[-1])}{unit}, "
                f"median {middle}{unit} of {len(changes)}"
            )


def _words(metric: str) -> str:
    """A metric in words; its own name where there are none."""
    fits = [start for start in WORDS if metric.startswith(start)]
    return WORDS[max(fits, key=len)] if fits else metric


def number(value: float, signed: bool = True) -> str:
    """Three digits; whole numbers from a thousand on."""
    text = f"{value:+.3g}" if abs(value) < 1000 else f"{value:+,.0f}"
    return (text if signed else text.lstrip("+")).replace("-", "−")
