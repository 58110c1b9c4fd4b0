"""Sets against a reference: every metric with its interval, its floor and its paired test."""

import json

import numpy as np
import pytest
import torch

from sdeflow.metrics import (
    METRICS,
    Evaluation,
    Pixels,
    compare,
    coverage,
    energy_distance,
    frechet_distance,
    mmd,
    sliced_wasserstein,
)

N, M = 60, 50


def draw(seed: int, count: int = N) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def evaluated() -> Evaluation:
    """Two sets of two parts of N(0, I), the second one shifted by little, against N(0, I)."""
    good = [draw(1), draw(2)]
    bad = [part + 0.15 for part in good]
    floor = [draw(3), draw(4)]
    return compare({"good": good, "bad": bad}, draw(5, M), floor, Pixels((2,)), resamples=60)


def test_values_are_those_of_the_single_metrics(evaluated: Evaluation) -> None:
    b = draw(5, M)
    for score in evaluated.scores[: len(METRICS)] + evaluated.floor:
        for part, value in zip([(1, 2), (3, 4)][score.name != "good"], score.parts, strict=True):
            a = draw(part)
            expected = {
                "frechet": lambda a=a: frechet_distance(a, b).value,
                "sliced_wasserstein": lambda a=a: sliced_wasserstein(a, b, projections=256).value,
                "energy": lambda a=a: energy_distance(a, b).value,
                "mmd": lambda a=a: mmd(a, b).value,
            }.get(score.metric, lambda a=a, name=score.metric: getattr(coverage(a, b), name))()
            assert value == pytest.approx(expected, rel=1e-9, abs=1e-12), score.metric
        assert score.value == pytest.approx(np.mean(score.parts))


def test_everything_is_named_and_counted(evaluated: Evaluation) -> None:
    assert [s.metric for s in evaluated.floor] == list(METRICS)
    assert [(s.name, s.metric) for s in evaluated.scores] == [
        (name, metric) for name in ("good", "bad") for metric in METRICS
    ]
    for score in evaluated.scores + evaluated.floor:
        assert (score.count, score.reference_count) == (N, M)
        assert score.features == "values (2)"
        assert score.low <= score.value <= score.high
    assert "bandwidth" in evaluated.settings["kernel"]
    json.dumps(evaluated.to_dict())


def test_pairing_sees_what_intervals_do_not(evaluated: Evaluation) -> None:
    good, bad = (
        {s.metric: s for s in evaluated.scores if s.name == name} for name in ("good", "bad")
    )
    difference = {d.metric: d for d in evaluated.differences}
    assert set(difference) == set(METRICS)
    for metric, found in difference.items():
        assert (found.name, found.baseline) == ("bad", "good")
        assert found.value == pytest.approx(bad[metric].value - good[metric].value, abs=1e-12)
        assert found.low <= found.value <= found.high
        assert 0 < found.p_value <= 1
    width = difference["energy"].high - difference["energy"].low
    assert width < good["energy"].high - good["energy"].low


def test_a_set_does_not_differ_from_itself() -> None:
    x = [draw(1)]
    found = compare({"a": x, "b": x}, draw(5, M), x, Pixels((2,)), resamples=10)
    assert {(d.value, d.low, d.high, d.p_value) for d in found.differences} == {(0, 0, 0, 1)}


def test_seeded() -> None:
    x, b = [draw(1)], draw(5, M)
    first, second, third = (
        compare({"a": x}, b, x, Pixels((2,)), resamples=5, seed=seed) for seed in (0, 0, 1)
    )
    assert first == second
    assert first.scores[0] != third.scores[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resamples": 1}, "resamples = 1"),
        ({"neighbours": 0}, "neighbours = 0"),
        ({"neighbours": 60}, "at least 61"),
        ({"confidence": 1.0}, "confidence = 1"),
        ({"projections": 0}, "projections = 0"),
        ({"floor": [draw(1)[:3]]}, "one size"),
        ({"sets": {}}, "sets"),
        ({"sets": {"a": [draw(1)], "b": [draw(1)] * 2}}, "number"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    given = {"sets": {"a": [draw(1)]}, "floor": [draw(2)], "resamples": 3} | change
    sets, floor = given.pop("sets"), given.pop("floor")
    with pytest.raises(ValueError, match=message):
        compare(sets, draw(5, M), floor, Pixels((2,)), **given)
