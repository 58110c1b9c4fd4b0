"""Checkpoints: round trips, damage found and passed over, nothing half written is ever seen."""

import json
import os
from pathlib import Path

import pytest
import torch

from sdeflow.training import checkpoint
from sdeflow.training.checkpoint import (
    checkpoint_steps,
    latest_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    prune_checkpoints,
    restore_optimizer,
    save_checkpoint,
)

FILES = ("model", "ema")


def save(root: Path, step: int) -> Path:
    tensors = {name: {"w": torch.full((3,), float(step)), "b": torch.ones(2)} for name in FILES}
    return save_checkpoint(root, step, tensors, {"loss": 0.1 * step, "config": {"a": "b"}})


def latest_step(root: Path, warnings: list[str] | None = None) -> int | None:
    found = latest_checkpoint(root, FILES, None if warnings is None else warnings.append)
    if found is None:
        return None
    assert torch.equal(found[1]["ema"]["w"], torch.full((3,), float(found[0].step)))
    return found[0].step


def test_round_trip(tmp_path: Path) -> None:
    assert latest_step(tmp_path / "none") is None
    path = save(tmp_path, 20)
    save(tmp_path, 3)
    assert path.name == "step-00000020"
    assert checkpoint_steps(tmp_path) == [3, 20]
    assert latest_step(tmp_path) == 20
    loaded = load_checkpoint(path)
    assert loaded.state["loss"] == 2.0
    assert loaded.state["format"] == checkpoint.FORMAT
    save(tmp_path, 20)  # the same step again replaces it
    assert latest_step(tmp_path) == 20
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "state.json"])
def test_any_flipped_bit_or_cut_is_found_and_the_one_before_is_used(
    tmp_path: Path, name: str
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    good = path.read_bytes()
    for place in range(0, len(good), 5):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        for bad in (bytes(changed), good[:place]):
            path.write_bytes(bad)
            warnings: list[str] = []
            # A flipped bit that leaves the same JSON (white space) is no damage.
            assert latest_step(tmp_path, warnings) == (2 if _same_json(bad, good) else 1)
            if warnings:
                assert "using step 1" in warnings[0]
                assert "\n" not in warnings[0]
    path.unlink()
    assert latest_step(tmp_path) == 1


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_all_damaged_is_one_line(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "ema.safetensors").write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        latest_step(tmp_path)
    assert "ema.safetensors is damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_later_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    path = save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 99"):
        load_checkpoint(path)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    import hashlib
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    save(tmp_path, 1)
    content = pickle.dumps(Bomb())
    path = save(tmp_path, 2)
    (path / "ema.safetensors").write_bytes(content)
    state = json.loads((path / "state.json").read_text())
    state.pop("sha256")
    state["files"]["ema.safetensors"] = hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    (path / "state.json").write_text(json.dumps({**state, "sha256": digest}))
    assert latest_step(tmp_path) == 1
    assert not (tmp_path / "exploded").exists()


def test_a_write_that_fails_anywhere_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    real, left = os.fsync, [0]

    def failing(handle: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    failed = 0
    for at in range(1, 10):
        left[0] = at
        try:
            save(tmp_path, 2)
        except OSError:
            failed += 1
        # Whole or not there; the last flush comes after the rename, so then it is whole.
        assert latest_step(tmp_path) in (1, 2)
        assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]
        prune_checkpoints(tmp_path, [1])
    assert failed == 5  # two tensor files, the state, the new directory, its parent


def test_a_kill_at_any_call_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill is an exception that no clean-up survives: everything from some call on is undone."""

    class Killed(BaseException):
        pass

    save(tmp_path, 1)
    for at in range(1, 5):
        calls = [0]

        def dying(handle: int, calls: list[int] = calls, at: int = at) -> None:
            calls[0] += 1
            if calls[0] == at:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying)
            patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                save(tmp_path, 2)
        assert latest_step(tmp_path) == 1
        assert [item for item in tmp_path.iterdir() if item.name.startswith(".")]  # left behind
        prune_checkpoints(tmp_path, [1])
        assert [item.name for item in tmp_path.iterdir()] == ["step-00000001"]


def test_optimizer_state_round_trip() -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)

    def step(module: torch.nn.Linear, optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        module(torch.arange(3.0)).square().sum().backward()
        optimizer.step()

    module, optimizer = make()
    step(module, optimizer)
    other, fresh = make()
    other.load_state_dict(module.state_dict())
    restore_optimizer(fresh, optimizer_tensors(optimizer))
    for each in ((module, optimizer), (other, fresh)):
        step(*each)
    assert torch.equal(module.weight, other.weight)


@pytest.mark.parametrize(
    "change",
    [
        {"0.exp_avg": torch.zeros(9)},  # would be read beyond its end: the kernels do not look
        {"1.exp_avg_sq": torch.zeros(())},
        {"0.step": torch.zeros(2)},
        {"0.exp_avg": torch.zeros(2, 3, dtype=torch.int8)},
        {"0.more": torch.zeros(())},
        {"7.exp_avg": torch.zeros(1)},
        {"-1.exp_avg": torch.zeros(2, 3)},
        {"exp_avg": torch.zeros(2, 3)},
    ],
    ids=str,
)
def test_another_optimisers_state_is_refused(change: dict[str, torch.Tensor]) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    module(torch.arange(3.0)).square().sum().backward()
    optimizer.step()
    whole = optimizer_tensors(optimizer)
    restore_optimizer(optimizer, whole)
    with pytest.raises(ValueError, match="does not fit the network"):
        restore_optimizer(optimizer, {**whole, **change})
    del whole["0.step"]
    with pytest.raises(ValueError, match="that of parameter 0 differs"):
        restore_optimizer(optimizer, whole)
