"""Rules applied to made-up results: each verdict once, and what makes a rule unreadable."""

import dataclasses
from typing import Any

import pytest

from experiments.runner.rules import check_claims
from experiments.runner.spec import Experiment, load_experiment
from experiments.runner.verdicts import findings

CLAIM: dict[str, Any] = {
    "id": "a",
    "text": "E-TSDM lowers it",
    "problem": "digits",
    "evaluation": "dpmpp-20",
    "metric": "m",
    "arm": "etsdm",
    "against": "baseline",
    "as": "ratio",
    "expect": "lower",
}


def experiment(*claims: dict[str, Any]) -> Experiment:
    check_claims(claims)
    return dataclasses.replace(load_experiment("fast", "laptop"), claims=claims)


def records(baseline: list[float], etsdm: list[float]) -> list[dict[str, Any]]:
    """Results of seeds 10, 11, ... of both arms."""
    return [
        {"problem": "digits", "arm": arm, "seed": 10 + i, "evaluation": "dpmpp-20",
         "values": {"m": value, "m_floor": 0.5}}
        for arm, values in (("baseline", baseline), ("etsdm", etsdm))
        for i, value in enumerate(values)
    ]  # fmt: skip


ONES = [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("etsdm", "verdict"),
    [
        ([0.5, 1.01, 1.5, 2.0, 2.5], "holds"),
        ([2.0, 4.01, 6.0, 8.0, 10.0], "does not hold here"),
        ([0.9, 2.2, 2.9, 4.1, 5.0], "undecided"),
        ([0.5, 1.0], "incomplete (2 of 5 seeds)"),
        ([], "incomplete (0 of 5 seeds)"),
    ],
    ids=["holds", "fails", "undecided", "incomplete", "nothing"],
)
def test_verdicts(etsdm: list[float], verdict: str) -> None:
    (found,) = findings(experiment(CLAIM), records(ONES, etsdm))
    assert found.verdict == verdict


def test_a_ratio_is_a_change_in_per_cent() -> None:
    half = [value / 2 for value in ONES]
    (found,) = findings(experiment(CLAIM), records(ONES, half))
    assert found.paired is not None
    assert found.change(found.paired.value) == pytest.approx(-50)
    assert found.floor == 0.5
    assert found.b == pytest.approx(120 ** (1 / 5))  # geometric mean of 1..5


def test_what_no_grid_contains_is_not_tested() -> None:
    (found,) = findings(experiment({**CLAIM, "problem": "ffhq"}), records(ONES, ONES))
    assert found.verdict == "not tested here"


def test_lists_stand_for_all_combinations() -> None:
    claim = {**CLAIM, "problem": ["digits", "fashion"], "evaluation": ["ddim-5", "dpmpp-20"]}
    assert len(findings(experiment(claim), [])) == 4


def test_a_family_is_corrected() -> None:
    close = [0.95, 1.91, 2.95, 3.7, 4.8]
    (alone,) = findings(experiment(CLAIM), records(ONES, close))
    assert alone.verdict == "holds"
    assert alone.paired is not None
    many = [{**CLAIM, "id": str(i), "family": "f"} for i in range(40)]
    found = findings(experiment(*many), records(ONES, close))
    assert found[0].corrected == pytest.approx(min(1.0, 40 * alone.paired.p_value))
    assert found[0].verdict == ("holds" if found[0].corrected < 0.05 else "undecided")


def test_against_a_constant() -> None:
    claim = {**CLAIM, "against": 0, "as": "difference", "expect": "higher"}
    (found,) = findings(experiment(claim), records(ONES, [3.0, 3.1, 2.9, 3.0, 3.2]))
    assert found.verdict == "holds"


@pytest.mark.parametrize(
    "change",
    [{"expects": "lower"}, {"expect": "less"}, {"as": "percent"}, {"against_problem": "digits"}],
    ids=["key", "expect", "as", "two"],
)
def test_unreadable_rules_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="claim 'a'"):
        check_claims([{**CLAIM, **change}])
