"""`sdeflow lipschitz` on oracles, a tiny run and a module from elsewhere; and what it refuses."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from sdeflow.cli import cli
from sdeflow.instruments.lipschitz import LipschitzStudy
from sdeflow.instruments.lipschitz_report import lipschitz_figure

QUICK = ["--points", 5, "--count", 16]
CURVE = {
    "prediction": str,
    "quantity": str,
    "t": float,
    "sigma": float,
    "log_snr": float,
    "step": (float, type(None)),
    "crosses": bool,
    "mean": float,
    "error": float,
    "median": float,
    "maximum": float,
    "per_sigma": (float, type(None)),
    "per_log_snr": (float, type(None)),
}
JUMPS: dict[str, type] = {"prediction": str}
JUMPS |= dict.fromkeys(("t", "sigma", "log_snr", "mean", "error"), float)
JUMPS |= dict.fromkeys(("median", "maximum", "per_step", "per_sigma", "per_log_snr"), float)

MINE = """
import torch
from sdeflow import make_oracle, make_sde

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
    def forward(self, x, c):
        return self.layer(x) * torch.cos(3 * c)[:, None, None, None]

class Wrong(torch.nn.Module):
    def forward(self, x, c):
        return x[:, :, :4]

def exact():
    return make_oracle("gaussian:dim=3", make_sde("edm"))

def broken():
    return 1 / 0

number = 3
def gives_a_number():
    return 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory, but for a module of models."""
    (tmp_path / "mine_for_test.py").write_text(MINE)
    (tmp_path / "broken_syntax_for_test.py").write_text("def f(:\n")
    (tmp_path / "broken_import_for_test.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="sdeflow")


def as_json(*args):
    result = run("lipschitz", *args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fits(rows, schema):
    for row in rows:
        assert set(row) == set(schema)
        for key, kind in schema.items():
            assert isinstance(row[key], kind), (key, row[key])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], -0.5),
        (["--schedule", "trig"], 0.0),
        (["--sde", "edm"], 0.0),
        (["--smooth-start", 0.1], 0.0),
    ],
)
def test_exponent_of_the_mixture(options, expected):
    printed = as_json("--oracle", "mixture", *QUICK, *options)
    assert set(printed["exponent"]) == {"value", "error", "low", "high"}
    assert printed["exponent"]["value"] == pytest.approx(expected, abs=0.03)
    assert 0 < printed["exponent"]["error"] < 0.03
    fits(printed["curve"], CURVE)
    assert printed["jumps"] == []
    end = 0.999 if "trig" in options else 1  # where no signal is left at 1
    grid = np.geomspace(1e-8, end, 5).tolist()
    assert [r["t"] for r in printed["curve"] if r["quantity"] == "total"] == pytest.approx(grid)


def test_exponent_of_a_finite_data_set():
    for options in ([], ["--smooth-start", 0.1]):
        printed = as_json("--oracle", "finite:count=100", *QUICK, *options)
        assert printed["exponent"]["value"] == pytest.approx(-1, abs=0.03)


def test_shared_time_is_told_with_its_jumps_and_written(here):
    args = ["--etsdm", "--shared", "plug-in", "--t-min", 0.001, "--t-max", 0.09, "--in-x"]
    printed = as_json("--oracle", "mixture", *QUICK, *args, "--svg", "--measure", "noise",
                      "--measure", "velocity", "--step", 1e-3, "--step", 1e-4)  # fmt: skip
    assert printed["exponent"] is None
    fits(printed["curve"], CURVE)
    fits(printed["jumps"], JUMPS)
    assert [j["t"] for j in printed["jumps"]] == [0.02] * 2 + [0.04] * 2 + [0.06] * 2 + [0.08] * 2
    noise = [r for r in printed["summary"] if r["prediction"] == "noise"]
    assert {r["quantity"] for r in noise} == {"total", "condition", "step", "in x", "curvature"}
    assert noise[0]["maximum"] == 0
    assert noise[0]["largest_jump"] > 0.05
    out = here / "lipschitz" / "mixture"
    assert printed["out"] == "lipschitz/mixture"
    for name in ("lipschitz", "space"):
        assert imread(out / f"{name}.png").shape[2] == 4
        assert (out / f"{name}.svg").exists()
    with (out / "lipschitz.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(r["mean"]) for r in table] == [r["mean"] for r in printed["curve"]]
    assert (out / "jumps.csv").read_text().count("\n") == 9
    saved = json.loads((out / "lipschitz.json").read_text())
    assert saved["curve"] == printed["curve"]
    result = run("lipschitz", "--config", out / "config.yaml")
    assert result.exit_code == 0, result.stderr
    again = json.loads((here / "lipschitz" / "mixture-2" / "lipschitz.json").read_text())
    assert again["curve"] == saved["curve"]


def test_the_caption_counts_the_edges_there_are():
    args = ["--etsdm", "--etsdm-edges", "[0.01, 0.1]", "--points", 2, "--count", 4]
    printed = as_json("--oracle", "mixture", *args, "--no-derivative")
    assert "time shared in 2 intervals" in printed["model"]


def test_a_run_with_shared_time():
    train = ["train", "--etsdm", "--size", "tiny", "--steps", 2, "--batch-size", 8]
    result = run(*train, "--wandb", "disabled", "--class-condition", "--name", "tiny")
    assert result.exit_code == 0, result.stderr
    printed = as_json("runs/tiny", "--points", 4, "--count", 4, "--measure", "data")
    assert printed["exponent"] is None
    assert len(printed["jumps"]) == 5
    assert printed["settings"] == {"count": 4, "seed": 0, "dtype": "float32"}
    parts = [r for r in printed["curve"] if r["quantity"] == "condition"]
    assert parts[0]["t"] == pytest.approx(1e-5)
    assert [r["mean"] == 0 for r in parts] == [True, True, True, False]
    repeated = as_json("--config", "runs/tiny/lipschitz/config.yaml", "--out", "again")
    assert repeated["curve"] == printed["curve"]
    text = run("lipschitz", "--points", 2, "--count", 2)
    assert text.exit_code == 0, text.stderr
    assert "largest jump" in text.stdout
    assert "runs/tiny/lipschitz-2/lipschitz.png" in text.stdout


def test_several_runs_in_one_figure(here):
    for name, options in (("plain", []), ("shared", ["--etsdm"])):
        train = ["train", "--data", "mixture", "--size", "tiny", "--steps", 2, "--batch-size", 8]
        result = run(*train, "--wandb", "disabled", "--name", name, *options)
        assert result.exit_code == 0, result.stderr
    args = ["runs/plain", "runs/shared", "--points", 4, "--count", 4]
    printed = as_json(*args, "--svg")
    assert printed["out"] == "lipschitz/plain-and-shared"
    plain, shared = printed["models"]
    alone = as_json("runs/shared", "--points", 4, "--count", 4)
    assert shared["curve"] == alone["curve"]
    assert plain["jumps"] == []
    assert len(shared["jumps"]) == 5
    out = here / "lipschitz" / "plain-and-shared"
    saved = json.loads((out / "comparison.json").read_text())
    assert [row["model"] for row in saved["summary"]] == ["plain"] * 3 + ["shared"] * 3
    assert (out / "comparison.svg").exists()
    assert (out / "shared" / "jumps.csv").exists()
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["mean"]) for r in rows] == [r["mean"] for r in saved["summary"]]
    again = as_json("--config", out / "config.yaml")
    assert [m["curve"] for m in again["models"]] == [m["curve"] for m in printed["models"]]
    twice = run("lipschitz", "runs/plain", "runs/plain")
    assert twice.exit_code == 2
    assert "different names" in twice.stderr
    assert imread(out / "comparison.png").shape[2] == 4


def test_a_model_from_elsewhere():
    printed = as_json("--model", "mine_for_test:Net", *QUICK, "--t-min", 0.01, "--predict", "data")
    assert {r["quantity"] for r in printed["curve"]} == {"total", "condition", "step"}
    assert "digits, vp linear, condition time, predicts data" in printed["model"]
    shared = as_json("--model", "mine_for_test:Net", *QUICK, "--t-min", 0.01, "--etsdm")
    assert "E-TSDM" in shared["model"]
    options = ["--data", "mixture", "--t-min", 0.01]
    exact = run("lipschitz", "--model", "mine_for_test:exact", *QUICK, *options)
    assert exact.exit_code == 2  # three dimensions, measured on points in the plane
    assert "mine_for_test:exact" in exact.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--oracle", "mixtur"], "mixture"),
        (["--oracle", "mixture", "somewhere"], "give one of"),
        (["--oracle", "mixture", "--model", "a:b"], "give one of"),
        (["--oracle", "mixture", "--data", "digits"], "--data belongs to --model"),
        (["--oracle", "mixture", "--step", "0"], "steps"),
        (["--oracle", "mixture", "--step", "2"], "steps"),
        (["--oracle", "mixture", "--points", "1"], "points"),
        (["--oracle", "mixture", "--t-min", "0"], "t_min"),
        (["--oracle", "mixture", "--t-min", "0.5", "--t-max", "0.1"], "t_min"),
        (["--oracle", "mixture", "--count", "1"], "count"),
        (["--oracle", "mixture", "--batch-size", "0"], "batch_size"),
        (["--oracle", "mixture", "--measure", "nose"], "--measure"),
        (["--oracle", "mixture", "--schedule", "linaer"], "--schedule"),
        (["nowhere"], "nowhere"),
        ([], "sdeflow train"),
        (["--sde", "ve"], "--sde belongs to --oracle"),
        (["--predict", "data"], "--predict belongs to --model"),
        (["--model", "mine_for_test"], "package.module:factory"),
        (["--model", "mine_for_test:Nte"], "Nte"),
        (["--model", "no_such_module:Net"], "no_such_module"),
        (["--model", "mine_for_test:broken"], "ZeroDivisionError"),
        (["--model", "mine_for_test:number"], "TypeError"),
        (["--model", "mine_for_test:gives_a_number"], "torch.nn.Module"),
        (["--model", "broken_syntax_for_test:f"], "SyntaxError"),
        (["--model", "broken_import_for_test:f"], "ZeroDivisionError"),
        (["--model", ".mine_for_test:Net"], "TypeError"),
        (["--oracle", "mixture:modes=0"], "modes"),
        (["--oracle", "mixture", "--seed", str(2**70)], "seed"),
        (["--oracle", "finite:count=20", "--etsdm", "--shared", "plug-in"], "told first"),
        (["--oracle", "mixture", "--sigma-floor", "0.5", "--etsdm"], "threshold"),
        (
            [
                "--oracle",
                "mixture",
                "--etsdm",
                "--etsdm-edges",
                "[0.01]",
                "--etsdm-intervals",
                "2",
            ],
            "--etsdm-intervals beside --etsdm-edges [0.01]",
        ),
        (["--model", "mine_for_test:Wrong"], "shape"),
        (["--model", "mine_for_test:Net", "--data", "mixture"], "fails on x of shape (2, 2)"),
        (["--model", "mine_for_test:Net", "--shared", "ideal"], "--shared belongs to --oracle"),
        (["--model", "mine_for_test:Net", "--data", "digit"], "did you mean digits"),
    ],
)
def test_bad_input_is_one_line(here, args, says):
    before = sorted(p for p in here.rglob("*") if "__pycache__" not in str(p))
    result = run("lipschitz", *args)
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("sdeflow: error: ")
    assert says in result.stderr
    assert sorted(p for p in here.rglob("*") if "__pycache__" not in str(p)) == before


def test_an_empty_study_is_not_drawn():
    with pytest.raises(ValueError, match="nothing to draw"):
        lipschitz_figure(LipschitzStudy([], [], {}))
