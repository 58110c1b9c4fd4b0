"""Whether a claim stands, by the rule that its experiment's file holds.

A claim names arms, problems, evaluations and metrics (lists stand for all combinations), what to
compare with, and what it expects:

    arm, against     two arms, compared seed by seed, or an arm and the number 0; arms may be a
                     mapping from each arm to the one it is compared with
    against_problem  the same arm on another problem, in place of another arm
    against_metric   another metric of the same arm, in place of another arm
    pool             lists whose members are averaged, seed by seed, before anything is compared:
                     evaluation, metric, arm; one comparison in place of one for each member
    as               difference; ratio: logarithms are compared, reported as a change in %; or log:
                     the metric is a logarithm, reported as a factor
    expect           lower or higher
    margin           than what: 0.1 and lower means lower than 1.1 times (ratio) or 0.1 more
    judged           all or any: whether the text speaks of all of its comparisons, or says that
                     there is one (`overview`)
    family           claims that are corrected together for their number (Holm); the comparisons of
                     one claim always are

With c the difference that the margin allows (0 without one) a comparison

    holds                 its paired 95 % interval excludes c on the expected side
    does not hold here    on the other side
    is undecided          contains c; or the p value, corrected for the number of comparisons, is
                          0.05 or more
    is incomplete         not all seeds have been run
    is not tested here    the grid of this scale does not contain it
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .derived import value_of
from .rules import POOLS
from .spec import Experiment
from .statistics import Paired, holm, paired

__all__ = ["FAILS", "HOLDS", "INCOMPLETE", "UNDECIDED", "UNTESTED", "Finding", "findings"]

LEVEL = 0.05
HOLDS, FAILS = "holds", "does not hold here"
INCOMPLETE, UNDECIDED, UNTESTED = "incomplete", "undecided", "not tested here"
PART = "a part of the mean"
SAME = 1e-4  # relative difference of what only rounding sets apart

Records = Sequence[Mapping[str, Any]]
Case = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        id, text: of the claim.
        problem, evaluation, metric, arm: what was measured; several of them, where pooled, with
            commas.
        against: what with, in words.
        kind: difference, ratio or log.
        expect: lower or higher.
        shift: the difference that the margin allows.
        judged: all or any.
        family: of the correction.
        among: number of comparisons in it.
        wanted: seeds that the grid has.
        seeds: those that are done.
        a, b: means of the two sides (geometric for ratios); None without results.
        floor: mean of the metric on real data, where it has one.
        paired: the comparison; None without results.
        corrected: Holm's p value.
        verdict: one of the texts above.
        parts: the comparisons that it is the mean of; none where it stands alone.
    """

    id: str
    text: str
    problem: str
    evaluation: str
    metric: str
    arm: str
    against: str
    kind: str
    expect: str
    shift: float
    judged: str
    family: str
    among: int
    wanted: int
    seeds: tuple[int, ...]
    a: float | None
    b: float | None
    floor: float | None
    paired: Paired | None
    corrected: float
    verdict: str
    parts: tuple[Finding, ...] = ()

    @property
    def ratio(self) -> bool:
        """Whether 0 means a factor of 1."""
        return self.kind != "difference"

    def change(self, value: float) -> float:
        """A difference as it is reported: in per cent, as a factor, or as it is."""
        if self.kind == "ratio":
            return 100 * math.expm1(min(value, 700.0))
        return math.exp(min(value, 700.0)) if self.kind == "log" else value


def findings(experiment: Experiment, records: Records) -> list[Finding]:
    """All comparisons of an experiment, with their verdicts."""
    found = [
        _finding(experiment, records, claim, cases)
        for claim in experiment.claims
        for cases in _groups(claim)
    ]
    for family in dict.fromkeys(f.family for f in found):
        # Those still to come count: a verdict must not weaken when they do.
        mine = [i for i, f in enumerate(found) if f.family == family and f.wanted]
        for i, p in zip(mine, holm([found[i].corrected for i in mine]), strict=True):
            found[i] = dataclasses.replace(found[i], corrected=p, among=len(mine))
    return [dataclasses.replace(f, verdict=_verdict(f)) for f in found]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _groups(claim: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The comparisons of a claim, each as the cases that are averaged in it."""
    metrics, arm = _list(claim["metric"]), claim["arm"]
    others = _list(claim.get("against_metric", [None] * len(metrics)))
    pairs = (
        list(arm.items())
        if isinstance(arm, Mapping)
        else list(itertools.product(_list(arm), _list(claim.get("against"))))
    )
    axes = {
        "evaluation": _list(claim["evaluation"]),
        "metric": list(zip(metrics, others, strict=True)),
        "arm": pairs,
    }
    pooled = [name for name in POOLS if name in claim.get("pool", ())]
    free = [name for name in POOLS if name not in pooled]
    for problem in _list(claim["problem"]):
        for chosen in itertools.product(*(axes[name] for name in free)):
            cases = []
            for others in itertools.product(*(axes[name] for name in pooled)):
                at = dict(zip((*free, *pooled), (*chosen, *others), strict=True))
                cases.append(
                    {
                        "problem": problem,
                        "evaluation": at["evaluation"],
                        "metric": at["metric"][0],
                        "against_metric": at["metric"][1],
                        "arm": at["arm"][0],
                        "against": at["arm"][1],
                    }
                )
            yield cases


def _values(records: Records, case: Case) -> dict[int, float]:
    """Seed -> value of a metric."""
    found = {}
    for record in records:
        if all(record[name] == case[name] for name in ("problem", "evaluation", "arm")):
            value = value_of(record["values"], case["metric"])
            if isinstance(value, (int, float)) and math.isfinite(value):
                found[record["seed"]] = float(value)
    return found


def _other(claim: Mapping[str, Any], case: Case) -> tuple[dict[str, Any] | None, str]:
    """What a case is compared with, None where it is a number; and in words."""
    if case["against_metric"] is not None:
        return {**case, "metric": case["against_metric"]}, case["against_metric"]
    if "against_problem" in claim:
        return {**case, "problem": claim["against_problem"]}, claim["against_problem"]
    if isinstance(case["against"], str):
        return {**case, "arm": case["against"]}, case["against"]
    return None, f"{case['against']:g}"


@dataclass(frozen=True)
class _Side:
    """Both sides of a case, seed by seed, as they are compared: logarithms for ratios."""

    left: dict[int, float]
    right: dict[int, float]
    wanted: set[int]
    floors: tuple[float, ...]


def _sides(
    experiment: Experiment, records: Records, claim: Mapping[str, Any], case: Case
) -> _Side:
    other, _ = _other(claim, case)
    left = _values(records, case)
    right = _values(records, other) if other else dict.fromkeys(left, float(case["against"]))
    if claim.get("as") == "ratio":  # a logarithm of 0 is none; that pair is missing, not infinite
        left, right = ({s: math.log(v) for s, v in d.items() if v > 0} for d in (left, right))
    wanted = _seeds(experiment, case) & _seeds(experiment, other or case)
    floors = _floors(records, case, other)
    return _Side(left, right, wanted, tuple(floors.values()))


def _floors(records: Records, case: Case, other: Case | None) -> dict[int, float]:
    """Seed -> the metric of real data, which both sides must agree on.

    Raises:
        ValueError: they do not: another classifier made the features.
    """
    found = [_values(records, {**c, "metric": f"{c['metric']}_floor"}) for c in (case, other) if c]
    for seed in set.intersection(*map(set, found)):
        a, b = found[0][seed], found[-1][seed]
        if not math.isclose(a, b, rel_tol=SAME):
            raise ValueError(
                f"{case['problem']}, seed {seed}, {case['evaluation']}: {case['metric']} of real "
                f"data is {a:g} beside {case['arm']} and {b:g} beside what it is compared with: "
                "the features were other ones; delete one of the two results and measure it anew"
            )
    return found[0]


def _finding(
    experiment: Experiment, records: Records, claim: Mapping[str, Any], cases: Sequence[Case]
) -> Finding:
    """One comparison, its verdict still to come."""
    sides = [_sides(experiment, records, claim, case) for case in cases]
    # A member that this problem's grid lacks is no part of the mean.
    have = [(case, side) for case, side in zip(cases, sides, strict=True) if side.wanted]
    cases, sides = ([c for c, _ in have], [s for _, s in have]) if have else (cases, sides)
    wanted = set.intersection(*(side.wanted for side in sides))
    seeds = sorted(wanted.intersection(*(d for s in sides for d in (s.left, s.right))))
    left, right = (
        [sum(getattr(side, name)[seed] for side in sides) / len(sides) for seed in seeds]
        for name in ("left", "right")
    )
    kind, margin = claim.get("as", "difference"), claim.get("margin", 0.0)
    shift = math.log1p(margin) if kind == "ratio" else float(margin)
    compared = paired(left, right) if seeds else None
    tested = paired(left, [value + shift for value in right]) if seeds else None
    mean = [sum(side) / len(seeds) if seeds else None for side in (left, right)]
    if kind == "ratio":
        mean = [None if value is None else math.exp(value) for value in mean]
    floors = [value for side in sides for value in side.floors]
    joined = {name: ", ".join(dict.fromkeys(case[name] for case in cases))
              for name in ("problem", "evaluation", "metric", "arm")}  # fmt: skip
    return Finding(
        id=claim["id"],
        text=claim["text"],
        **joined,
        against=", ".join(dict.fromkeys(_other(claim, case)[1] for case in cases)),
        kind=kind,
        expect=claim["expect"],
        shift=shift,
        judged=claim.get("judged", "all"),
        family=claim.get("family", claim["id"]),
        among=1,
        wanted=len(wanted),
        seeds=tuple(seeds),
        a=mean[0],
        b=mean[1],
        floor=sum(floors) / len(floors) if floors else None,
        paired=compared,
        corrected=tested.p_value if tested else 1.0,
        verdict=PART,
        parts=tuple(_finding(experiment, records, claim, [case]) for case in cases)
        if len(cases) > 1
        else (),
    )


def _seeds(experiment: Experiment, case: Case) -> set[int]:
    """Seeds on which the grid has an evaluation."""
    return {
        subject.seed
        for subject in experiment.subjects
        if (subject.problem, subject.arm) == (case["problem"], case["arm"])
        and any(evaluation.name == case["evaluation"] for evaluation in subject.evaluations)
    }


def _verdict(f: Finding) -> str:
    if f.wanted == 0:
        return UNTESTED
    if f.paired is None or len(f.seeds) < f.wanted:
        return f"{INCOMPLETE} ({len(f.seeds)} of {f.wanted} seeds)"
    low, high = f.paired.low - f.shift, f.paired.high - f.shift
    if f.corrected >= LEVEL or low <= 0 <= high:
        return UNDECIDED
    return HOLDS if (high < 0) == (f.expect == "lower") else FAILS
