"""Time shared only while sampling, or only while training: a run told otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sdeflow.cli import cli
from sdeflow.conditioning import ETSDM, Time
from sdeflow.config import TrainConfig
from sdeflow.report import describe
from sdeflow.run import Run, load_run
from sdeflow.sampling import sample

QUICK = ["--size", "tiny", "--steps", "8", "--checkpoint-every", "8", "--batch-size", "32"]
QUICK += ["--data", "mixture", "--wandb", "disabled", "--device", "cpu", "--lr", "0.01"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Run]:
    """A run with E-TSDM, and one without."""
    out = tmp_path_factory.mktemp("runs")
    for name, flag in (("shared", "--etsdm"), ("plain", "--no-etsdm")):
        args = ["train", *QUICK, flag, "--out", str(out), "--name", name]
        assert CliRunner().invoke(cli, args).exit_code == 0
    return {True: load_run(out / "shared"), False: load_run(out / "plain")}


@pytest.mark.parametrize("trained", [True, False])
def test_a_run_told_otherwise(runs: dict[bool, Run], trained: bool) -> None:
    run = runs[trained]
    assert run.told({}) is run
    assert run.told({"etsdm": None, "etsdm_at": None}) is run
    other = run.told({"etsdm": not trained})
    assert isinstance(other.denoiser.conditioning, Time if trained else ETSDM)
    assert other.config.etsdm is not trained
    assert other.denoiser.network is run.denoiser.network
    x, t = torch.randn(4, 2), torch.tensor([0.01, 0.03, 0.3, 0.9], dtype=torch.float64)
    one, another = run.denoiser.noise(x, t), other.denoiser.noise(x, t)
    assert not torch.equal(one[:2], another[:2])
    # Above the threshold both are asked the same.
    assert torch.equal(one[2:], another[2:])


def test_the_sharing_can_be_another_one(runs: dict[bool, Run]) -> None:
    other = runs[True].told({"etsdm_intervals": 2, "etsdm_threshold": 0.4})
    assert other.denoiser.breaks == (0.2, 0.4)
    assert other.told({"etsdm": False}).denoiser.breaks == ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"etsdm_intervals": 3}, "--etsdm-intervals without E-TSDM does nothing: add --etsdm"),
        ({"etsdm": True, "etsdm_threshold": 2.0}, "--etsdm-threshold"),
        ({"condition": "none"}, "sharing option"),
    ],
)
def test_refusals(runs: dict[bool, Run], values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        runs[False].told(values)


def test_a_list_of_edges_sets_intervals_and_threshold(
    runs: dict[bool, Run], tmp_path: Path
) -> None:
    path = tmp_path / "edges.json"
    path.write_text("[0.01, 0.05,0.2]")
    uneven = runs[True].told({"etsdm_intervals": 3, "etsdm_threshold": 0.5})
    listed = uneven.told({"etsdm_edges": str(path)})
    path.unlink()
    assert listed.denoiser.breaks == (0.01, 0.05, 0.2)
    assert "shared in 3 intervals (E-TSDM, edges [0.01, 0.05, 0.2])" in describe(listed.config)
    with pytest.raises(ValueError, match="--etsdm-intervals 2 with a list of edges"):
        listed.told({"etsdm_intervals": 2})
    even = listed.told({"etsdm_intervals": 2, "etsdm_edges": "time"})
    assert even.denoiser.breaks == pytest.approx((0.05, 0.1))
    assert "shared in 2 intervals (E-TSDM, edges time)" in describe(even.config)


def test_captions_count_the_levels() -> None:
    config = TrainConfig(shared_noise=True, etsdm_edges="[0.01, 0.1]")
    assert "noise shared in 2 levels" in describe(config)


def test_the_commands_do_what_the_library_does(runs: dict[bool, Run], tmp_path: Path) -> None:
    run = runs[False]
    args = ["--solver", "ddim", "--steps", "12", "--count", "5", "--device", "cpu", "--json"]
    found = {}
    for flag in ("--etsdm", "--no-etsdm"):
        out = tmp_path / flag
        result = CliRunner().invoke(cli, ["sample", str(run.path), flag, *args, "--out", str(out)])
        assert result.exit_code == 0, result.stderr
        found[flag] = np.load(out / "samples.npz")["x"]
        assert ("E-TSDM" in json.loads((out / "summary.json").read_text())["about"]) == (
            flag == "--etsdm"
        )
    told = sample(run.told({"etsdm": True}).denoiser, (2,), solver="ddim", steps=12, count=5)
    assert np.array_equal(found["--etsdm"], told.x.numpy())
    assert not np.array_equal(found["--etsdm"], found["--no-etsdm"])
    again = ["sample", "--config", str(tmp_path / "--etsdm" / "config.yaml"), "--json"]
    result = CliRunner().invoke(cli, [*again, str(run.path), "--out", str(tmp_path / "again")])
    assert result.exit_code == 0, result.stderr
    assert np.array_equal(np.load(tmp_path / "again" / "samples.npz")["x"], found["--etsdm"])


def test_evaluate_takes_the_same_options(runs: dict[bool, Run], tmp_path: Path) -> None:
    args = ["--solver", "ddim", "--steps", "12", "--count", "20", "--resamples", "10", "--json"]
    fids = []
    for flag in ([], ["--etsdm"]):
        out = ["--out", str(tmp_path / f"out{len(flag)}")]
        result = CliRunner().invoke(cli, ["evaluate", str(runs[False].path), *args, *flag, *out])
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        assert ("E-TSDM" in found["runs"][0]["about"]) == bool(flag)
        fids.append(json.dumps(found["spaces"]))
    assert fids[0] != fids[1]
