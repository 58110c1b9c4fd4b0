"""The tables that open the report: what is claimed, what was measured, the verdict.

A row stands for some claims of the experiments' files, and those for comparisons. With h, f and u
the numbers of comparisons that are complete and hold, do not hold, and are undecided:

    holds                 h > 0,  f = u = 0
    holds in part         h > 0,  f = 0,  u > 0
    mixed                 h > 0,  f > 0
    does not hold here    h = 0,  f > 0
    undecided             h = f = 0,  u > 0
    open                  h = f = u = 0: not all seeds are done; not tested here: not in the grid

and "so far" where other comparisons of the row are not complete yet.
"""

from __future__ import annotations

import functools
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from .spec import ROOT
from .verdicts import FAILS, HOLDS, INCOMPLETE, UNDECIDED, UNTESTED, Finding
from .words import metric_words

__all__ = ["groups", "number", "overview", "together", "verdict"]

PARTLY, MIXED, OPEN = "holds in part", "mixed", "open"


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
        rows, names = [], Counter[str]()
        for row in group["rows"]:
            mine = [f for name in row["by"] for f in _named(found, name)]
            even = row.get("undecided", UNDECIDED)
            names[verdict(mine, even)] += 1
            where = dict.fromkeys(_split(name)[0] for name in row["by"])
            linked = ", ".join(f"[{name}](#{name})" for name in where)
            measured = f"{linked}: {'; '.join(_measured(mine))}"
            rows.append(f"| {row['says']} | {measured} | {together(mine, even)} |")
        order = [HOLDS, PARTLY, MIXED, FAILS, UNDECIDED, *names]
        counted = ", ".join(f"{n} {names[n]}" for n in dict.fromkeys(order) if names[n])
        lines += [f"## {group['title']}\n", f"Of {len(rows)}: {counted}.\n"]
        lines += ["| in short | measured | verdict |", "|---|---|---|", *rows, ""]
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


def verdict(found: Sequence[Finding], undecided: str = UNDECIDED) -> str:
    """The verdict on some comparisons, in a word.

    Args:
        found: the comparisons.
        undecided: what to call it where no difference was found.
    """
    holds, fails, even = _numbers(found)
    if holds:
        return MIXED if fails else PARTLY if even else HOLDS
    if fails or even:
        return FAILS if fails else undecided
    return OPEN if any(f.verdict != UNTESTED for f in found) else UNTESTED


def together(found: Sequence[Finding], undecided: str = UNDECIDED) -> str:
    """The verdict with the numbers of comparisons behind it."""
    head = verdict(found, undecided)
    if head not in (OPEN, UNTESTED):
        unfinished = any(f.verdict.startswith(INCOMPLETE) for f in found)
        head = f"**{head}**{' so far' * unfinished}"
    return head + _counts(found, undecided)


def _numbers(found: Sequence[Finding]) -> tuple[int, int, int]:
    counts = Counter(f.verdict for f in found)
    return counts[HOLDS], counts[FAILS], counts[UNDECIDED]


def _counts(found: Sequence[Finding], undecided: str) -> str:
    """What the verdict rests on, in brackets; of open ones the pairs that are done."""
    numbers = _numbers(found)
    rest = [f for f in found if f.verdict.startswith(INCOMPLETE)]
    if not any(numbers):
        done, wanted = sum(len(f.seeds) for f in rest), sum(f.wanted for f in rest)
        return f" ({done} of {wanted} pairs)" if done else ""
    names = (HOLDS, FAILS, undecided, OPEN)
    parts = zip(names, (*numbers, len(rest)), strict=True)
    told = [(name, count) for name, count in parts if count]
    if len(told) == 1:
        return f" ({told[0][1]} of {told[0][1]})"
    return f" ({', '.join(f'{name} {count}' for name, count in told)})"


def _measured(found: Sequence[Finding]) -> Iterator[str]:
    """What was measured and how it changed: a piece for each metric, in words."""
    kinds: dict[tuple[str, bool], list[Finding]] = {}
    for f in found:
        kinds.setdefault((_plain(f.metric), f.ratio), []).append(f)
    for (words, ratio), mine in kinds.items():
        unit = " %" if ratio else ""
        changes = sorted(f.change(f.paired.value) for f in mine if f.paired)
        if not changes:
            yield words
        elif len(changes) == 1:
            yield f"{words} {number(changes[0])}{unit}"
        else:
            text = f"{words} {number(changes[0])} to {number(changes[-1])}{unit}"
            if len(changes) > 2:
                text += f", median {number(statistics.median(changes))}{unit}"
            yield text


def _plain(metric: str) -> str:
    """A metric in words, the perturbed thing left out: the three of them are one question."""
    return re.sub(r", (x|condition|embedding) perturbed$", "", metric_words(metric))


def number(value: float, signed: bool = True) -> str:
    """Three digits; whole numbers from a thousand on."""
    text = f"{value:+.3g}" if abs(value) < 1000 else f"{value:+,.0f}"
    return (text if signed else text.lstrip("+")).replace("-", "−")
