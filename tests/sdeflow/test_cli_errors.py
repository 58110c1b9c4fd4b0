"""Bad input at the command line: one line on stderr, exit code 2, and nothing written."""

import gzip
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sdeflow.cli import cli
from sdeflow.locks import locked

QUICK = ["--size", "tiny", "--steps", "2", "--batch-size", "8", "--wandb", "disabled"]


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="sdeflow")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run of two steps."""
    out = tmp_path_factory.mktemp("trained")
    result = run("train", "--etsdm", *QUICK, "--out", out, "--name", "tiny")
    assert result.exit_code == 0, result.stderr
    return out / "tiny"


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of that run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "tiny"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)


def refused(*args, says, below):
    """Run a command that must be refused, and leave everything under `below` as it was."""
    before = {path: path.stat().st_mtime_ns for path in below.rglob("*")}
    result = run(*args)
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("sdeflow: error: ")
    assert says in result.stderr
    assert {path: path.stat().st_mtime_ns for path in below.rglob("*")} == before
    return result.stderr


def test_compiling_is_refused_with_the_reason(tmp_path):
    refused("sample", "--compile", says="1.12 times as fast", below=tmp_path)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--data", "digit"], "did you mean digits"),
        (["--data", "fashion_mnst"], "did you mean fashion-mnist"),
        (["--sde", "vpp"], "--sde"),
        (["--etsdm", "--etsdm-threshold", "0"], "(0, 1)"),
        (["--etsdm", "--etsdm-threshold", "1"], "(0, 1)"),
        (["--etsdm", "--etsdm-threshold", "-0.1"], "(0, 1)"),
        (["--etsdm", "--etsdm-threshold", "nan"], "threshold"),
        (["--etsdm", "--etsdm-intervals", "0"], "intervals"),
        (["--etsdm", "--etsdm-edges", "no-such-file"], "no-such-file"),
        (["--etsdm", "--condition", "log-snr"], "infinite"),
        (["--etsdm", "--etsdm-threshold", "1e-6"], "larger --etsdm-threshold"),
        (["--etsdm", "--etsdm-edges", "0.02,0.01"], "t_1 < ... < t_n"),
        (["--t-min", "0"], "(0, 1)"),
        (["--t-min", "1"], "(0, 1)"),
        (["--t-min", "-1e-3"], "(0, 1)"),
        (["--steps", "0"], "--steps"),
        (["--batch-size", "-1"], "--batch-size"),
        (["--lr", "0"], "--lr"),
        (["--ema", "1"], "--ema"),
        (["--name", "../up"], "--name"),
        (["--device", "abacus"], "abacus"),
        (["--stpes", "5"], "--steps"),
        (["--resume", "no-such-run"], "no-such-run"),
    ],
    ids=" ".join,
)
def test_train_refuses(args, says, tmp_path):
    refused("train", *QUICK, *args, says=says, below=tmp_path)


def test_folder_of_mixed_sizes(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for side in (8, 9):
        Image.new("L", (side, side)).save(folder / f"{side}.png")
    refused("train", *QUICK, "--data", f"folder:{folder}", says="size", below=tmp_path)


def test_empty_and_missing_folders(tmp_path):
    folder = tmp_path / "images"
    refused("train", *QUICK, "--data", f"folder:{folder}", says=str(folder), below=tmp_path)
    folder.mkdir()
    refused("train", *QUICK, "--data", f"folder:{folder}", says=str(folder), below=tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_idx(compressed, tmp_path):
    whole = struct.pack(">HBBIII", 0, 8, 3, 20, 8, 8) + bytes(20 * 64)
    data = gzip.compress(whole) if compressed else whole
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if compressed else ""))
    path.write_bytes(data[: len(data) // 2])
    refused("train", *QUICK, "--data", f"idx:{path}", says=path.name, below=tmp_path)


def test_truncated_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((20, 1, 8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:-200])
    refused("train", *QUICK, "--data", f"npz:{path}", says="data.npz", below=tmp_path)


def test_config_with_an_unknown_key(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("t_min: 1e-4\nthreshold: 0.1\n")
    refused("train", "--config", path, says="'threshold'", below=tmp_path)
    refused("sample", "--config", path, says="'threshold'", below=tmp_path)
    path = tmp_path / "missing.yaml"
    refused("train", "--config", path, says="missing.yaml", below=tmp_path)


def test_resume_with_another_architecture(copied, tmp_path):
    args = ["train", "--etsdm", *QUICK, "--out", copied.parent, "--name", "tiny"]
    args += ["--resume", "auto", "--steps", "4"]
    refused(*args, "--predict", "velocity", says="predict", below=tmp_path)
    refused(*args, "--size", "small", says="size", below=tmp_path)


@pytest.mark.parametrize("command", [["sample"], ["runs", "show"], ["steps"]])
def test_no_run_at_all(command, tmp_path):
    refused(*command, says="sdeflow train", below=tmp_path)


@pytest.mark.parametrize("command", [["sample"], ["steps"]])
def test_run_without_a_checkpoint(command, copied, tmp_path):
    shutil.rmtree(copied / "checkpoints")
    refused(*command, copied, says="checkpoint", below=tmp_path)


@pytest.mark.parametrize("name", ["ema.safetensors", "state.json"])
@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_damaged_checkpoint(name, kept, copied, tmp_path):
    for path in copied.glob(f"checkpoints/step-*/{name}"):
        data = path.read_bytes()
        path.write_bytes(data[: int(kept * len(data))])
    refused("sample", copied, says="checkpoint", below=tmp_path)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--solver", "dopry5"], "did you mean dopri5"),
        (["--solver", "torchdiffeq/dopri"], "torchdiffeq/dopri5"),
        (["--rtol", "-1e-5"], "rtol"),
        (["--atol", "-1e-5"], "atol"),
        (["--rtol", "0", "--atol", "0"], "tol"),
        (["--rtol", "nan"], "rtol"),
        (["--t-min", "0"], "t_min"),
        (["--t-min", "1"], "t_min"),
        (["--t-min", "-1"], "t_min"),
        (["--t-max", "2"], "t_max"),
        (["--t-min", "0.5", "--t-max", "0.1"], "t_m"),
        (["--chart", "y/time"], "scale"),
        (["--chart", "x/tme"], "clock"),
        (["--controller", "fuzzy"], "controller"),
        (["--steps", "0"], "steps"),
        (["--solver", "euler", "--steps", "5", "--grid", "nonsense"], "grid"),
        (["--solver", "euler-maruyama", "--steps", "5", "--eta", "-1"], "eta"),
        (["--solver", "ddim", "--rtol", "1e-5"], "takes no others, so use steps"),
        (["--solver", "heun-edm", "--atol", "1e-5"], "takes no others, so use steps"),
        (["--solver", "tuned", "--controller", "pid"], "controller=pid"),
        (["--solver", "dopri5", "--steps", "5", "--rtol", "1e-5"], "leave out either"),
        (["--count", "0"], "count"),
        (["--batch-size", "0"], "batch"),
        (["--label", "3"], "label"),
        (["--guidance", "2"], "label"),
        (["--noise", "missing.npz"], "missing.npz"),
        (["--final", "sharpen"], "final"),
    ],
    ids=" ".join,
)
def test_sample_refuses(args, says, copied, tmp_path):
    refused("sample", copied, *args, says=says, below=tmp_path)


def test_noise_of_another_shape(copied, tmp_path):
    np.save(tmp_path / "noise.npy", np.zeros((4, 3, 8, 8)))
    refused("sample", copied, "--noise", tmp_path / "noise.npy", says="shape", below=tmp_path)
    args = ["--noise", tmp_path / "noise.npy", "--count", "2"]
    refused("sample", copied, *args, says="--noise has 4 rows", below=tmp_path)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--oracle", "gausian"], "gaussian"),
        (["--oracle", "mixture:widht=1"], "width"),
        (["--oracle", "gaussian", "--solver", "dopry5"], "did you mean dopri5"),
        (["--oracle", "gaussian", "--chart", "nowhere"], "chart"),
        (["--oracle", "gaussian", "--t-min", "0"], "t_min"),
        (["some-run", "--oracle", "gaussian"], "--oracle"),
    ],
    ids=" ".join,
)
def test_steps_refuses(args, says, tmp_path):
    refused("steps", *args, says=says, below=tmp_path)


def test_command_misspelt(tmp_path):
    refused("smaple", says="did you mean sample", below=tmp_path)


@pytest.mark.parametrize("command", [["sample"], ["lipschitz"], ["likelihood"]])
def test_results_do_not_go_into_a_run(command, copied, tmp_path):
    refused(*command, copied, "--out", copied, says="training run", below=tmp_path)


def test_comparison_does_not_go_into_its_runs(copied, tmp_path):
    other = shutil.copytree(copied, copied.parent / "other")
    args = [copied, other, "--points", "3", "--count", "2", "--device", "cpu"]
    refused("lipschitz", *args, "--out", copied.parent, says="training run", below=tmp_path)


def test_results_replace_results_only(copied, tmp_path):
    args = ["sample", copied, "--count", "2", "--solver", "ddim", "--steps", "2", "--out"]
    mine = tmp_path / "mine"
    mine.mkdir()
    assert run(*args, mine).exit_code == 0
    assert run(*args, mine).exit_code == 0
    (mine / "SHA256SUMS").unlink()
    refused(*args, mine, says="such as config.yaml", below=tmp_path)


def test_training_on_images_in_another_range_says_so(tmp_path):
    path = tmp_path / "grey.npz"
    np.savez(path, x=np.random.default_rng(0).uniform(size=(20, 1, 8, 8)).astype(np.float32))
    result = run("train", *QUICK, "--data", f"npz:{path}", "--dry-run")
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert "store 2 x - 1" in result.stderr


def test_edges_separated_by_commas_and_a_short_summary():
    short = run("train", *QUICK, "--etsdm", "--etsdm-edges", "0.01,0.02", "--dry-run")
    assert "[0.01, 0.02]" in short.stdout
    edges = ",".join(f"{k / 1e4:g}" for k in range(1, 1000))
    long = run("train", *QUICK, "--etsdm", "--etsdm-edges", edges, "--dry-run")
    assert long.exit_code == 0, long.stderr
    assert max(map(len, long.stdout.splitlines())) < 160


@pytest.mark.parametrize("command", ["sample", "steps", "budget", "likelihood"])
def test_one_run_at_a_time(command, tmp_path):
    refused(command, "a", "b", says="RUN is a and b: ", below=tmp_path)


@pytest.mark.parametrize("option", ["--model", "--oracle"])
def test_one_model_at_a_time(option, tmp_path):
    refused("lipschitz", option, "a:b", option, "c:d", says="takes one at a time", below=tmp_path)


def test_resume_by_name_and_a_killed_run(copied, tmp_path, monkeypatch):
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**record, "status": "running"}))
    (copied / "lock").touch()
    listed = run("runs", "show", copied, "--json")
    assert json.loads(listed.stdout)["status"] == "stopped"
    with locked(copied / "lock"):
        held = run("runs", "show", copied, "--json")
    assert json.loads(held.stdout)["status"] == "running"
    monkeypatch.chdir(tmp_path)
    result = run("train", "--resume", "tiny", "--steps", "3", "--wandb", "disabled", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 3
