"""`sdeflow sensitivity` on an oracle, a tiny run and a module; and what it refuses."""

import csv
import json

import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from sdeflow.cli import cli
from sdeflow.instruments.sensitivity import SensitivityStudy
from sdeflow.instruments.sensitivity_report import sensitivity_figure

ROW = {"perturbed": str, "answer": str, "t": float, "sigma": float, "log_snr": float}
ROW |= dict.fromkeys(("scale", "mean", "error", "median", "maximum"), float)
QUICK = ["--count", 4, "--t", 0.05, "--t", 0.5, "--steps", 3]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="sdeflow")


def as_json(*args):
    result = run("sensitivity", *args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fits(rows):
    for row in rows:
        assert set(row) == set(ROW)
        for key, kind in ROW.items():
            assert isinstance(row[key], kind), (key, row[key])


def test_of_an_oracle(here):
    printed = as_json("--oracle", "gaussian:mean=0,dim=3", *QUICK, "--svg")
    fits(printed["rows"])
    # Prediction and sample are both multiples of x, so they change alike, and in proportion.
    by = {(r["answer"], r["t"], r["scale"]): r["mean"] for r in printed["rows"]}
    assert len(by) == 8
    for t in (0.05, 0.5):
        assert by["sample", t, 0.1] == pytest.approx(by["prediction", t, 0.1], rel=1e-9)
        assert by["prediction", t, 0.1] == pytest.approx(10 * by["prediction", t, 0.01], rel=1e-9)
    out = here / "sensitivity" / "gaussian"
    assert printed["out"] == "sensitivity/gaussian"
    assert imread(out / "sensitivity.png").shape[2] == 4
    assert (out / "sensitivity.svg").exists()
    with (out / "sensitivity.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(r["mean"]) for r in table] == [r["mean"] for r in printed["rows"]]
    assert json.loads((out / "sensitivity.json").read_text())["rows"] == printed["rows"]
    again = as_json("--config", out / "config.yaml")
    assert again["rows"] == printed["rows"]


def test_of_a_run(here):
    train = ["train", "--etsdm", "--data", "mixture", "--size", "tiny", "--steps", 2]
    result = run(*train, "--batch-size", 8, "--wandb", "disabled", "--name", "tiny")
    assert result.exit_code == 0, result.stderr
    printed = as_json("runs/tiny", *QUICK, "--perturb", "x", "--no-samples", "--measure", "data")
    assert printed["out"] == "runs/tiny/sensitivity"
    assert {r["answer"] for r in printed["rows"]} == {"prediction"}
    everything = as_json(*QUICK)
    assert {r["perturbed"] for r in everything["rows"]} == {"x", "condition", "features"}
    fits(everything["rows"])
    text = run("sensitivity", *QUICK, "--scale", 0.05)
    assert text.exit_code == 0, text.stderr
    assert "runs/tiny/sensitivity-3/sensitivity.png" in text.stdout
    assert "t = 0.05" in text.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--oracle", "mixtur"], "mixture"),
        (["--oracle", "mixture", "somewhere"], "give one of"),
        (["--oracle", "mixture", "--perturb", "condition"], "condition"),
        (["--oracle", "mixture", "--perturb", "features"], "features"),
        (["--oracle", "mixture", "--t", "0"], "times"),
        (["--oracle", "mixture", "--t", "0.0005"], "0.001"),
        (["--oracle", "mixture", "--scale", "-1"], "scales"),
        (["--oracle", "mixture", "--count", "1"], "count"),
        (["--oracle", "mixture", "--measure", "nose"], "--measure"),
        (["nowhere"], "nowhere"),
        ([], "sdeflow train"),
    ],
)
def test_bad_input_is_one_line(here, args, says):
    result = run("sensitivity", *args)
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert says in result.stderr
    assert list(here.iterdir()) == []


def test_an_empty_study_is_not_drawn():
    with pytest.raises(ValueError, match="nothing to draw"):
        sensitivity_figure(SensitivityStudy([], {}))


def test_one_time_is_drawn_in_the_middle(here):
    study = as_json("--oracle", "mixture", "--count", 4, "--t", 0.1, "--no-samples")
    figure = sensitivity_figure(SensitivityStudy(study["rows"], study["settings"]))
    for axes, key in zip(figure.axes[:3], ("t", "sigma", "log_snr"), strict=True):
        low, high = axes.get_xlim()
        assert low < study["rows"][0][key] - 0.05
        assert high > study["rows"][0][key] + 0.05
