"""Whether a claim stands, by the rule that its experiment's file holds since before the runs.

A claim names arms, problems, evaluations and metrics (lists stand for all combinations), what to
compare with, and what it expects:

    arm, against     two arms, compared seed by seed; or an arm and the number 0
    against_problem  the same arm on another problem, in place of another arm
    against_metric   another metric of the same arm, in place of another arm
    as               difference, or ratio: logarithms are compared, reported as a change in %
    expect           lower or higher
    family           claims of one family are corrected for their number (Holm)

    holds                 the paired 95 % interval excludes 0 on the expected side
    does not hold here    it excludes 0 on the other side
    undecided             it contains 0; or, in a family, the corrected p value is 0.05 or more
    incomplete            not all seeds have been run
    not tested here       the grid of this scale does not contain it
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .spec import Experiment
from .statistics import Paired, holm, paired

__all__ = ["FAILS", "HOLDS", "INCOMPLETE", "UNDECIDED", "UNTESTED", "Finding", "findings"]

LEVEL = 0.05
HOLDS, FAILS = "holds", "does not hold here"
INCOMPLETE, UNDECIDED, UNTESTED = "incomplete", "undecided", "not tested here"

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        id, text: of the claim.
        problem, evaluation, metric, arm: what was measured.
        against: what with, in words.
        ratio: whether logarithms were compared.
        expect: lower or higher.
        family: of the correction, or "".
        wanted: seeds that the grid has.
        seeds: those that are done.
        a, b: means of the two sides (geometric for ratios); None without results.
        floor: mean of the metric on real data, where it has one.
        paired: the comparison; None without results.
        corrected: Holm's p value; the plain one without a family.
        verdict: one of the texts above.
    """

    id: str
    text: str
    problem: str
    evaluation: str
    metric: str
    arm: str
    against: str
    ratio: bool
    expect: str
    family: str
    wanted: int
    seeds: tuple[int, ...]
    a: float | None
    b: float | None
    floor: float | None
    paired: Paired | None
    corrected: float
    verdict: str

    def change(self, value: float) -> float:
        """A difference as it is reported: in per cent where logarithms were compared."""
        if not self.ratio:
            return value
        return 100 * math.expm1(min(value, 700.0))


def findings(experiment: Experiment, records: Records) -> list[Finding]:
    """All comparisons of an experiment, with their verdicts."""
    found = [
        _finding(experiment, records, claim, case)
        for claim in experiment.claims
        for case in _cases(claim)
    ]
    families = {f.family for f in found if f.family}
    for family in sorted(families):
        mine = [i for i, f in enumerate(found) if f.family == family and f.paired is not None]
        corrected = holm([p.p_value for i in mine if (p := found[i].paired) is not None])
        for i, p in zip(mine, corrected, strict=True):
            found[i] = dataclasses.replace(found[i], corrected=p)
    return [dataclasses.replace(f, verdict=_verdict(f)) for f in found]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _cases(claim: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination that a claim's lists stand for."""
    metrics = _list(claim["metric"])
    others = _list(claim.get("against_metric", [None] * len(metrics)))
    for problem, evaluation, arm, against, (metric, other) in itertools.product(
        _list(claim["problem"]),
        _list(claim["evaluation"]),
        _list(claim["arm"]),
        _list(claim.get("against")),
        list(zip(metrics, others, strict=True)),
    ):
        yield {
            "problem": problem,
            "evaluation": evaluation,
            "arm": arm,
            "against": against,
            "metric": metric,
            "against_metric": other,
        }


def _values(records: Records, case: Mapping[str, Any]) -> dict[int, float]:
    """Seed -> value of a metric."""
    return {
        record["seed"]: float(record["values"][case["metric"]])
        for record in records
        if all(record[name] == case[name] for name in ("problem", "evaluation", "arm"))
        and isinstance(record["values"].get(case["metric"]), (int, float))
        and math.isfinite(record["values"][case["metric"]])
    }


def _finding(
    experiment: Experiment, records: Records, claim: Mapping[str, Any], case: Mapping[str, Any]
) -> Finding:
    """One comparison, its verdict still to come."""
    ratio = claim.get("as", "difference") == "ratio"
    a = _values(records, case)
    other = dict(case)
    if case["against_metric"] is not None:
        other["metric"], against = case["against_metric"], case["against_metric"]
    elif "against_problem" in claim:
        other["problem"] = against = claim["against_problem"]
    elif isinstance(case["against"], str):
        other["arm"] = against = case["against"]
    else:
        other, against = {}, f"{case['against']:g}"
    b = _values(records, other) if other else dict.fromkeys(a, float(case["against"]))
    grid = [_seeds(experiment, side) for side in (case, other or case)]
    wanted = grid[0] & grid[1]
    seeds = sorted(set(a) & set(b) & wanted)
    if ratio:  # a logarithm of 0 is none; that pair is missing then, not infinite
        seeds = [s for s in seeds if a[s] > 0 and b[s] > 0]
    left, right = [a[s] for s in seeds], [b[s] for s in seeds]
    if ratio:
        left, right = [math.log(v) for v in left], [math.log(v) for v in right]
    compared = paired(left, right) if seeds else None
    floors = _values(records, {**case, "metric": f"{case['metric']}_floor"})
    mean = [sum(side) / len(seeds) if seeds else None for side in (left, right)]
    if ratio:
        mean = [None if value is None else math.exp(value) for value in mean]
    return Finding(
        id=claim["id"],
        text=claim["text"],
        problem=case["problem"],
        evaluation=case["evaluation"],
        metric=case["metric"],
        arm=case["arm"],
        against=against,
        ratio=ratio,
        expect=claim["expect"],
        family=claim.get("family", ""),
        wanted=len(wanted),
        seeds=tuple(seeds),
        a=mean[0],
        b=mean[1],
        floor=sum(floors.values()) / len(floors) if floors else None,
        paired=compared,
        corrected=compared.p_value if compared else 1.0,
        verdict="",
    )


def _seeds(experiment: Experiment, case: Mapping[str, Any]) -> set[int]:
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
    low, high = f.paired.low, f.paired.high
    if f.family and f.corrected >= LEVEL:
        return UNDECIDED
    if low <= 0 <= high:
        return UNDECIDED
    return HOLDS if (high < 0) == (f.expect == "lower") else FAILS
