"""`sdeflow partition`: from a model to edges, and from edges to a training that uses them."""

import csv
import json

import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from sdeflow.cli import cli
from sdeflow.run import load_run

TINY = ["--size", "tiny", "--steps", 2, "--batch-size", 8, "--wandb", "disabled"]
QUICK = ["--count", 16]
SPACING = {
    "spacing": str, "edges": list, "largest": float, "error": float, "at": float,
    "largest_jump": float, "jump_at": float, "delta_t": float, "delta_sigma": float,
    "bound": (float, type(None)), "gain": float,
}  # fmt: skip
JUMP = {"spacing": str} | dict.fromkeys(
    ("told", "t", "sigma", "log_snr", "mean", "error", "median", "maximum", "per_step", "within"),
    float,
)
BIAS = {"intervals": int, "spacing": str, "predictor": str, "edges": list} | dict.fromkeys(
    ("threshold", "largest", "error", "at", "mean", "size", "largest_jump", "delta_t",
     "delta_sigma", "score_slope", "score_size", "bound"),
    float,
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="sdeflow")


def as_json(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fits(rows, schema):
    for row in rows:
        assert set(row) == set(schema)
        for key, kind in schema.items():
            assert isinstance(row[key], kind), (key, row[key])


def test_from_a_run_to_edges_to_a_run(here):
    assert run("train", "--data", "moons", *TINY, "--name", "plain").exit_code == 0
    args = ["runs/plain", *QUICK, "--intervals", 3, "--threshold", 0.2, "--output", "mine.json"]
    printed = as_json("partition", *args, "--svg")
    fits(printed["spacings"], SPACING)
    fits(printed["jumps"], JUMP)
    assert [row["spacing"] for row in printed["spacings"]] == [
        "time", "sigma", "log-snr", "equal jumps",
    ]  # fmt: skip
    assert len(printed["edges"]) == 3
    assert printed["edges"][-1] == 0.2
    assert printed["settings"]["dtype"] == "float32"
    out = here / "runs" / "plain" / "partition"
    assert imread(out / "partition.png").shape[2] == 4
    assert (out / "partition.svg").exists()
    with (out / "partition.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in rows] == [row["mean"] for row in printed["jumps"]]
    assert json.loads((out / "partition.json").read_text())["edges"] == printed["edges"]
    # The file is what training takes; the run keeps the edges when the file is gone.
    train = ["train", "--data", "moons", *TINY, "--etsdm", "--etsdm-edges", "mine.json"]
    result = run(*train, "--name", "shared")
    assert result.exit_code == 0, result.stderr
    (here / "mine.json").unlink()
    assert list(load_run("runs/shared").denoiser.breaks) == printed["edges"]
    assert run("sample", "runs/shared", "--count", 2).exit_code == 0
    again = as_json("partition", "--config", out / "config.yaml", "--out", "again")
    assert again["edges"] == printed["edges"]
    refused = run("partition", "runs/shared", *QUICK)
    assert refused.exit_code == 2
    assert "shares time already" in refused.stderr


def test_an_oracle_with_its_biases(here):
    args = ["--oracle", "mixture:modes=2,dim=1", *QUICK, "--intervals", 2]
    biases = ["--bias", "--bias-intervals", "1", "--bias-thresholds", "0.1,0.02"]
    printed = as_json("partition", *args, *biases)
    fits(printed["bias"], BIAS)
    assert {(r["threshold"], r["intervals"]) for r in printed["bias"]} == {
        (0.1, 1), (0.1, 2), (0.02, 1), (0.02, 2),
    }  # fmt: skip
    out = here / "partition" / "mixture"
    assert imread(out / "bias.png").shape[2] == 4
    with (out / "bias.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["largest"]) for row in rows] == [row["largest"] for row in printed["bias"]]
    text = run("partition", *args, "--minimise", "bound", "--bias", "--bias-intervals", "2")
    assert text.exit_code == 0, text.stderr
    for word in ("least bound", "left end", "Delta sigma", "--etsdm-edges"):
        assert word in text.stdout
    assert "partition/mixture-2/edges.json" in text.stdout


def test_the_threshold_can_be_balanced():
    printed = as_json("partition", "--oracle", "mixture", *QUICK, "--threshold", "auto")
    # About n h / 2 where eps grows with the root of t.
    assert printed["settings"]["threshold"] == pytest.approx(0.0025, rel=0.3)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--oracle", "mixtur"], "mixture"),
        (["--oracle", "mixture", "somewhere"], "give one of"),
        (["--oracle", "mixture", "--etsdm"], "--etsdm does not belong here"),
        (["--oracle", "mixture", "--intervals", "0"], "intervals=0"),
        (["--oracle", "mixture", "--threshold", "low"], "--threshold is 'low'"),
        (["--oracle", "mixture", "--threshold", "1"], "threshold=1"),
        (["--oracle", "mixture", "--threshold", "auto", "--minimise", "bound"], "falls to 0"),
        (["--oracle", "mixture", "--minimise", "time"], "--minimise"),
        (["--oracle", "mixture", "--step", "0"], "step=0"),
        (["--oracle", "mixture", "--first-edge", "0.5"], "first_edge"),
        (["--oracle", "mixture", "--count", "1"], "count"),
        (["--oracle", "mixture", "--bias-intervals", "3"], "belongs to --bias"),
        (["--oracle", "mixture", "--bias", "--bias-intervals", "1.5"], "--bias-intervals"),
        (["--oracle", "mixture", "--bias", "--bias-thresholds", "0"], "--bias-thresholds"),
        (["nowhere"], "nowhere"),
        ([], "sdeflow train"),
        (["--oracle", "gaussian", "--t-min", "0"], "t_min=0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(here, args, says):
    result = run("partition", *args)
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert says in result.stderr
    assert list(here.iterdir()) == []
