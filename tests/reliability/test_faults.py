"""Whatever the disk does, a run goes on from a good checkpoint and ends in the same weights."""

import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability.faults import SIGNALS, Fault, Killed, forked, injected, quota
from reliability.workers import assert_same_weights, state_of, tiny

from sdeflow import files
from sdeflow.config import TrainConfig
from sdeflow.files import SUMS, together, verify_sums, write_json
from sdeflow.training import train


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that nothing happened to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
        yield train(short(tmp_path_factory.mktemp("whole"))).path


def short(out: Path) -> TrainConfig:
    return tiny(out, steps=6, checkpoint_every=2)


def resumed(out: Path, whole: Path) -> list[str]:
    """Go on with what is left of a run; it must end as the whole one. Returns what was said."""
    said: list[str] = []
    train(short(out).replace({"resume": "auto"}), say=said.append)
    assert_same_weights(out / "run", whole)
    hidden = [path for path in out.rglob(".*") if path.is_dir()]
    assert not hidden, "what a fault left half done is removed by the next checkpoint"
    return said


def interrupt(out: Path, whole: Path, fault: Fault) -> int:
    """A run with a fault, then its resumption; returns how many changes were made or tried."""
    shutil.rmtree(out, ignore_errors=True)
    said = ""
    try:
        with injected(fault):
            train(short(out))
    except Killed:
        said = "killed"
    except OSError as error:
        said = str(error)
    assert "\n" not in said
    assert "at step" not in said or "good checkpoint" in said
    assert (said == "killed") == (fault.kind == "dead" and fault.at is not None)
    resumed(out, whole)
    return fault.changes


def all_changes(out: Path, whole: Path) -> int:
    return interrupt(out, whole, Fault(out))


@pytest.mark.parametrize("kind", ["full", "dead"])
def test_some_changes_of_the_disk_may_fail(tmp_path: Path, whole: Path, kind: str) -> None:
    out = tmp_path / "runs"
    count = all_changes(out, whole)
    assert count > 40  # a run changes the disk often: the faults have something to hit
    for at in random.Random(kind).sample(range(count), 2):
        interrupt(out, whole, Fault(out, at, kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "dead"])
def test_every_change_of_the_disk_may_fail(
    tmp_path: Path, whole: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    count = all_changes(out, whole)
    for at in range(count):
        interrupt(out, whole, Fault(out, at, kind))
    with capsys.disabled():
        print(f"\n{count} faults injected ({kind})")


def ended(out: Path, whole: Path, at: int, kind: str) -> int:
    """A process of its own that is told to end as it changes the disk; then its resumption."""
    shutil.rmtree(out, ignore_errors=True)

    def work() -> None:
        with injected(Fault(out, at, kind)):
            train(short(out))

    code = forked(work)
    known = {0, 128 + signal.SIGINT, *(-number for number in SIGNALS[kind])}
    assert code in known
    assert code == -signal.SIGKILL or kind != "killed"
    resumed(out, whole)
    return code


def test_a_process_may_be_ended_while_it_writes(tmp_path: Path, whole: Path) -> None:
    ended(tmp_path / "runs", whole, 20, "killed")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SIGNALS)
def test_a_process_may_be_ended_at_every_change_of_the_disk(
    tmp_path: Path, whole: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    codes = Counter(ended(out, whole, at, kind) for at in range(all_changes(out, whole)))
    with capsys.disabled():
        print(f"\n{sum(codes.values())} places, {kind}: exit codes {dict(codes)}")


def sizes(run: Path) -> list[int]:
    return sorted({path.stat().st_size for path in run.rglob("*") if path.is_file()})


def cut_everywhere(out: Path, whole: Path, limits: list[int]) -> int:
    """Runs whose writes are cut at a number of bytes; each then goes on, and ends the same."""
    said = []
    for limit in limits:
        shutil.rmtree(out, ignore_errors=True)
        try:
            with quota(limit):
                train(short(out))
        except OSError as error:
            said.append(str(error))
        resumed(out, whole)
    assert not any("\n" in line for line in said)
    return len(said)


def test_a_write_may_be_cut_anywhere(tmp_path: Path, whole: Path) -> None:
    """A quota of the kernel on the size of files: each write is cut at a byte of its own."""
    largest = max(sizes(whole))
    limits = [0, random.Random(0).randrange(1, largest)]
    assert cut_everywhere(tmp_path / "runs", whole, limits) == len(limits)


@pytest.mark.slow
def test_a_write_may_be_cut_at_many_bytes(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = {size + d for size in sizes(whole) for d in (-1, 0, 1)}
    limits = sorted({*near, *random.Random(1).sample(range(max(sizes(whole))), 60)})
    failed = cut_everywhere(tmp_path / "runs", whole, limits)
    with capsys.disabled():
        print(f"\n{len(limits)} quotas, {failed} runs cut")


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path, whole: Path) -> None:
    """A real file system of 1 MiB that fills up; more room, and the run goes on."""
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=400k tmpfs {place} 2>/dev/null"):
        pytest.skip("no right to mount a file system here")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            train(short(place))
        assert not os.system(f"mount -o remount,size=64m {place}")
        resumed(place, whole)
    finally:
        os.system(f"umount {place}")


DAMAGE = ["deleted", "cut", "flipped", "emptied"]


def harm(path: Path, how: str, random_: random.Random) -> None:
    if how == "deleted":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    place = random_.randrange(len(content))
    if how == "flipped":
        content[place] ^= 1 << random_.randrange(8)
    path.write_bytes(content if how == "flipped" else content[: place if how == "cut" else 0])


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["model", "ema", "optimizer", "state"])
def test_a_damaged_checkpoint_is_passed_over_and_said(
    tmp_path: Path, whole: Path, name: str, how: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    suffix = "json" if name == "state" else "safetensors"
    path = tmp_path / "run" / "checkpoints" / "step-00000006" / f"{name}.{suffix}"
    harm(path, how, random.Random(f"{name}{how}"))
    said = resumed(tmp_path, whole)
    assert "using step 4 instead" in said[0]
    assert state_of(tmp_path / "run")[0] == 6


def test_damaged_records_cost_no_weights(tmp_path: Path, whole: Path) -> None:
    """Everything but the checkpoints may be lost or wrong: a run goes on all the same."""
    random_ = random.Random(0)
    for how in DAMAGE:
        out = tmp_path / how
        shutil.copytree(whole, out / "run")
        shutil.rmtree(out / "run" / "checkpoints" / "step-00000006")
        for name in ("run.json", "metrics.jsonl", "config.yaml", "checkpoints/latest.json",
                     "checkpoints/best.json"):  # fmt: skip
            harm(out / "run" / name, how, random_)
        resumed(out, whole)
        steps = [json.loads(line)["step"] for line in (out / "run/metrics.jsonl").open()]
        assert steps == sorted(steps)


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    place = tmp_path / "results"

    def write(directory: Path, content: str) -> None:
        with together(directory) as inside:
            for name in ("a.txt", "b.txt"):
                (inside / name).write_text(content)

    at = 0
    while True:  # every change of the disk, until none fails
        shutil.rmtree(place, ignore_errors=True)
        try:
            with injected(Fault(tmp_path, at, "full")):
                write(place, "new")
            break
        except OSError:
            assert not place.exists()
            assert not list(tmp_path.iterdir())
        at += 1
    assert at > 4
    assert sorted(path.name for path in place.iterdir()) == [SUMS, "a.txt", "b.txt"]
    assert verify_sums(place) == []
    write(place, "newer")  # into a directory that exists
    assert verify_sums(place) == []
    (place / "a.txt").write_text("damaged")
    (place / "b.txt").unlink()
    assert verify_sums(place) == ["a.txt", "b.txt"]
    with pytest.raises(FileNotFoundError), together(tmp_path / "other") as inside:
        (inside / "nowhere" / "a.txt").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_replaced_file_is_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    for at in range(2):
        with pytest.raises(OSError), injected(Fault(tmp_path, at)):
            write_json(path, {"n": 2})
        assert json.loads(path.read_text()) == {"n": 1}
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError), quota(3):
        write_json(path, {"n": 2})
    assert json.loads(path.read_text()) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]
    files.write_json(path, {"n": 2})
    assert json.loads(path.read_text()) == {"n": 2}
