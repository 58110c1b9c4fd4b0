"""What commands write appears as a whole or not at all, whatever the disk does."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from reliability.faults import Fault, Killed, injected
from reliability.workers import tiny

from sdeflow.cli import cli
from sdeflow.files import SUMS, verify_sums
from sdeflow.training import train

FEW = ["--count", "4", "--device", "cpu"]
STEPS = ["--solver", "ddim", "--steps", "2"]
COMMANDS = {
    "sample": [*FEW, *STEPS],
    "evaluate": [*STEPS, "--count", "8", "--neighbours", "2", "--resamples", "2"],
    "likelihood": [*FEW, "--rtol", "0.1", "--atol", "0.1"],
    "steps": ["--oracle", "mixture", "--count", "4", "--tolerance", "0.1"],
    "lipschitz": [*FEW, "--points", "3"],
    "sensitivity": [*FEW, "--t", "0.1", "--no-samples"],
    "budget": ["--oracle", "mixture", "--count", "4", "--steps", "2"],
    "partition": ["--oracle", "mixture", "--intervals", "2", "--count", "16"],
}

TIGHT = ("steps", "budget")  # these compare with flows at a tight tolerance, which takes a while


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
        return train(tiny(tmp_path_factory.mktemp("runs"), steps=2)).path


def line(name: str, trained: Path, out: Path) -> list[str]:
    run = [] if "--oracle" in COMMANDS[name] else [str(trained)]
    return [name, *run, *COMMANDS[name], "--out", str(out)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in TIGHT)) for name in COMMANDS],
)
def test_results_have_checksums_and_a_full_disk_leaves_nothing(
    name: str, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with injected(Fault(tmp_path)) as counted:
        result = CliRunner().invoke(cli, line(name, trained, out))
    assert result.exit_code == 0, result.output
    assert verify_sums(out) == []
    listed = {text.split("  ")[1] for text in (out / SUMS).read_text().splitlines()}
    assert listed == {path.name for path in out.iterdir()} - {SUMS}
    shutil.rmtree(out)
    with injected(Fault(tmp_path, counted.changes // 2, "full")):
        result = CliRunner().invoke(cli, line(name, trained, out))
    assert result.exit_code == 2, result.output
    assert "No space left on device" in result.stderr
    assert str(tmp_path) in result.stderr
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "dead"])
def test_every_change_of_the_disk_by_a_command_may_fail(
    trained: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples: nothing under the final name, or all of it; what was there before stays."""
    out, at, failed = tmp_path / "here" / "out", 0, True
    while failed:
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        with injected(Fault(tmp_path / "here", at, kind)):
            try:
                failed = CliRunner().invoke(cli, line("sample", trained, out)).exit_code != 0
            except Killed:
                failed = True
        assert not out.exists() or verify_sums(out) == []
        assert out.exists() or failed
        at += 1
    with capsys.disabled():
        print(f"\n{at - 1} places of a command ({kind})")
