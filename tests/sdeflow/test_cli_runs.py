"""The commands end to end on a tiny run: what they write, print and repeat."""

import csv
import inspect
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from matplotlib.image import imread

import sdeflow
from sdeflow import sampling
from sdeflow.cli import cli
from sdeflow.cli.sample import command as sample_command
from sdeflow.files import verify_sums

QUICK = ["--size", "tiny", "--steps", "6", "--checkpoint-every", "6", "--batch-size", "16"]
QUICK += ["--network", "mlp", "--wandb", "disabled"]


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="sdeflow")


def as_json(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a tiny run with labels, and what training it printed."""
    out = tmp_path_factory.mktemp("trained") / "runs"
    args = ["--etsdm", "--class-condition", "--out", out, "--name", "tiny"]
    printed = as_json("train", *QUICK, *args)
    return out / "tiny", printed


@pytest.fixture(scope="module")
def sampled(trained, tmp_path_factory):
    """A directory of samples, and what sampling them printed."""
    out = tmp_path_factory.mktemp("sampled") / "out"
    args = ["--count", 5, "--label", "0,1", "--guidance", 1.5, "--rtol", 0.02, "--atol", 0.02]
    return out, as_json("sample", trained[0], *args, "--batch-size", 3, "--out", out)


def test_train_says_where_the_run_is(trained):
    path, printed = trained
    assert printed["run"] == str(path)
    assert printed["step"] == 6
    assert np.isfinite([printed["loss"], printed["heldout"]]).all()
    for figure in printed["figures"]:
        assert imread(figure).shape[2] == 4
        assert Path(figure).with_suffix(".csv").read_text().count("\n") > 1
    assert printed["config"]["etsdm"] is True


def test_a_runs_config_repeats_it(trained, tmp_path):
    path, printed = trained
    again = as_json(
        "train", "--config", path / "config.yaml", "--out", tmp_path, "--name", "again"
    )
    assert again["loss"] == printed["loss"]
    assert again["heldout"] == printed["heldout"]


def test_resume_takes_the_runs_own_settings(trained, tmp_path):
    args = ["--etsdm", "--etsdm-intervals", "3", "--predict", "velocity"]
    assert run("train", *QUICK, *args, "--out", tmp_path, "--name", "short").exit_code == 0
    longer = as_json("train", "--resume", tmp_path / "short", "--steps", 8)
    assert longer["step"] == 8
    assert longer["run"] == str(tmp_path / "short")
    assert longer["config"]["etsdm_intervals"] == 3
    assert longer["config"]["predict"] == "velocity"
    assert longer["config"]["batch_size"] == 16


@pytest.mark.parametrize("how", ["run", "config", "auto"])
def test_a_penalty_is_switched_off_with_its_threshold(how, tmp_path):
    args = [*QUICK, "--data", "mixture", "--out", tmp_path, "--name", "penalised"]
    assert run("train", *args, "--lipschitz-weight", 1e-4).exit_code == 0
    saved = tmp_path / "penalised"
    source = {
        "run": ["--resume", saved],
        "config": ["--config", saved / "config.yaml", "--out", tmp_path, "--name", "other"],
        "auto": [*args, "--resume", "auto"],
    }[how]
    more = [*source, "--steps", 8, "--dry-run"]
    planned = as_json("train", *more, "--lipschitz-weight", 0)["config"]
    assert (planned["lipschitz_weight"], planned["lipschitz_below"]) == (0, None)
    refused = run("train", *more, "--lipschitz-weight", 0, "--lipschitz-below", 0.05)
    assert refused.exit_code == 2
    assert "--lipschitz-below without --lipschitz-weight" in refused.stderr
    kept = as_json("train", *more, "--lipschitz-weight", 1e-3)["config"]
    assert kept["lipschitz_below"] == 0.1


def test_dry_run_writes_nothing(tmp_path):
    plan = as_json("train", *QUICK, "--dry-run", "--out", tmp_path)
    assert plan["data_shape"] == [1, 8, 8]
    assert plan["config"]["steps"] == 6
    assert list(tmp_path.iterdir()) == []


def test_sample_writes_what_it_says(sampled):
    out, printed = sampled
    for path in printed["files"].values():
        assert out.joinpath(path.rpartition("/")[2]).is_file()
    names = {"samples.npz", "grid.png", "steps.csv", "steps.png", "summary.json", "config.yaml"}
    assert {p.name for p in out.iterdir()} == {*names, "SHA256SUMS"}
    assert verify_sums(out) == []
    data = np.load(out / "samples.npz")
    assert data["x"].shape == (5, 1, 8, 8)
    np.testing.assert_array_equal(data["index"], np.arange(5))
    np.testing.assert_array_equal(data["status"], np.zeros(5))
    np.testing.assert_array_equal(data["t"], np.full(5, 1e-3))


def test_summary_agrees_with_the_log(sampled):
    out, _ = sampled
    summary = json.loads((out / "summary.json").read_text())
    with (out / "steps.csv").open() as file:
        log = list(csv.DictReader(file))
    accepted = sum(int(row["accepted"]) for row in log)
    assert (summary["accepted"], summary["rejected"]) == (accepted, len(log) - accepted)
    evaluations = np.zeros(5)
    for row in log:
        evaluations[int(row["sample"])] += int(row["stages"])
    cost = summary["evaluations"]
    assert [cost["min"], cost["mean"], cost["max"]] == [
        evaluations.min(), evaluations.mean(), evaluations.max(),
    ]  # fmt: skip
    assert summary["status"]["ok"] == 5
    known = {"solver", "chart", "rtol", "atol", "t_min", "t_max", "calls", "seconds", "seed"}
    assert known <= summary.keys()
    assert summary["label"] == [0, 1, 0, 1, 0]


def test_samples_config_repeats_them(sampled, tmp_path):
    out, _ = sampled
    assert run("sample", "--config", out / "config.yaml", "--out", tmp_path).exit_code == 0
    first, second = (np.load(place / "samples.npz")["x"] for place in (out, tmp_path))
    np.testing.assert_array_equal(first, second)


def test_noise_from_a_file_starts_the_samples(trained, tmp_path):
    noise = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "noise.npz", noise=noise)
    np.save(tmp_path / "noise.npy", noise[[2, 1, 0]])
    xs = []
    for name in ("noise.npz", "noise.npy"):
        args = ["--noise", tmp_path / name, "--solver", "ddim", "--steps", 3]
        as_json("sample", trained[0], *args, "--out", tmp_path / name[-3:])
        xs.append(np.load(tmp_path / name[-3:] / "samples.npz")["x"])
    np.testing.assert_array_equal(xs[0], xs[1][[2, 1, 0]])
    config = yaml.safe_load((tmp_path / "npz" / "config.yaml").read_text())
    assert config["count"] == 3


def test_each_call_gets_a_directory_of_its_own(trained):
    path, _ = trained
    outs = [
        as_json("sample", path, "--solver", "ddim", "--steps", 2, "--count", 1)["out"]
        for _ in range(2)
    ]
    assert outs == [str(path / "samples" / "ddim"), str(path / "samples" / "ddim-2")]


def test_numerical_failure_saves_what_succeeded(trained, tmp_path):
    # One start at the end of float32 among four: the network overflows, its sample fails, and the
    # other three are as without it.
    noise = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)
    good = noise.copy()
    noise[2] = 3e38
    args = ["--rtol", 0.05, "--atol", 0.05]
    for name, array in (("bad", noise), ("good", good)):
        np.save(tmp_path / f"{name}.npy", array)
        result = run(
            "sample", trained[0], "--noise", tmp_path / f"{name}.npy", *args, "--json",
            "--out", tmp_path / name,
        )  # fmt: skip
        assert result.exit_code == (3 if name == "bad" else 0), result.stderr
        if name == "bad":
            last = result.stderr.strip().splitlines()[-1]
            assert last.startswith("sdeflow: error: 1 of 4 samples failed: sample 2: non_finite")
            assert json.loads(result.stdout)["status"]["non_finite"] == 1
    kept, whole = (np.load(tmp_path / name / "samples.npz") for name in ("bad", "good"))
    np.testing.assert_array_equal(kept["index"], [0, 1, 3])
    # Other batch sizes round differently inside the network; the tolerance is 0.05.
    np.testing.assert_allclose(kept["x"], whole["x"][[0, 1, 3]], atol=0.05)


def test_runs_are_listed_and_shown(trained):
    path, printed = trained
    listed = as_json("runs", "list", "--root", path.parent)["runs"]
    assert [entry["name"] for entry in listed] == ["tiny"]
    assert listed[0]["loss"] == printed["loss"]
    assert listed[0]["status"] == "finished"
    table = run("runs", "list", "--root", path.parent).stdout
    assert re.search(r"tiny +finished +6/6 .*E-TSDM", table)
    shown = as_json("runs", "show", "tiny", "--root", path.parent)
    assert shown["config"] == printed["config"] | {"out": "runs", "name": None}
    assert shown == as_json("runs", "show", "--root", path.parent)
    assert run("runs", "list", "--root", path.parent / "nowhere").exit_code == 0


def test_a_run_is_found_from_inside_and_through_its_parent(trained, tmp_path, monkeypatch):
    copied = Path(shutil.copytree(trained[0], tmp_path / "runs" / "tiny"))
    monkeypatch.chdir(copied)
    shown = as_json("runs", "show", ".")
    assert (shown["name"], shown["path"]) == ("tiny", str(copied))
    assert as_json("runs", "show", "checkpoints/..")["name"] == "tiny"
    longer = as_json("train", "--resume", ".", "--steps", 8)
    assert (longer["run"], longer["step"]) == (str(copied), 8)
    assert json.loads((copied / "run.json").read_text())["name"] == "tiny"
    args = ["--solver", "ddim", "--steps", 2, "--count", 1, "--out", tmp_path / "out"]
    as_json("sample", ".", *args)
    about = json.loads((tmp_path / "out" / "summary.json").read_text())["about"]
    assert about.startswith("tiny, 8 steps")


def test_a_directory_that_is_no_run_is_refused_and_hides_none(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    refused = run("runs", "show", "tiny")
    assert refused.exit_code == 2
    assert "tiny is no run" in refused.stderr
    assert refused.stderr.count("\n") == 1
    root = trained[0].parent
    assert as_json("runs", "show", "tiny", "--root", root)["path"] == str(trained[0])
    assert run("runs", "show", root).exit_code == 2


def test_solvers_lists_every_sampler():
    from sdeflow.samplers import samplers

    listed = as_json("solvers")["solvers"]
    assert [s["name"] for s in listed] == [s.name for s in samplers()]
    assert {"name", "kind", "order", "adaptive", "source"} <= listed[0].keys()
    text = run("solvers").stdout
    assert all(re.search(rf"^ *{re.escape(s['name'])} ", text, re.M) for s in listed)
    kinds = {s["kind"] for s in as_json("solvers", "--kind", "ode")["solvers"]}
    assert kinds == {"ode"}


def test_sample_has_the_librarys_defaults():
    library = inspect.signature(sampling.sample).parameters
    options = sample_command.make_context("sample", []).params
    for name in library.keys() & options.keys() - {"count"}:
        assert options[name] == library[name].default, name


def test_steps_compares_settings(tmp_path):
    args = ["--oracle", "gaussian", "--count", 6, "--tolerance", "1e-3", "--tolerance", "1e-5"]
    args += ["--chart", "x/time", "--chart", "own"]
    printed = as_json("steps", *args, "--out", tmp_path)
    assert [r["field"] for r in printed["causes"]] == ["model", "constant noise"] * 4
    rows = printed["table"]
    assert [(r["chart"], r["tolerance"]) for r in rows] == [
        ("x/time", 1e-3), ("x/time", 1e-5), (rows[2]["chart"], 1e-3), (rows[2]["chart"], 1e-5),
    ]  # fmt: skip
    for loose, tight in (rows[:2], rows[2:]):
        assert loose["error"] < 1e-2
        assert tight["error"] < loose["error"]
        assert tight["evaluations_mean"] > loose["evaluations_mean"]
    with (tmp_path / "steps.csv").open() as file:
        log = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        mine = [entry for entry in log if int(entry["setting"]) == number]
        assert len(mine) == row["accepted"] + row["rejected"]
    names = {"steps.png", "variable.png", "steps.csv", "table.csv", "summary.json", "config.yaml"}
    names |= {"causes.png", "causes.csv", "SHA256SUMS"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["oracle"] == "gaussian"


@pytest.mark.parametrize(
    ("solver", "charts"),
    [
        ("dopri5", ["x/time", "x/alpha/noise-ratio", "x/std/log-snr"]),
        ("adams", ["x/alpha/noise-ratio", "x/std/mixed"]),
        ("torchdiffeq/dopri5", ["x/time", "x/log-snr"]),
        ("ancestral", ["x/time"]),
    ],
)
def test_steps_runs_a_solver_in_the_charts_it_can(tmp_path, solver, charts):
    out = run(
        "steps", "--oracle", "mixture", "--solver", solver, "--tolerance", "0.1", "--count", "2",
        "--no-causes", "--json", "--out", str(tmp_path / "steps"),
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    assert [row["chart"] for row in json.loads(out.stdout)["table"]] == charts


def test_steps_told_the_jumps_never_crosses_one(tmp_path):
    args = ["--oracle", "mixture", "--etsdm", "--shared", "plug-in", "--breaks", "both"]
    args += ["--chart", "x/log-snr", "--count", 8, "--reference-tolerance", "1e-4"]
    told, untold = as_json("steps", *args, "--no-causes", "--out", tmp_path)["table"]
    assert (told["told_breaks"], untold["told_breaks"]) == (True, False)
    assert told["rejected"] <= untold["rejected"]
    with (tmp_path / "steps.csv").open() as file:
        log = [row for row in csv.DictReader(file) if row["setting"] == "0"]
    for edge in (0.02, 0.04, 0.06, 0.08, 0.1):
        # Times on an edge carry the rounding of the clock and back: an ulp or so of the edge.
        assert not any(
            float(row["time_end"]) < edge * (1 - 1e-12) and float(row["time"]) > edge * (1 + 1e-12)
            for row in log
        )


def test_steps_on_a_run(trained):
    path, _ = trained
    args = ["--tolerance", 0.05, "--count", 2, "--t-min", 0.05, "--reference-tolerance", "1e-3"]
    printed = as_json("steps", path, *args, "--chart", "own")
    assert printed["out"] == str(path / "steps")
    assert printed["edges"] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert printed["table"][0]["failed"] == 0
    assert [row["field"] for row in printed["causes"]] == ["model", "exact", "constant noise"]
    assert "held-out samples" in printed["exact"]


def test_public_names_exist():
    for name in sdeflow.__all__:
        assert getattr(sdeflow, name) is not None


@pytest.mark.parametrize(
    "solver", ["torchdiffeq/dopri5", "torchdiffeq/rk4", "torchsde/srk", "ancestral", "dpmpp-2m"]
)
def test_each_kind_of_solver_samples(solver, trained, tmp_path):
    args = ["--solver", solver, "--count", 2, "--t-min", 0.05, "--out", tmp_path]
    printed = as_json("sample", trained[0], *args)
    assert printed["status"]["ok"] == 2
    assert (tmp_path / "steps.png").is_file()


def test_backends_refuse_what_they_cannot_do(trained):
    result = run("sample", trained[0], "--solver", "torchdiffeq/dopri5", "--controller", "i")
    assert result.exit_code == 2
    assert "torchdiffeq controls the steps" in result.stderr
    result = run("sample", trained[0], "--solver", "torchdiffeq/dopri5", "--chart", "x/std/time")
    assert result.exit_code == 2
    assert "takes scale x only" in result.stderr
