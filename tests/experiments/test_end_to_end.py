"""Experiments at smoke scale: run, collected, reported."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from experiments.runner.cli import main
from experiments.runner.kept import load_results
from experiments.runner.spec import NAMES


def run(tmp_path: Path, *arguments: str) -> str:
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    result = CliRunner().invoke(main, [*arguments, "--scale", "smoke", *places])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", ["embedding", "uniqueness"])
def test_from_nothing_to_the_report(tmp_path: Path, name: str) -> None:
    run(tmp_path, name)
    path = tmp_path / "results" / f"{name}.json"
    records = load_results(path)
    assert all(record["values"] for record in records)
    assert (tmp_path / "results" / f"{name}.csv").exists()
    assert "[3/3]" not in run(tmp_path, name)  # nothing is done a second time
    assert load_results(path) == records
    run(tmp_path, "report")
    text = (tmp_path / "results" / "README.md").read_text()
    assert f"## {name}" in text
    assert "What the paper claims" in text


def test_reports_need_results_only(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    record = {
        "problem": "smoke", "arm": "baseline", "seed": 10, "training": "x", "evaluation": "ddim-5",
        "key": "y", "kind": "samples", "seconds": 1.0,
        "values": {"classifier_frechet": 2.0, "classifier_frechet_floor": 1.0, "evaluations": 5.0},
    }  # fmt: skip
    (results / "fast.json").write_text(json.dumps([record]))
    output = run(tmp_path, "report")
    assert "README.md" in output
    assert "1 of 8 results, seeds 10" in (results / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_at_smoke_scale(tmp_path: Path, name: str) -> None:
    run(tmp_path, name)
    run(tmp_path, "report")
    assert load_results(tmp_path / "results" / f"{name}.json")
