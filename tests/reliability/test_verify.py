"""`sdeflow runs verify`: what is whole is said to be, what was changed is found."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from reliability.workers import tiny

from sdeflow.cli import cli
from sdeflow.run import load_run
from sdeflow.training import train
from sdeflow.verify import TOLERANCE, draw_probe, verify_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
        return train(tiny(tmp_path_factory.mktemp("runs"), etsdm=True)).path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def last(run: Path) -> Path:
    return run / "checkpoints" / "step-00000012"


def test_a_whole_run_is_identical(run: Path) -> None:
    report = verify_run(run)
    assert report.ok
    assert [found.step for found in report.checkpoints][-2:] == [8, 12]
    # The same machine, the same number of threads: the same bits.
    assert [found.probe for found in report.checkpoints] == [0.0] * len(report.checkpoints)
    result = CliRunner().invoke(cli, ["runs", "verify", str(run)])
    assert result.exit_code == 0, result.output
    assert "step 12: checksums hold, probe identical" in result.output


def test_the_probe_depends_on_nothing_but_the_weights(run: Path) -> None:
    loaded = load_run(run)
    torch.manual_seed(1)
    first = draw_probe(loaded.denoiser, loaded.data_shape)
    torch.manual_seed(2)
    second = draw_probe(loaded.denoiser, loaded.data_shape)
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


def test_a_flipped_bit_is_found(run: Path) -> None:
    path = last(run) / "probe.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    report = verify_run(run)
    assert [found.ok for found in report.checkpoints][-2:] == [True, False]
    assert "probe.safetensors is damaged" in report.checkpoints[-1].damage
    result = CliRunner().invoke(cli, ["runs", "verify", str(run), "--json"])
    assert result.exit_code != 0
    assert json.loads(result.stdout)["checkpoints"][-1]["ok"] is False


def test_other_weights_under_good_checksums_are_found(run: Path) -> None:
    """What checksums cannot show: weights exchanged together with their checksum."""
    path, state_file = last(run) / "ema.safetensors", last(run) / "state.json"
    tensors = safetensors.torch.load_file(path)
    path.write_bytes(safetensors.torch.save({k: v * 1.1 for k, v in tensors.items()}))
    state = json.loads(state_file.read_text())
    state.pop("sha256")
    state["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    state_file.write_text(json.dumps({**state, "sha256": digest}))
    found = verify_run(run).checkpoints[-1]
    assert not found.damage
    assert found.probe is not None
    assert found.probe > TOLERANCE
    assert not found.ok


def test_changed_results_are_found(run: Path) -> None:
    args = ["sample", str(run), "--count", "3", "--solver", "ddim", "--steps", "3"]
    out = run / "samples" / "mine"
    result = CliRunner().invoke(cli, [*args, "--device", "cpu", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert verify_run(run).outputs == {"samples/mine": []}
    (out / "steps.csv").write_text("")
    report = verify_run(run)
    assert report.outputs == {"samples/mine": ["steps.csv"]}
    assert not report.ok


def test_nothing_to_verify_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="nothing to verify"):
        verify_run(tmp_path / "empty")
