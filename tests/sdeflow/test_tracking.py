"""wandb offline: what a run records can be read back; and it never asks, hangs or insists."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from offline import records

from sdeflow.config import TrainConfig
from sdeflow.tracking import logged_in, start_tracking, tracking_mode
from sdeflow.training import read_metrics, train


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def finished(path: Path) -> list[Any]:
    """The records of a run once its last one is there: wandb's own process writes them."""
    for _ in range(600):
        found = list(records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} was never finished")


def readback(directory: Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]], set[str]]:
    """Config, metrics by step, and run ids of every offline run under a run directory."""
    config: dict[str, Any] = {}
    history: dict[int, dict[str, Any]] = {}
    ids = set()
    for path in sorted(directory.glob("wandb/offline-run-*/run-*.wandb")):
        for record in finished(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                ids.add(record.run.run_id)
                config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            elif kind == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                history.setdefault(record.history.step.num, {}).update(items)
    return config, history, ids


def test_an_offline_run_is_read_back_and_resumed_under_its_id(tmp_path: Path) -> None:
    config = TrainConfig(
        data="mixture", size="tiny", steps=4, batch_size=16, checkpoint_every=2, lr=0.0012345,
        device="cpu", out=str(tmp_path), name="run",
    )  # fmt: skip
    said: list[str] = []
    run = train(config, say=said.append)
    assert any("wandb sync" in line for line in said)
    found, history, ids = readback(run.path)
    assert found["lr"] == 0.0012345
    assert found["data"] == "mixture"
    for line in read_metrics(run.path / "metrics.jsonl"):
        logged = history[line["step"]]
        if "loss" in line:
            assert logged["train/loss"] == pytest.approx(line["loss"])
        else:
            assert logged["heldout/loss"] == pytest.approx(line["heldout"])
            bins = [value for name, value in logged.items() if name.startswith("heldout/t ")]
            assert sorted(bins) == pytest.approx(sorted(line["heldout_bins"]))
    assert history[4]["samples/_type"] == "image-file"
    assert history[4]["step sizes/_type"] == "image-file"
    assert list(run.path.glob("wandb/offline-run-*/files/media/images/samples*.png"))

    assert list(run.path.glob("wandb/offline-run-*/artifacts/staging/*"))

    train(config.replace({"steps": 6, "resume": "auto"}))
    _, history, again = readback(run.path)
    assert again == ids
    assert len(ids) == 1
    assert "train/loss" in history[6]


def test_disabled_does_not_import_wandb(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sdeflow.tracking import start_tracking\n"
        f"start_tracking('disabled', Path({str(tmp_path)!r}), 'x', {{}})\n"
        "assert 'wandb' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert not list(tmp_path.glob("wandb"))


def test_auto_is_online_only_when_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not logged_in()
    assert tracking_mode("auto") == "offline"
    (tmp_path / "netrc").write_text("machine example.org login a password b\n")
    assert tracking_mode("auto") == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    assert tracking_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org")
    assert tracking_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert tracking_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking_mode("auto") == "offline"
    assert tracking_mode("online") == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert tracking_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert tracking_mode("auto") == "disabled"


def test_a_broken_wandb_is_said_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def broken(**_: object) -> None:
        raise wandb.errors.CommError("no\nroute")

    monkeypatch.setattr(wandb, "init", broken)
    monkeypatch.setattr(wandb, "teardown", lambda: None)
    said: list[str] = []
    tracker = start_tracking("online", tmp_path, "x", {}, say=said.append)
    assert said == ["wandb online failed: no route", "wandb offline failed: no route"]
    tracker.log({"a": 1}, 1)
    tracker.finish()
    assert tracker.id is None
    assert tracker.mode == "disabled"
