"""Rules applied to made-up results: each verdict once, and what makes a rule unreadable."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from experiments.runner.derived import value_of
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


CLOSE = [0.95, 1.91, 2.95, 3.7, 4.8]  # alone, it holds


def test_a_family_is_corrected() -> None:
    (alone,) = findings(experiment(CLAIM), records(ONES, CLOSE))
    assert alone.verdict == "holds"
    assert alone.paired is not None
    many = [{**CLAIM, "id": str(i), "family": "f"} for i in range(40)]
    found = findings(experiment(*many), records(ONES, CLOSE))
    assert found[0].corrected == pytest.approx(min(1.0, 40 * alone.paired.p_value))
    assert found[0].verdict == ("holds" if found[0].corrected < 0.05 else "undecided")


def test_comparisons_still_to_come_count_in_the_correction() -> None:
    """Else a verdict could weaken when another comparison is complete."""
    claim = {**CLAIM, "evaluation": ["dpmpp-20", "ddim-5", "ddim-10"]}
    (alone,), (first, *rest) = (
        findings(experiment(c), records(ONES, CLOSE)) for c in (CLAIM, claim)
    )
    assert alone.paired is not None
    assert first.corrected == pytest.approx(3 * alone.paired.p_value)
    assert first.among == 3
    assert [f.verdict for f in rest] == ["incomplete (0 of 5 seeds)"] * 2


@pytest.mark.parametrize(
    ("margin", "expect", "verdict"),
    [
        (0.1, "lower", "holds"),  # 2 % more: less than 10
        (0.01, "lower", "does not hold here"),
        (0.01, "higher", "holds"),
        (-0.1, "lower", "does not hold here"),
    ],
)
def test_a_margin_moves_what_is_compared_with(margin: float, expect: str, verdict: str) -> None:
    etsdm = [1.02 * value * (1 + 1e-4 * i) for i, value in enumerate(ONES)]
    claim = {**CLAIM, "margin": margin, "expect": expect}
    (found,) = findings(experiment(claim), records(ONES, etsdm))
    assert found.verdict == verdict
    assert found.paired is not None
    assert found.change(found.paired.value) == pytest.approx(2, abs=0.05)  # shown as it is


def test_pooled_evaluations_are_averaged_seed_by_seed() -> None:
    """Factors 1/2 and 2 on one seed, 1/4 and 1 on another: 1 and 1/2 in the mean of logarithms."""
    claim = {**CLAIM, "evaluation": ["dpmpp-20", "ddim-5"], "pool": ["evaluation"]}
    made = records([1.0, 1.0], [0.5, 0.25])
    made += [{**r, "evaluation": "ddim-5"} for r in records([1.0, 3.0], [2.0, 3.0])]
    (found,) = findings(experiment(claim), made)
    assert found.paired is not None
    assert [found.change(v) for v in found.paired.each] == pytest.approx([0, -50])
    assert [len(f.seeds) for f in found.parts] == [2, 2]
    assert found.evaluation == "dpmpp-20, ddim-5"
    (found,) = findings(
        experiment(claim), records([1.0, 1.0], [0.5, 0.25])
    )  # one is not there yet
    assert found.verdict == "incomplete (0 of 5 seeds)"


def test_what_a_problem_lacks_is_no_part_of_its_mean() -> None:
    claim = {**CLAIM, "evaluation": ["dpmpp-20", "ancestral-250"], "pool": ["evaluation"]}
    (found,) = findings(experiment(claim), records(ONES, CLOSE))
    assert found.evaluation == "dpmpp-20"
    assert found.verdict == "holds"


def test_arms_with_one_of_their_own_to_compare_with() -> None:
    claim = {k: v for k, v in CLAIM.items() if k != "against"}
    found = findings(
        experiment({**claim, "arm": {"etsdm": "baseline", "smooth-0.1": "etsdm"}}), []
    )
    assert [(f.arm, f.against) for f in found] == [("etsdm", "baseline"), ("smooth-0.1", "etsdm")]


def test_against_a_constant() -> None:
    claim = {**CLAIM, "against": 0, "as": "difference", "expect": "higher"}
    (found,) = findings(experiment(claim), records(ONES, [3.0, 3.1, 2.9, 3.0, 3.2]))
    assert found.verdict == "holds"
    logs = findings(experiment({**claim, "as": "log"}), records(ONES, [0.69314718056] * 5))
    assert logs[0].paired is not None
    assert logs[0].change(logs[0].paired.value) == pytest.approx(2)  # reported as a factor


def test_features_of_another_classifier_are_refused() -> None:
    made = records(ONES, CLOSE)
    made[0]["values"]["m_floor"] = 0.6
    with pytest.raises(ValueError, match=r"seed 10, dpmpp-20: m of real data is 0\.5 beside e"):
        findings(experiment(CLAIM), made)


def test_exponents_are_slopes_of_curves() -> None:
    t = np.geomspace(1e-5, 1, 33)
    values = {"t": t.tolist(), "total": (3 * t**-0.5).tolist()}
    assert value_of(values, "exponent") == pytest.approx(-0.5)
    assert value_of({**values, "total": [0.0] * 33}, "exponent") is None
    assert value_of(values, "nothing") is None


@pytest.mark.parametrize(
    "change",
    [
        {"expects": "lower"},
        {"expect": "less"},
        {"as": "percent"},
        {"judged": "some"},
        {"pool": ["seed"]},
        {"against_problem": "digits"},
        {"arm": {"etsdm": "baseline"}},
    ],
    ids=["key", "expect", "as", "judged", "pool", "two", "three"],
)
def test_unreadable_rules_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="claim 'a'"):
        check_claims([{**CLAIM, **change}])
