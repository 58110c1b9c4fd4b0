"""`sdeflow evaluate` and `sdeflow likelihood` on tiny runs: schemas, pairing, refusals."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from sdeflow import sampling
from sdeflow.cli import cli
from sdeflow.data import load_data
from sdeflow.metrics import METRICS, classifier
from solvers import Status

QUICK = ["--size", "tiny", "--steps", "20", "--batch-size", "64", "--wandb", "disabled"]
FAST = ["--count", "40", "--solver", "ddim", "--steps", "4", "--resamples", "10"]


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="sdeflow")


def as_json(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tiny runs on moons and one on digits with labels, in one directory."""
    root = tmp_path_factory.mktemp("trained") / "runs"
    for name, args in [
        ("plain", ["--data", "moons"]),
        ("shared", ["--data", "moons", "--etsdm"]),
        ("digits", ["--class-condition", "--steps", 2]),
    ]:
        result = run("train", *QUICK, *args, "--out", root, "--name", name)
        assert result.exit_code == 0, result.stderr
    return root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)


@pytest.fixture
def quick_classifier(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", (3, 3))


SCORE = {
    "name": str, "metric": str, "value": float, "low": float, "high": float, "parts": list,
    "count": int, "reference_count": int, "features": str,
}  # fmt: skip
DIFFERENCE = {
    "name": str, "baseline": str, "metric": str, "value": float, "low": float, "high": float,
    "p_value": float, "count": int, "features": str,
}  # fmt: skip


def fits(found, schema):
    assert set(found) == set(schema)
    for name, kind in schema.items():
        assert isinstance(found[name], kind), (name, found[name])


def test_evaluate_two_runs(runs, tmp_path):
    out = tmp_path / "out"
    args = [runs / "plain", runs / "shared", *FAST, "--seeds", "0,3", "--out", out]
    printed = as_json("evaluate", *args)
    assert set(printed) == {"runs", "data", "seeds", "spaces", "out", "files"}
    assert [entry["name"] for entry in printed["runs"]] == ["plain", "shared"]
    for entry in printed["runs"]:
        assert entry["evaluations"] == 4
        assert entry["failed"] == 0
    assert printed["seeds"] == [0, 3]
    (space,) = printed["spaces"]
    assert space["settings"]["features"] == "values (2)"
    for score in space["scores"] + space["floor"]:
        fits(score, SCORE)
        assert (score["count"], score["reference_count"], len(score["parts"])) == (40, 40, 2)
        assert score["low"] <= score["value"] <= score["high"]
    assert [s["metric"] for s in space["scores"]] == [*METRICS, *METRICS]
    assert [s["metric"] for s in space["floor"]] == list(METRICS)
    for difference in space["differences"]:
        fits(difference, DIFFERENCE)
        assert (difference["name"], difference["baseline"]) == ("shared", "plain")
    assert {p.name for p in out.iterdir()} == {
        "evaluate.json", "evaluate.csv", "config.yaml", "SHA256SUMS",
    }  # fmt: skip
    saved = json.loads((out / "evaluate.json").read_text())
    assert saved == {k: v for k, v in printed.items() if k not in ("out", "files")}
    with (out / "evaluate.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["run"] * 16 + ["floor"] * 8 + ["difference"] * 8
    assert float(rows[0]["value"]) == space["scores"][0]["value"]
    again = as_json("evaluate", "--config", out / "config.yaml", "--out", tmp_path / "again")
    assert again["spaces"] == printed["spaces"]


def test_evaluate_prints_a_table(runs, tmp_path):
    result = run("evaluate", runs / "plain", *FAST, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "values (2): 40 samples against 40 held-out ones" in result.stdout
    for label in (*METRICS.values(), "plain", "training data", "95% bootstrap interval"):
        assert label in result.stdout


def test_evaluate_in_the_classifiers_features(runs, tmp_path, quick_classifier):
    args = [runs / "digits", *FAST, "--cache", tmp_path / "cache"]
    first = as_json("evaluate", *args, "--out", tmp_path / "first")
    names = [space["settings"]["features"] for space in first["spaces"]]
    assert names[0] == "pixels (1x8x8)"
    assert names[1].startswith("classifier ")
    files = sorted((tmp_path / "cache").iterdir())
    assert [f.suffix for f in files] == [".json", ".safetensors"]
    before = [f.stat().st_mtime_ns for f in files]
    files[1].read_bytes()
    again = as_json("evaluate", *args, "--out", tmp_path / "again")
    assert [f.stat().st_mtime_ns for f in files] == before
    assert again["spaces"] == first["spaces"]
    files[1].write_bytes(b"damaged")
    result = run("evaluate", *args, "--space", "classifier", "--out", tmp_path / "third")
    assert result.exit_code == 0
    assert "is damaged: training it anew" in result.stderr


def test_likelihood_of_points(runs, tmp_path):
    out = tmp_path / "out"
    args = ["--count", 6, "--rtol", "1e-3", "--atol", "1e-3", "--t-min", "1e-2"]
    printed = as_json("likelihood", runs / "plain", *args, "--out", out)
    assert {
        "run", "about", "data", "unit", "mean", "standard_error", "divergence_error", "prior",
        "offset", "reconstruction", "levels", "dimension", "count", "failed", "evaluations",
        "solver", "chart", "rtol", "atol", "controller", "t_min", "t_max", "breaks", "divergence",
        "draws", "seed", "out", "files",
    } == set(printed)  # fmt: skip
    assert (printed["unit"], printed["levels"], printed["divergence"]) == (
        "nats/dim",
        None,
        "exact",
    )
    assert np.isfinite([printed[n] for n in ("mean", "standard_error", "prior")]).all()
    assert 0 < printed["reconstruction"] < 0.1
    assert {p.name for p in out.iterdir()} == {
        "likelihood.csv", "summary.json", "config.yaml", "SHA256SUMS",
    }  # fmt: skip
    with (out / "likelihood.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [float(row["nats_per_dim"]) for row in rows]
    assert np.mean(values) == pytest.approx(printed["mean"], rel=1e-12)
    assert yaml.safe_load((out / "config.yaml").read_text())["count"] == 6
    again = as_json("likelihood", "--config", out / "config.yaml", "--out", tmp_path / "again")
    assert again["mean"] == printed["mean"]


def test_likelihood_of_images_with_labels(runs, tmp_path):
    args = ["--count", 3, "--rtol", "1e-2", "--atol", "1e-2", "--t-min", "1e-2", "--data", "train"]
    printed = as_json("likelihood", runs / "digits", *args, "--labels", "--out", tmp_path / "out")
    assert (printed["unit"], printed["levels"], printed["draws"]) == ("bits/dim", 17, 2)
    assert printed["offset"] == pytest.approx(np.log2(8.5))
    assert printed["divergence_error"] > 0
    text = run("likelihood", runs / "digits", *args, "--out", tmp_path / "text").stdout
    assert "bits/dim (3 samples of train, 17 levels, dequantised)" in text
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "other.npz", x=rng.integers(0, 256, (4, 8, 8), dtype=np.uint8))
    args[-1] = f"npz:{tmp_path / 'other.npz'}"
    other = as_json("likelihood", runs / "digits", *args, "--out", tmp_path / "other")
    assert other["levels"] == 256


def refused(*args, says, below):
    """The command must be refused in one line, and leave everything under `below` as it was."""
    before = {path: path.stat().st_mtime_ns for path in below.rglob("*")}
    result = run(*args)
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("sdeflow: error: ")
    assert says in result.stderr
    assert {path: path.stat().st_mtime_ns for path in below.rglob("*")} == before


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["plain", "digits"], "different data"),
        (["plain", "plain"], "twice"),
        (["plian"], "there is no run"),
        (["plain", "--count", "5"], "--count is 5"),
        (["plain", "--count", "20001"], "--count is 20001"),
        (["digits", "--count", "1298"], "1297 training samples"),
        (["plain", "--seeds", "a"], "--seeds"),
        (["plain", "--seeds", "1,1"], "twice"),
        (["plain", "--solver", "dopry5"], "did you mean dopri5"),
        (["plain", "--space", "pixls"], "--space"),
        (["plain", "--space", "inception"], "--inception-weights"),
        (["plain", "--inception-weights", "missing.pth"], "nception"),
        (["plain", "--resamples", "1"], "resamples = 1"),
        (["plain", "--confidence", "1"], "confidence = 1"),
        (["plain", "--neighbours", "0"], "neighbours = 0"),
        (["plain", "--t-min", "0"], "t_min"),
        (["plain", "--batch-size", "0"], "batch"),
        (["plain", "--final", "sharpen"], "--final"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_evaluate_refuses(args, says, runs):
    paths = [runs / a if a in ("plain", "digits", "plian") else a for a in args]
    refused("evaluate", *paths, says=says, below=runs)


def test_evaluate_needs_labels_for_a_classifier(runs, monkeypatch):
    bare = replace(load_data("moons"), train_labels=None, heldout_labels=None, num_classes=0)
    monkeypatch.setattr("sdeflow.data.load_data", lambda *args: bare)
    refused("evaluate", runs / "plain", "--space", "classifier", says="no labels", below=runs)


def test_what_fails_is_left_out_of_every_run(runs, tmp_path, monkeypatch):
    real, drawn = sampling.sample, []

    def sample(*args, **kwargs):
        found = real(*args, **kwargs)
        if not drawn:  # the first run's samples 3 and 7 fail
            found.status[[3, 7]] = Status.non_finite
            found.x[[3, 7]] = float("nan")
            found.failure = "2 of 40 samples failed: sample 3: non_finite"
        drawn.append(found)
        return found

    monkeypatch.setattr(sampling, "sample", sample)
    args = [runs / "plain", runs / "shared", *FAST, "--out", tmp_path / "out"]
    result = run("evaluate", *args, "--json")
    assert result.exit_code == 3
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("sdeflow: error: plain: 2 of 40 samples failed: sample 3: non_finite")
    printed = json.loads(result.stdout)
    assert [entry["failed"] for entry in printed["runs"]] == [2, 0]
    assert {score["count"] for score in printed["spaces"][0]["scores"]} == {38}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--count", "0"], "--count is 0"),
        (["--count", "2001"], "has 2000 samples"),
        (["--data", "heldot"], "no such data set"),
        (["--data", "digits"], "shape"),
        (["--draws", "0"], "draws=0"),
        (["--divergence", "trace"], "--divergence"),
        (["--solver", "ddim"], "Runge-Kutta"),
        (["--solver", "dopry5"], "did you mean dopri5"),
        (["--chart", "x/tme"], "clock"),
        (["--t-min", "0"], "t_min"),
        (["--rtol", "nan"], "rtol"),
        (["--labels"], "label"),
        (["--batch-size", "0"], "batch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_likelihood_refuses(args, says, runs):
    refused("likelihood", runs / "plain", *args, says=says, below=runs)
