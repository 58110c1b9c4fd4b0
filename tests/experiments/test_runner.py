"""Workers: nothing twice, nothing lost; killed at any moment; what a dry run prints."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from reliability.faults import Fault, forked, injected

from experiments.runner import worker
from experiments.runner.cli import main
from experiments.runner.collect import collect
from experiments.runner.estimate import Costs
from experiments.runner.jobs import Job, make_jobs, read_result, write_result
from experiments.runner.kept import load_results
from experiments.runner.spec import ROOT, Subject, load_experiment
from experiments.runner.work import do
from sdeflow.config import TrainConfig
from sdeflow.locks import locked

PLANE = TrainConfig(
    data="mixture", size="tiny", steps=40, batch_size=256, lr=1e-3, flips=False,
    precision="fp32", seed=10, checkpoint_every=20,
)  # fmt: skip


def plane_job(runs: Path) -> Job:
    subject = Subject("plane", "baseline", 10, PLANE)
    return Job(subject.key, subject, None, runs / "train" / subject.key, None, ("test",), 1)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Jobs that take a moment and do nothing; how often each was done."""
    done: Counter[str] = Counter()

    def pretend(job: Job, runs: Path) -> dict[str, Any]:
        done[job.key] += 1
        time.sleep(0.01)
        result = {"key": job.key, "seconds": 0.01, "core_seconds": 0.01, "threads": 1}
        write_result(job.directory, result)
        return result

    monkeypatch.setattr(worker, "do", pretend)
    monkeypatch.setattr(worker, "WAIT", 0.01)
    return done


def test_two_workers_do_nothing_twice(tmp_path: Path, counted: Counter[str]) -> None:
    jobs = make_jobs([load_experiment("fast", "smoke"), load_experiment("quality", "smoke")], tmp_path)  # noqa: E501  # fmt: skip
    both = [
        threading.Thread(target=worker.work, args=(jobs, tmp_path, lambda text: None))
        for _ in range(2)
    ]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert all(job.done for job in jobs)
    assert set(counted.values()) == {1}
    assert sum(counted.values()) == len(jobs)


def test_what_failed_is_told_and_tried_again(
    tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs([load_experiment("fast", "smoke", seeds=1)], tmp_path)
    pretend = worker.do

    def fails(job: Job, runs: Path) -> dict[str, Any]:
        if job.evaluation is None and job.subject.arm == "etsdm":
            raise FloatingPointError("nothing finite")
        return pretend(job, runs)

    monkeypatch.setattr(worker, "do", fails)
    failed = worker.work(jobs, tmp_path, lambda text: None)
    assert len(failed) == 1
    assert "FloatingPointError: nothing finite" in failed[0]
    left = [job for job in jobs if not job.done]
    assert {job.subject.arm for job in left} == {"etsdm"}  # what needs it waits, the rest is done
    monkeypatch.setattr(worker, "do", pretend)
    assert worker.work(jobs, tmp_path, lambda text: None) == []
    assert all(job.done for job in jobs)
    assert not list(tmp_path.rglob("failed.json"))


def test_a_lock_is_held_once_and_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from sdeflow.locks import locked\n"
        f"with locked(Path({str(path)!r})) as free: print(free, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT.parent, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with locked(path) as free:
        assert not free
    holder.kill()
    holder.wait()
    with locked(path) as free:
        assert free
    assert str(os.getpid()) in path.read_text()


def test_a_training_killed_on_the_way_is_gone_on_with(tmp_path: Path) -> None:
    job = plane_job(tmp_path)
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/experiments']\n"
        "from pathlib import Path; from sdeflow.locks import locked\n"
        "from experiments.runner.work import do; from test_runner import plane_job\n"
        f"job = plane_job(Path({str(tmp_path)!r}))\n"
        "with locked(job.directory / 'lock'): do(job, job.directory)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT.parent, env=environment)
    while victim.poll() is None and not (job.directory / "run/checkpoints/best.json").exists():
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not job.done
    found = read_result(job.directory)
    assert found is None
    before = json.loads((job.directory / "run/checkpoints/latest.json").read_text())["step"]
    assert 0 < before < 40
    with locked(job.directory / "lock") as free:
        assert free
        do(job, tmp_path)
    result = read_result(job.directory)
    assert result is not None
    assert result["values"]["steps"] == 40
    assert [path.name for path in job.directory.iterdir() if path.is_dir()] == ["run"]


def test_dry_runs_print_the_grid_and_run_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    result = CliRunner().invoke(
        main, ["uniqueness", "--scale", "smoke", "--dry-run", "--runs", str(runs)]
    )
    assert result.exit_code == 0, result.output
    assert "smoke-plane  exact-smooth" in result.output
    assert "1 trainings" in result.output
    assert "3 jobs, each once; about" in result.output
    assert not runs.exists()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["fats", "--runs", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "experiment 'fats' is unknown" in result.output


def test_only_some_problems(tmp_path: Path) -> None:
    arguments = ["uniqueness", "--scale", "laptop", "--dry-run", "--runs", str(tmp_path)]
    result = CliRunner().invoke(main, [*arguments, "--problem", "plane"])
    assert result.exit_code == 0, result.output
    assert "9 jobs, each once" in result.output  # three exact models, three seeds
    result = CliRunner().invoke(main, [*arguments, "--problem", "plan"])
    assert result.exit_code == 2
    assert (
        result.output == "Error: --problem is plan: uniqueness at scale laptop has plane, digits\n"
    )


def test_results_appear_whole(tmp_path: Path) -> None:
    write_result(tmp_path / "job", {"a": 1})
    assert read_result(tmp_path / "job") == {"a": 1}
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["result.json"]
    for at in range(3):  # a full disk: at the directory, the file beside it, the renaming
        with pytest.raises(OSError), injected(Fault(tmp_path, at)):
            write_result(tmp_path / "job", {"a": 2})
        assert read_result(tmp_path / "job") == {"a": 1}
        assert [path.name for path in (tmp_path / "job").iterdir()] == ["result.json"]
    kinds = [forked_result(tmp_path / "job", at) for at in range(4)]
    assert kinds == [-signal.SIGKILL] * 3 + [0]
    assert read_result(tmp_path / "job") == {"a": 3}


def forked_result(place: Path, at: int) -> int:
    """A worker killed at a change of the disk; what it had found before is still there."""

    def work() -> None:
        with injected(Fault(place, at, "killed")):
            write_result(place, {"a": 3})

    code = forked(work)
    assert code == 0 or read_result(place) == {"a": 1}
    return code


def test_priorities_come_first(tmp_path: Path) -> None:
    experiment = load_experiment("fast", "laptop")
    jobs = make_jobs([experiment], tmp_path)
    priorities = [job.priority for job in jobs]
    assert priorities == sorted(priorities)
    late = [dataclasses.replace(s, priority=0) for s in experiment.subjects if s.problem == "digits"]  # noqa: E501  # fmt: skip
    jobs = make_jobs([experiment, dataclasses.replace(experiment, subjects=late)], tmp_path)
    assert jobs[0].subject.problem == "digits"


def test_what_is_kept_is_not_done_again(tmp_path: Path) -> None:
    experiment = load_experiment("fast", "smoke")
    runs, results = tmp_path / "runs", tmp_path / "results"
    results.mkdir()
    jobs = make_jobs([experiment], runs)
    baseline = [job for job in jobs if job.subject.arm == "baseline"]
    shared = [job for job in jobs if job.subject.arm == "etsdm"]

    def keep(kept: list[Job]) -> dict[str, Job]:
        text = json.dumps([{"key": job.key, "seconds": 1.0} for job in kept])
        (results / "fast.json").write_text(text, encoding="utf-8")
        return {job.key: job for job in make_jobs([experiment], runs, results)}

    # All of one arm, and of the other the training and one of three evaluations.
    found = keep([*baseline, *shared[:2]])
    assert all(found[job.key].done for job in baseline)
    assert not found[shared[0].key].done  # its weights are still to be measured
    assert found[shared[1].key].done
    assert not found[shared[2].key].done
    assert keep([*baseline, *shared])[shared[0].key].done
    # Another experiment that asks for the same has no results of its own yet.
    other = dataclasses.replace(experiment, name="quality")
    assert not any(job.done for job in make_jobs([experiment, other], runs, results))


def test_a_kept_record_without_its_seconds_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "fast.json").write_text('[{"key": "a"}]', encoding="utf-8")
    arguments = ["fast", "--dry-run", "--scale", "smoke", "--results", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "a record has no 'seconds': delete it and collect anew" in result.output
    assert "Traceback" not in result.output


def test_what_is_kept_says_how_long_the_rest_will_take(tmp_path: Path) -> None:
    """A new machine has no runs, but another seed of everything is kept: an hour each."""
    experiment = load_experiment("fast", "smoke", 2)
    results = tmp_path / "results"
    results.mkdir()
    jobs = make_jobs([experiment], tmp_path / "runs")
    first = jobs[0].subject.seed
    kept = [{"key": job.key, "seconds": 3600.0} for job in jobs if job.subject.seed == first]
    (results / "fast.json").write_text(json.dumps(kept), encoding="utf-8")
    jobs = make_jobs([experiment], tmp_path / "runs", results)
    left = len(jobs) - len(kept)
    assert 0 < left < len(jobs)
    assert Costs(tmp_path / "runs").left(jobs) == f"about {left}.0 h"


def test_a_run_of_fewer_seeds_takes_no_results_away(tmp_path: Path) -> None:
    """Nor does a report lose what was run with more seeds than the file asks for."""
    every, fewer = (load_experiment("convergence", "laptop", n) for n in (None, 1))
    more = load_experiment("convergence", "laptop", 4)
    for job in make_jobs([more], tmp_path / "runs"):
        write_result(job.directory, {"kind": "x", "core_seconds": 1.0, "values": {"m": 1.0}})
    results = tmp_path / "results"
    for experiment, seeds in (
        (fewer, [10]),
        (more, [10, 11, 12, 13]),
        (fewer, None),
        (every, None),
    ):
        collect([experiment], tmp_path / "runs", results)
        found = {record["seed"] for record in load_results(results / "convergence.json")}
        assert sorted(found) == (seeds or [10, 11, 12, 13])


def test_all_that_is_measured_on_a_training_follows_it(tmp_path: Path) -> None:
    experiments = [load_experiment(name, "laptop") for name in ("smooth_time", "quality")]
    keys = [job.subject.key for job in make_jobs(experiments, tmp_path)]
    changes = sum(before != after for before, after in itertools.pairwise(keys))
    assert changes + 1 == len(set(keys))
