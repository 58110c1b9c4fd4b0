"""The figures of `step_sizes`, drawn from made-up attempts of two models."""

from typing import Any

import numpy as np
import pytest

from experiments.runner.figures.step_models import CHARTS, ENDS, Attempts, typical
from experiments.runner.figures.step_sizes import draw
from experiments.runner.spec import load_experiment


def attempts(end: float) -> dict[str, list[Any]]:
    """Halving steps from 1 to `end` of two samples, every third tried once too long."""
    found: dict[str, list[Any]] = {"sample": [], "time": [], "time_end": [], "accepted": []}
    for sample in (0, 1):
        t, number = 1.0, 0
        while t > end:
            goals = [(max(end, t / 2), 1)] if number % 3 else [(end, 0), (max(end, t / 2), 1)]
            for goal, good in goals:
                for name, value in zip(found, (sample, t, goal, good), strict=True):
                    found[name].append(value)
            t, number = max(end, t / 2), number + 1
    return found


def record(arm: str, seed: int, jumps: list[float]) -> dict[str, Any]:
    values: dict[str, Any] = {"edges": jumps, "attempts": {}}
    for chart in CHARTS:
        for end in ENDS:
            for blind in ("", " blind") if jumps else ("",):
                name = f"dopri5 {chart} 0.001 {end} pi{blind}"
                numbers = {"evaluations": 60.0 + seed, "rejected": 2.0, "smallest": 1e-4 * seed}
                values |= {f"{key} {name}": value for key, value in numbers.items()}
                values[f"smallest_at {name}"] = 2e-4 * seed
                if seed == 10:
                    values["attempts"][name] = attempts(float(end))
    return {
        "problem": "digits", "arm": arm, "seed": seed, "training": "x", "evaluation": "steps",
        "key": f"{arm} {seed}", "kind": "steps", "seconds": 1.0, "values": values,
    }  # fmt: skip


def test_all_figures_are_drawn() -> None:
    experiment = load_experiment("step_sizes", "laptop")
    records = [
        record(arm, seed, jumps)
        for arm, jumps in (("baseline", []), ("etsdm", [0.05, 0.1]))
        for seed in (10, 11)
    ]
    made = draw(experiment, records)
    assert set(made) == {f"{name}-digits" for name in ("overview", "steps", "cost", "smallest")}
    names = [text.get_text() for text in made["overview-digits"][0].legends[0].get_texts()]
    assert names == ["baseline", "E-TSDM, not told", "E-TSDM, told"]
    assert draw(experiment, records[2:]) == {}  # nothing to compare with


def test_the_typical_step_at_a_time() -> None:
    """Halving steps of two samples: half the time, up to the last one, which ends at 0.01."""
    log = attempts(1e-2)
    sample, begin, end = (np.array(log[name]) for name in ("sample", "time", "time_end"))
    kept = Attempts(sample, begin, end, np.array(log["accepted"], dtype=np.bool_))
    times, steps = typical(kept)
    assert (times[0], times[-1]) == pytest.approx((2.0**-6, 1.0))
    whole = times >= 2.0**-5
    np.testing.assert_allclose(steps[whole], times[whole] / 2, rtol=1e-12)
    assert steps[0] == pytest.approx(2.0**-6 - 1e-2)
