"""`sdeflow budget` on a tiny run and on oracles: schemas, files, refusals."""

import csv
import json

import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from sdeflow.cli import cli

TINY = ["--size", "tiny", "--steps", 2, "--batch-size", 8, "--wandb", "disabled"]
QUICK = ["--count", 4, "--bins", 2, "--solver", "ddim", "--steps", 4, "--t-min", 0.01]
QUICK += ["--reference-tolerance", 1e-4]
NUMBER = (float, type(None))
CAUSE = {"cause": str, "rms": float, "error": float, "share": NUMBER}
ENDS = dict.fromkeys(("t_high", "t_low", "sigma_high", "sigma_low", "log_snr_low"), float)
ENDS["log_snr_high"] = NUMBER


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="sdeflow")


def as_json(*args):
    result = run("budget", *args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fits(rows, schema):
    assert rows
    for row in rows:
        assert set(row) == set(schema)
        for key, kind in schema.items():
            assert isinstance(row[key], kind), (key, row[key])


def test_a_run_with_and_without_an_exact_model(here):
    assert run("train", "--data", "mixture", *TINY, "--name", "tiny").exit_code == 0
    printed = as_json("runs/tiny", *QUICK, "--svg")
    fits(printed["causes"], CAUSE)
    fits(printed["parts"], CAUSE | ENDS)
    fits(printed["predictions"], ENDS | {"heldout": float, "train": float, "linear": float})
    assert [row["cause"] for row in printed["causes"]] == ["solver", "cut", "total"]
    assert printed["settings"]["floor"] == 1e-5
    out = here / "runs" / "tiny" / "budget"
    assert imread(out / "budget.png").shape[2] == 4
    assert (out / "budget.svg").exists()
    with (out / "budget.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["rms"]) for row in rows] == [row["rms"] for row in printed["parts"]]
    assert json.loads((out / "budget.json").read_text())["causes"] == printed["causes"]
    again = as_json("--config", out / "config.yaml", "--out", "again")
    assert again["causes"] == printed["causes"]
    compared = as_json("runs/tiny", *QUICK, "--against", "mixture")
    assert [row["cause"] for row in compared["causes"]] == ["solver", "model", "cut", "total"]
    fits(compared["predictions"], ENDS | {"rms": float, "error": float, "size": float})
    refused = run("budget", "runs/tiny", *QUICK, "--against", "mixture:dim=3")
    assert refused.exit_code == 2
    assert "shape" in refused.stderr


def test_a_module_is_measured_on_held_out_data(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    (here / "budget_for_test.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x, c):\n"
        "        return 0.9 * x + 0 * c[:, None]\n"
    )
    printed = as_json("--model", "budget_for_test:Net", "--data", "moons", *QUICK)
    fits(printed["predictions"], ENDS | {"heldout": float, "train": float, "linear": float})
    assert (here / printed["out"] / "predictions.csv").is_file()


def test_an_oracle_that_shares_time():
    shared = ["--etsdm", "--shared", "plug-in", "--final", "denoise"]
    result = run("budget", "--oracle", "gaussian", *QUICK, *shared)
    assert result.exit_code == 0, result.stderr
    for word in ("solver", "model", "cut", "total", "if denoised", "budget/gaussian/budget.png"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--oracle", "mixtur"], "mixture"),
        (["--oracle", "mixture", "somewhere"], "give one of"),
        (["--oracle", "mixture", "--against", "mixture"], "--against belongs to RUN"),
        (["--oracle", "mixture", "--solver", "ancestral"], "adds noise"),
        (["--oracle", "mixture", "--solver", "dimm"], "did you mean"),
        (["--oracle", "mixture", "--bins", "0"], "bins=0"),
        (["--oracle", "mixture", "--count", "1"], "count=1"),
        (["--oracle", "mixture", "--floor", "0.1"], "floor=0.1"),
        (["--oracle", "mixture", "--t-min", "0"], "t_min"),
        (["--oracle", "mixture", "--final", "zero"], "--final"),
        (["--oracle", "mixture", "--label", "1"], "label"),
        (["nowhere"], "nowhere"),
        ([], "sdeflow train"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(here, args, says):
    result = run("budget", *args)
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert says in result.stderr
    assert list(here.iterdir()) == []
