"""Files of experiments: all of them can be read, and equal trainings have equal keys."""

import dataclasses
from pathlib import Path

import pytest

from experiments.runner.evaluators import KINDS
from experiments.runner.figures import draw
from experiments.runner.jobs import make_jobs
from experiments.runner.spec import NAMES, ROOT, SCALES, load_experiment, resolved, training_key
from experiments.runner.verdicts import findings
from sdeflow.config import TrainConfig


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_can_be_read_at_every_scale(name: str, scale: str) -> None:
    experiment = load_experiment(name, scale)
    assert experiment.subjects
    for subject in experiment.subjects:
        assert resolved(subject.config).warmup is not None
        assert all(evaluation.kind in KINDS for evaluation in subject.evaluations)
    assert all(f.verdict for f in findings(experiment, []))
    assert draw(experiment, [], []) == {}


def test_every_file_is_an_experiment() -> None:
    files = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert files == {*NAMES, "case-e"}  # that one is a training of the benchmarks


def test_claims_name_arms_of_their_file() -> None:
    for name in NAMES:
        experiment = load_experiment(name, "laptop")
        wanted = [f for f in findings(experiment, []) if f.wanted]
        assert wanted, name


def test_trainings_are_shared_between_experiments(tmp_path: Path) -> None:
    experiments = [load_experiment(name, "laptop") for name in ("fast", "quality")]
    both = make_jobs(experiments, tmp_path)
    trainings = [job for job in both if job.evaluation is None]
    assert len({job.key for job in trainings}) == len(trainings)
    shared = [job for job in trainings if len(job.experiments) == 2]
    assert {job.subject.arm for job in shared} == {"baseline", "etsdm"}


def test_a_training_comes_before_its_evaluations(tmp_path: Path) -> None:
    jobs = make_jobs([load_experiment(name, "laptop") for name in NAMES], tmp_path)
    place = {job.directory: i for i, job in enumerate(jobs)}
    assert all(place[job.needs] < i for i, job in enumerate(jobs) if job.needs is not None)


def test_keys_are_of_what_a_training_is() -> None:
    config = load_experiment("fast", "laptop").subjects[0].config
    same = dataclasses.replace(config, name="other", out="elsewhere", device="cpu")
    assert training_key(same) == training_key(config)
    assert training_key(resolved(config)) == training_key(config)
    for change in ({"seed": 1}, {"steps": 7}, {"etsdm": True}):
        assert training_key(dataclasses.replace(config, **change)) != training_key(config)


def test_nothing_is_left_open_to_the_data() -> None:
    with pytest.raises(ValueError, match="steps is not set"):
        training_key(TrainConfig(precision="fp32"))


@pytest.mark.parametrize(
    ("name", "scale", "seeds", "told"),
    [
        ("fats", "laptop", None, "experiment 'fats' is unknown"),
        ("fast", "lap", None, "--scale 'lap' is unknown"),
        ("fast", "laptop", 9, "--seeds is 9"),
    ],
    ids=["name", "scale", "seeds"],
)
def test_unknown_names_are_refused(name: str, scale: str, seeds: int | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load_experiment(name, scale, seeds)
