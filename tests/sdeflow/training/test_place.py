"""One training to a directory: locks, and what two that begin at the same moment do."""

import errno
import fcntl
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from reliability.workers import assert_same_weights, tiny

from sdeflow.locks import holder, locked
from sdeflow.training import train
from sdeflow.training.place import claim, find_place


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))


def test_a_run_under_way_is_left_alone(tmp_path: Path) -> None:
    train(tiny(tmp_path))
    run = tmp_path / "run"
    whole = shutil.copytree(run, tmp_path / "whole")
    more = tiny(tmp_path, steps=16, resume="auto", lr_schedule="constant")
    with locked(run / "lock") as free:
        assert free
        with pytest.raises(ValueError, match=rf"being trained already.* {os.getpid()} since") as e:
            train(more)
        assert "another --name" in str(e.value)
        assert "\n" not in str(e.value)
    for path in whole.rglob("*"):
        if path.is_file() and path.name != "lock":
            assert (run / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert_same_weights(run, whole)
    assert train(more).step == 16  # and the lock is free again
    assert train(more.replace({"steps": 20})).step == 20  # after each training, too


def test_a_lock_is_held_as_long_as_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(*_: Any) -> Any:
        with locked(tmp_path / "run" / "lock") as free:
            seen.append(free)
        return iter(())

    monkeypatch.setattr("sdeflow.training.recorder.Preview.draw", look)
    train(tiny(tmp_path))
    assert seen == [False] * 3


def test_two_new_runs_planned_at_the_same_moment_are_two(tmp_path: Path) -> None:
    config = tiny(tmp_path, name=None)
    places = [find_place(config)[0] for _ in range(3)]
    assert len(set(places)) == 1
    with ExitStack() as held:
        claimed = [claim(place, config, held) for place in places]
    assert [path.name for path in claimed] == ["mixture-vp", "mixture-vp-2", "mixture-vp-3"]
    named = config.replace({"name": "run"})
    places = [find_place(named)[0] for _ in range(2)]
    with ExitStack() as held:
        claim(places[0], named, held)
        with pytest.raises(ValueError, match=r"--name is run: .* exists"):
            claim(places[1], named, held)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("gold")
    (tmp_path / "lock").symlink_to(precious)
    with pytest.raises(OSError), locked(tmp_path / "lock"):
        pass
    assert precious.read_text() == "gold"


def test_a_file_system_without_locks_can_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert train(tiny(tmp_path)).step == 12
    with pytest.raises(OSError), locked(tmp_path / "lock"):
        pass
    assert holder(tmp_path / "nothing") == "unknown"
