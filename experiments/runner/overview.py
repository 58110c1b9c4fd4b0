"""The tables that open the report: what is claimed, what was measured, the verdict.

A row stands for some claims of the experiments' files, and those for comparisons. A claim that
speaks of all its comparisons counts each of them; one that says "there is one" counts once: it
holds where one does, does not where none of them does, and is undecided otherwise. With h, f and
u the numbers that hold, do not hold, and are undecided:

    holds                      h > 0,  f = u = 0
    holds in part              h > 0,  f = 0,  u > 0
    mixed                      h > 0,  f > 0
    does not hold here         f > 0,  h = u = 0
    does not hold here in part f > 0,  h = 0,  u > 0
    undecided                  h = f = 0,  u > 0
    open                       h = f = u = 0: not all seeds are done; not tested here: not in the
                               grid

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
from .wording import changed, written
from .words import arm_words, evaluation_words, metric_words

__all__ = ["groups", "overview", "together", "verdict"]

PARTLY, MIXED, OPEN, FAILS_PARTLY = "holds in part", "mixed", "open", "does not hold here in part"
MANY = 4  # comparisons of one metric beyond which only their range is told


@functools.cache
def groups() -> Sequence[Mapping[str, Any]]:
    """The content of claims.yaml.

    Raises:
        ValueError: a row without what it says or what it is judged by, or with more.
    """
    path = ROOT / "claims.yaml"
    found: Sequence[Mapping[str, Any]] = yaml.safe_load(path.read_text("utf-8"))
    for row in (row for group in found for row in group["rows"]):
        if not {"says", "by"} <= set(row) <= {"says", "by", "paper"}:
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
            names[verdict(mine)] += 1
            where = dict.fromkeys(_split(name)[0] for name in row["by"])
            linked = ", ".join(f"[{name}](#{name})" for name in where)
            measured = f"{linked}: {'; '.join(_measured(mine))}" if mine else "—"
            says = row["says"] + (f" (the paper: {row['paper']})" if "paper" in row else "")
            rows.append(f"| {says} | {measured} | {together(mine)} |")
        order = [HOLDS, PARTLY, MIXED, FAILS, FAILS_PARTLY, UNDECIDED, *names]
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


def _outcomes(found: Sequence[Finding]) -> list[str]:
    """What counts: every comparison, or one word for those of which one is enough."""
    counted = [f.verdict for f in found if f.judged == "all"]
    for claim in dict.fromkeys(f.id for f in found if f.judged == "any"):
        mine = [f.verdict for f in found if f.id == claim and f.verdict != UNTESTED]
        unfinished = next((v for v in mine if v.startswith(INCOMPLETE)), None)
        if not mine:
            counted.append(UNTESTED)
        elif HOLDS in mine:
            counted.append(HOLDS)
        elif unfinished:
            counted.append(unfinished)
        else:
            counted.append(FAILS if set(mine) == {FAILS} else UNDECIDED)
    return counted


def verdict(found: Sequence[Finding]) -> str:
    """The verdict on some comparisons, in a word."""
    outcomes = _outcomes(found)
    holds, fails, even = _numbers(outcomes)
    if holds:
        return MIXED if fails else PARTLY if even else HOLDS
    if fails or even:
        return UNDECIDED if not fails else FAILS_PARTLY if even else FAILS
    return OPEN if any(outcome != UNTESTED for outcome in outcomes) else UNTESTED


def together(found: Sequence[Finding]) -> str:
    """The verdict with the numbers of comparisons behind it."""
    head = verdict(found)
    outcomes = _outcomes(found)
    rest = sum(outcome.startswith(INCOMPLETE) for outcome in outcomes)
    if head == OPEN:
        return f"{head}{_progress(found)}"
    if head == UNTESTED:
        return head
    names = (HOLDS, FAILS, UNDECIDED, OPEN)
    counts = [(n, c) for n, c in zip(names, (*_numbers(outcomes), rest), strict=True) if c]
    told = ", ".join(f"{name} {count}" for name, count in counts)
    some = f" ({told})" if len(counts) > 1 else f" ({counts[0][1]} of {counts[0][1]})"
    each = [f.verdict for f in found if f.judged == "any" and f.verdict != UNTESTED]
    if each:
        waiting = sum(outcome.startswith(INCOMPLETE) for outcome in each)
        left = f", {waiting} of them not finished" if waiting else ""
        tried = f"{each.count(HOLDS)} of {len(each)} tried{left}"
        some = f" ({tried})" if len(outcomes) == 1 else f"{some[:-1]}; {tried})"
    return f"**{head}**{' so far' * bool(rest)}{some}"


def _numbers(outcomes: Sequence[str]) -> tuple[int, int, int]:
    counts = Counter(outcomes)
    return counts[HOLDS], counts[FAILS], counts[UNDECIDED]


def _progress(found: Sequence[Finding]) -> str:
    """How many seeds are done, by problem: the fewest of its comparisons."""
    done: dict[str, tuple[int, int]] = {}
    for f in found:
        if f.wanted:
            mine = (len(f.seeds), f.wanted)
            done[f.problem] = min(done.get(f.problem, mine), mine)
    if not any(f.seeds for f in found):
        return ""
    return f" ({', '.join(f'{p} {a} of {b} seeds' for p, (a, b) in done.items())})"


def _measured(found: Sequence[Finding]) -> Iterator[str]:
    """What was measured and how it changed: a piece for each metric, in words."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for f in found:
        words = ", ".join(dict.fromkeys(map(metric_words, f.metric.split(", "))))
        kinds.setdefault((words, f.kind), []).append(f)
    for (words, _), mine in kinds.items():
        done = [f for f in mine if f.paired]
        if not done:
            yield words
        elif len(done) <= MANY:
            yield f"{words} {', '.join(f'{_which(f, done)}{changed(f)}' for f in done)}"
        else:
            values = sorted(f.change(f.paired.value) for f in done if f.paired)
            ends = (values[0], statistics.median(values), values[-1])
            low, middle, high = (written(value, done[0].kind) for value in ends)
            yield f"{words} {low} to {high}, median {middle} (of {len(done)})"


def _which(f: Finding, among: Sequence[Finding]) -> str:
    """What tells a comparison from the others of its line."""
    samplers = [re.split(" with|[,;]", evaluation_words(g.evaluation))[0] for g in (f, *among)]
    told = [samplers[0]] if len(set(samplers)) > 1 and samplers[0] else []
    told += [f.problem] if len({g.problem for g in among}) > 1 else []
    told += [arm_words(f.arm)] if len({g.arm for g in among}) > 1 else []
    told += [f"against {arm_words(f.against)}"] if len({g.against for g in among}) > 1 else []
    return f"{' '.join(told)} " if told else ""
