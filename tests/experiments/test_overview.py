"""The tables that open the report: complete, and each verdict from its rule."""

import dataclasses

import pytest

from experiments.runner.figures.common import bands_of, means_of
from experiments.runner.overview import groups, overview, together
from experiments.runner.spec import NAMES, load_experiment
from experiments.runner.verdicts import FAILS, HOLDS, UNDECIDED, UNTESTED, Finding, findings
from experiments.runner.words import arm_words, evaluation_words, metric_words, setting_words

OPEN = "incomplete (1 of 3 seeds)"


def some(*verdicts: str, judged: str = "all") -> list[Finding]:
    first = findings(load_experiment("fast", "laptop"), [])[0]
    return [
        dataclasses.replace(
            first,
            verdict=v,
            judged=judged,
            wanted=0 if v == UNTESTED else 3,
            seeds=(10,) if v == OPEN else (10, 11, 12),
        )
        for v in verdicts
    ]


def test_every_claim_has_a_line() -> None:
    listed = {name for group in groups() for row in group["rows"] for name in row["by"]}
    experiments = [load_experiment(name, "laptop") for name in NAMES]
    claims = {f"{e.name}/{claim['id']}" for e in experiments for claim in e.claims}
    assert listed == claims


def test_tables_without_results() -> None:
    text = overview({name: findings(load_experiment(name, "laptop"), []) for name in NAMES})
    assert text.count("| in short | measured | verdict |") == len(groups()) == 3
    assert text.count("\n| ") >= sum(len(group["rows"]) for group in groups())
    assert "**" not in text  # no verdict


def test_a_line_of_an_unknown_claim_is_refused() -> None:
    with pytest.raises(ValueError, match="is no claim of an experiment"):
        overview({})


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ([HOLDS, HOLDS], "**holds** (2 of 2)"),
        ([HOLDS, UNDECIDED], "**holds in part** (holds 1, undecided 1)"),
        ([HOLDS, FAILS, OPEN], "**mixed** so far (holds 1, does not hold here 1, open 1)"),
        ([FAILS, FAILS], "**does not hold here** (2 of 2)"),
        ([FAILS, UNDECIDED], "**does not hold here in part** (does not hold here 1, undecided 1)"),
        ([UNDECIDED, UNTESTED], "**undecided** (1 of 1)"),
        ([HOLDS, OPEN], "**holds** so far (holds 1, open 1)"),
        ([OPEN, OPEN], "open (fashion 1 of 3 seeds)"),
        ([UNTESTED], "not tested here"),
    ],
    ids=[
        "holds",
        "part",
        "mixed",
        "fails",
        "fails in part",
        "undecided",
        "some",
        "open",
        "untested",
    ],
)
def test_verdicts_together(verdicts: list[str], text: str) -> None:
    assert together(some(*verdicts)) == text


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ([HOLDS, UNDECIDED, FAILS], "**holds** (1 of 3 tried)"),
        ([HOLDS, OPEN], "**holds** (1 of 2 tried, 1 of them not finished)"),
        ([UNDECIDED, FAILS], "**undecided** (0 of 2 tried)"),
        ([FAILS, FAILS], "**does not hold here** (0 of 2 tried)"),
        ([FAILS, OPEN], "open (fashion 1 of 3 seeds)"),
        ([UNTESTED], "not tested here"),
    ],
    ids=["one", "early", "none", "fails", "open", "untested"],
)
def test_one_that_holds_is_enough_for_some(verdicts: list[str], text: str) -> None:
    assert together(some(*verdicts, judged="any")) == text


def test_words() -> None:
    assert arm_words("smooth-start-etsdm") == "smooth start + E-TSDM"
    assert arm_words("etsdm") == "E-TSDM"
    assert arm_words("quadratic-etsdm") == "quadratic + E-TSDM"
    assert arm_words("fourier-low") == "Fourier x 0.1"
    assert arm_words("n5-t0.1") == "n = 5, t~ = 0.1"
    assert arm_words("smooth-0.02") == "smooth time, s = 0.02"
    assert metric_words("early_max") == "largest early K"
    assert metric_words("something") == "something"
    name = "evaluations dopri5 x/alpha/noise-ratio 0.001 1e-05 pid blind"
    assert setting_words(name) == (
        "dopri5, clock sigma/alpha, tol 0.001, to t = 1e-05, pid control, not told"
    )
    assert setting_words("evaluations") == ""
    assert evaluation_words("ddim-10, ddim-20, dpmpp-time-10, dpmpp-20-1e-05, adaptive") == (
        "DDIM with 10 and 20 steps; DPM-Solver++ with 10 steps equal in time; "
        "DPM-Solver++ with 20 steps, to t = 1e-05; dopri5, tolerance 1e-3"
    )


def test_clusters_have_claims_of_their_own() -> None:
    """Every claim either names the problems that stand for it there, all of them run, or none."""
    for name in NAMES:
        experiment = load_experiment(name, "cluster")
        laptop = {
            claim["id"]: claim["problem"] for claim in load_experiment(name, "laptop").claims
        }
        moved = {c["id"] for c in experiment.claims if c["problem"] != laptop[c["id"]]}
        found = findings(experiment, [])
        assert all(f.wanted for f in found if f.id in moved), name
        assert not any(f.wanted for f in found if f.id not in moved), name


def test_captions_speak_of_means_only_over_seeds() -> None:
    """With one seed there is no mean and no band to explain."""
    one = [{"seed": 10}, {"seed": 10}]
    two = [{"seed": 10}, {"seed": 11}]
    assert (means_of(one), bands_of(one)) == ("seed 10", "")
    assert (means_of(two), bands_of(two)) == (
        "mean over seeds 10, 11",
        "; bands: range over seeds",
    )
