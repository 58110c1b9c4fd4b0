"""Several processes do what one does, none waits for ever, and the main one alone writes."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from reliability.workers import CLI, TRAIN, finish, launch, state_of, tiny

from sdeflow.locks import locked
from sdeflow.oracle import make_oracle
from sdeflow.processes import Processes, sample_together
from sdeflow.run import load_run
from sdeflow.samples import Samples, join_samples
from sdeflow.sampling import sample
from sdeflow.sde import make_sde
from sdeflow.training import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
        return train(tiny(tmp_path_factory.mktemp("runs"), class_condition=True)).path


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_rows_are_a_partition(count: int) -> None:
    rows = [Processes(rank, count).rows(7) for rank in range(count)]
    assert [i for part in rows for i in range(7)[part]] == list(range(7))


@pytest.mark.parametrize("solver", ["dopri5", "ancestral", "stochastic-heun", "heun-edm-churn"])
def test_parts_of_a_run_are_the_run(solver: str) -> None:
    oracle = make_oracle("mixture", make_sde("vp"))
    times = torch.tensor([0.5, 0.1])

    def draw(rows: slice) -> Samples:
        return sample(
            oracle, solver=solver, count=rows.stop - rows.start, first=rows.start, seed=3,
            dtype=torch.float64, trajectory=times if solver == "dopri5" else None,
        )  # fmt: skip

    whole = draw(slice(0, 7))
    joined = join_samples([draw(Processes(rank, 3).rows(7)) for rank in range(3)])
    # Sums over the mixture may be in another order for another batch: a few roundings of 2e-16,
    # amplified by a factor that the flow keeps below 1e3.
    torch.testing.assert_close(joined.x, whole.x, rtol=0, atol=1e-10)
    assert np.array_equal(joined.log.evaluations, whole.log.evaluations)
    assert {name: len(column) for name, column in joined.log.extra.items()} == {
        name: len(whole.log) for name in whole.log.extra
    }
    if whole.trajectory is not None and joined.trajectory is not None:
        torch.testing.assert_close(joined.trajectory, whole.trajectory, rtol=0, atol=1e-10)


def test_no_samples_are_refused_in_each_process() -> None:
    for rank in (0, 1):
        with pytest.raises(ValueError, match="count=0"):
            sample_together(Processes(rank, 2), 0, lambda rows: pytest.fail("drawn"))


def test_ranks_share_sampling_and_one_writes(trained: Path, tmp_path: Path) -> None:
    """The ranks have 2 and 3 samples and need other numbers of evaluations; none waits."""
    args = ["sample", str(trained), "--count", "5", "--label", "0,3,1,2,7", "--rtol", "1e-4",
            "--device", "cpu", "--json"]  # fmt: skip
    for code, said in finish(launch(CLI.format(args=[*args, "--out", str(tmp_path / "all")]), 2)):
        assert code == 0, said
    assert [path.name for path in tmp_path.iterdir()] == ["all"]
    together = np.load(tmp_path / "all" / "samples.npz")
    run = load_run(trained)
    labels = torch.tensor([0, 3, 1, 2, 7])
    alone = sample(run.denoiser, run.data_shape, count=5, label=labels, rtol=1e-4)
    np.testing.assert_array_equal(together["index"], np.arange(5))
    # Another batch size sums in another order in float32, and the flow of so raw a network
    # amplifies that: the values are of order 100, and 1e-3 of it is the solver's own tolerance.
    scale = float(alone.x.abs().max())
    np.testing.assert_allclose(together["x"], alone.x.numpy(), rtol=0, atol=1e-3 * scale)
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert summary["count"] == 5
    assert summary["label"] == labels.tolist()
    assert summary["evaluations"]["min"] < summary["evaluations"]["max"]


DOUBLE = """
import sys, torch
torch.set_default_dtype(torch.float64)
import dataclasses
from accelerate.state import PartialState
from sdeflow.config import TrainConfig
from sdeflow.training.learner import Learner
from sdeflow.training.plan import plan

config = TrainConfig.from_dict({config!r})
made = plan(config)
data = dataclasses.replace(made.dataset, train=made.dataset.train.double())
learner = Learner(dataclasses.replace(made, dataset=data, denoiser=made.denoiser.double()))
for _ in range(config.steps):
    learner.advance()
if PartialState().is_main_process:
    torch.save([weight.detach() for weight in learner.weights], {path!r})
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_in_float64(tmp_path: Path) -> None:
    """Weights to 1e-9 after 100 steps: sums of 33 terms in another order, amplified by Adam."""
    config = tiny(tmp_path, steps=100, batch_size=33, clip=0.0, class_condition=True)
    for count in (1, 2):
        code = DOUBLE.format(config=config.to_dict(), path=str(tmp_path / f"{count}.pt"))
        for status, said in finish(launch(code, count)):
            assert status == 0, said
    one, two = (torch.load(tmp_path / f"{count}.pt", weights_only=True) for count in (1, 2))
    assert all(weight.dtype == torch.float64 for weight in one)
    assert max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True)) < 1e-9


@pytest.mark.slow
def test_two_processes_give_the_predictions_of_one_in_float32(tmp_path: Path) -> None:
    config = tiny(tmp_path, steps=100, batch_size=33, checkpoint_every=50)
    for name, count in (("one", 1), ("two", 2)):
        code = TRAIN.format(config=config.replace({"name": name}).to_dict())
        for status, said in finish(launch(code, count)):
            assert status == 0, said
    x = torch.randn(256, 2)
    t = torch.linspace(1e-3, 1, 256, dtype=torch.float64)
    one, two = (load_run(tmp_path / name).denoiser.noise(x, t) for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_resuming_with_another_number_of_processes(
    tmp_path: Path, before: int, after: int
) -> None:
    whole = tiny(tmp_path, name="whole", batch_size=49, steps=20)
    first = whole.replace({"name": "run", "steps": 8, "lr_schedule": "constant", "warmup": 0})
    second = first.replace({"steps": 20, "resume": "auto"})
    whole = second.replace({"name": "whole", "resume": "never"})
    for config, count in ((whole, 1), (first, before), (second, after)):
        for status, said in finish(launch(TRAIN.format(config=config.to_dict()), count)):
            assert status == 0, said
    (step, one), (same, other) = state_of(tmp_path / "whole"), state_of(tmp_path / "run")
    assert step == same == 20
    for key, value in one["model"].items():
        # As in test_two_processes_equal_one: 1e-5 is a thousandth of what 20 steps can do.
        assert float((value - other["model"][key]).abs().max()) < 1e-5, key


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_with_a_message(tmp_path: Path, victim: int) -> None:
    config = tiny(tmp_path, steps=100_000, checkpoint_every=20)
    workers = launch(TRAIN.format(config=config.to_dict()), 2)
    try:
        for _ in range(1200):
            if list((tmp_path / "run").glob("checkpoints/step-*")):
                break
            time.sleep(0.1)
        workers[victim].kill()
        began = time.monotonic()
        survivor = workers[1 - victim]
        _, said = survivor.communicate(timeout=30)
        assert time.monotonic() - began < 30
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert survivor.returncode not in (0, -signal.SIGKILL)
    assert "another process of this run ended" in said
    assert "the last good checkpoint is step" in said
    assert "--resume" in said
    # What is left is good, for any number of processes.
    step, _ = state_of(tmp_path / "run")
    more = config.replace({"steps": step + 10, "resume": "auto"})
    for status, told in finish(launch(TRAIN.format(config=more.to_dict()), 1)):
        assert status == 0, told
    assert state_of(tmp_path / "run")[0] == step + 10


@pytest.mark.slow
def test_all_ranks_are_refused_a_run_under_way(tmp_path: Path) -> None:
    """The main one alone looks at the lock; the other must not wait for it."""
    code = TRAIN.format(config=tiny(tmp_path, resume="auto").to_dict())
    with locked(tmp_path / "run" / "lock"):
        for status, said in finish(launch(code, 2), 120):
            assert status == 1, said
            assert "being trained already" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


@pytest.mark.slow
def test_one_signal_to_all_ranks_leaves_one_checkpoint(tmp_path: Path) -> None:
    config = tiny(tmp_path, steps=100_000, checkpoint_every=100_000)
    workers = launch(TRAIN.format(config=config.to_dict()), 2)
    for _ in range(1200):
        if (tmp_path / "run" / "metrics.jsonl").exists():
            break
        time.sleep(0.1)
    time.sleep(2)
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    for _, said in finish(workers, 60):
        assert "stopped at step" in said or "TrainingInterrupted" in said
    assert len(list((tmp_path / "run").glob("checkpoints/step-*"))) == 1


@pytest.mark.slow
def test_evaluation_shared_by_ranks_gives_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    args = ["evaluate", str(trained), "--count", "50", "--seeds", "0,1", "--device", "cpu",
            "--rtol", "1e-5", "--atol", "1e-5", "--resamples", "20"]  # fmt: skip
    found = []
    for count in (1, 2):
        out = tmp_path / str(count)
        for status, said in finish(launch(CLI.format(args=[*args, "--out", str(out)]), count)):
            assert status == 0, said
        found.append(json.loads((out / "evaluate.json").read_text())["spaces"])
    numbers = [[leaf for leaf in _leaves(spaces) if isinstance(leaf, float)] for spaces in found]
    # Samples agree to the solver's tolerance of 1e-5; distances depend on them smoothly.
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-2, atol=1e-3)


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


@pytest.mark.slow
def test_torchrun_and_accelerate_start_the_command(tmp_path: Path) -> None:
    """Two processes of torchrun; one of accelerate, which starts more on CPUs by MPI only."""
    import subprocess
    import sys

    python = Path(sys.executable).parent
    options = ["train", "--data", "mixture", "--size", "tiny", "--batch-size", "32", "--device",
               "cpu", "--wandb", "disabled", "--out", str(tmp_path), "--name", "run",
               "--checkpoint-every", "4", "--lr-schedule", "constant",
               "--warmup", "0"]  # fmt: skip
    command = [str(python / "sdeflow"), *options]
    launchers = (
        [str(python / "torchrun"), "--standalone", "--nproc-per-node=2", "--no-python"],
        [str(python / "accelerate"), "launch", "--cpu", "--num_processes=1", "--num_machines=1",
         "--mixed_precision=no", "--dynamo_backend=no", "--no_python"],
    )  # fmt: skip
    for count, steps, launcher in zip((2, 1), ("6", "12"), launchers, strict=True):
        done = subprocess.run(
            [*launcher, *command, "--steps", steps, "--resume", "auto"],
            capture_output=True, text=True, timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert (record["processes"], record["step"]) == (count, int(steps))
        assert done.stdout.count("sample    sdeflow sample") == 1  # one process speaks
    again = tiny(tmp_path, name="one", batch_size=32, lr_schedule="constant", warmup=0)
    for status, said in finish(launch(TRAIN.format(config=again.to_dict()), 1)):
        assert status == 0, said
    (_, one), (_, two) = state_of(tmp_path / "one"), state_of(tmp_path / "run")
    for key, value in one["model"].items():
        assert float((value - two["model"][key]).abs().max()) < 1e-5, key
