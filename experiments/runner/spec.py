"""What an experiment is: a file that names arms, problems, seeds, evaluations and claims.

    subject   = problem x arm x seed: a training, or an exact model where the arm names an oracle
    training key    H(settings that differ from the library's defaults, resolved)
    evaluation key  H(training key, sampling condition, kind, settings, seed, version)

with H the first 12 digits of a SHA-256. Two experiments that ask for the same training have the
same key, and so it is trained once. Settings at their default do not enter the key: an option that
the library gains later leaves earlier results where they are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from sdeflow.config import PLACE, TrainConfig
from sdeflow.data import Dataset
from sdeflow.training.plan import resolve

from .rules import check_claims, claims_at

__all__ = [
    "NAMES",
    "ROOT",
    "SCALES",
    "SEEDS",
    "Evaluation",
    "Experiment",
    "Subject",
    "digest",
    "load_experiment",
    "resolved",
    "training_key",
]

ROOT = Path(__file__).resolve().parents[1]
SCALES = ("smoke", "laptop", "cluster")
SEEDS = (10, 11, 12, 13, 14)
NAMES = (  # in the order in which they are worked on
    "smooth_time",
    "fast",
    "quality",
    "lipschitz",
    "step_sizes",
    "embedding",
    "ablation",
    "alternatives",
    "perturbation",
    "truncation",
    "convergence",
    "conditional",
    "uniqueness",
)
# Where and how often a run is saved does not change what it is.
UNKEYED = {*PLACE, "device", "wandb", "checkpoint_every"}
RESERVED = ("oracle", "sampling", "only")  # keys of an arm that are no options of a training
SHAPES = {"digits": (1, 8, 8), "fashion-mnist": (1, 28, 28)}


def digest(values: Any) -> str:
    """The first 12 digits of the SHA-256 of plain values."""
    text = json.dumps(values, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def resolved(config: TrainConfig) -> TrainConfig:
    """The settings with every "auto" replaced, without reading the data.

    Raises:
        ValueError: a setting that depends on the data or the machine is left open.
    """
    for name in ("steps", "batch_size", "lr", "flips"):
        if getattr(config, name) is None:
            raise ValueError(f"{name} is not set: an experiment leaves nothing open to the data")
    if config.precision == "auto":
        raise ValueError("precision is auto: set it, so that the key is the same on all machines")
    shape = SHAPES.get(config.data, (2,))
    if config.image_size is not None:
        shape = (3 if ":" in config.data else 1, config.image_size, config.image_size)
    stand_in = Dataset(
        config.data,
        torch.zeros(1, *shape),
        torch.zeros(1, *shape),
        None,
        None,
        num_classes=10,
        is_image=len(shape) == 3,
        flips=False,
    )
    return resolve(config, stand_in)


def keyed(config: TrainConfig) -> dict[str, Any]:
    """The settings that make a training what it is: those unlike the library's defaults."""
    defaults = {item.name: item.default for item in dataclasses.fields(TrainConfig)}
    values = resolved(config).to_dict()
    return {k: v for k, v in values.items() if k not in UNKEYED and v != defaults[k]}


def training_key(config: TrainConfig) -> str:
    """Under which key a training is kept."""
    return digest(keyed(config))


@dataclass(frozen=True)
class Evaluation:
    """One measurement.

    Attributes:
        name: as claims and figures know it.
        kind: which function measures, a key of `evaluators.KINDS`.
        settings: its arguments.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is measured: a trained model, or an exact one.

    Attributes:
        problem, arm, seed: its place in the grid.
        config: settings of the training; of an exact model only the process counts.
        oracle: what `sdeflow.oracle.make_oracle` takes, or None.
        sampling: settings of the condition that replace those of the training afterwards.
        evaluations: what is measured on it.
        priority: work with a smaller one is done first.
    """

    problem: str
    arm: str
    seed: int
    config: TrainConfig
    oracle: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    priority: int = 5

    @property
    def key(self) -> str:
        """Of the training; of an exact model, of its process."""
        if self.oracle is None:
            return training_key(self.config)
        return digest({"oracle": self.oracle, **keyed(self.config)})

    def evaluation_key(self, evaluation: Evaluation, version: int) -> str:
        """Of one of its evaluations."""
        return digest(
            {
                "of": self.key,
                "sampling": dict(self.sampling),
                "kind": evaluation.kind,
                "settings": dict(evaluation.settings),
                "seed": self.seed,
                "version": version,
            }
        )


@dataclass(frozen=True)
class Experiment:
    """An experiment at one scale.

    Attributes:
        name: of the file.
        scale: smoke, laptop or cluster.
        title, question: for the report.
        figure: name of the function that draws it.
        claims: rules, with the problems of this scale; see `verdicts`.
        reduced: what is reduced at this scale, or "".
        subjects: the grid, in the order of work: all arms of a seed before the next seed.
    """

    name: str
    scale: str
    title: str
    question: str
    figure: str
    claims: Sequence[Mapping[str, Any]]
    reduced: str
    subjects: Sequence[Subject]


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no mapping")
    return values  # of all that read it: not to be changed


def load_experiment(name: str, scale: str, seeds: int | None = None) -> Experiment:
    """Read an experiment.

    Args:
        name: one of `NAMES`.
        scale: one of `SCALES`.
        seeds: how many seeds, in place of the file's numbers.

    Raises:
        ValueError: an unknown name or scale, or a file that is wrong; says where.
    """
    if name not in NAMES:
        raise ValueError(f"experiment {name!r} is unknown: choose from {', '.join(NAMES)}")
    if scale not in SCALES:
        raise ValueError(f"--scale {scale!r} is unknown: choose from {', '.join(SCALES)}")
    if seeds is not None and not 1 <= seeds <= len(SEEDS):
        raise ValueError(f"--seeds is {seeds}: give 1 to {len(SEEDS)}")
    path = ROOT / "configs" / f"{name}.yaml"
    values = _read(path)
    try:
        check_claims(values["claims"])
        subjects = []
        for grid in values["scales"][scale]:
            subjects += _subjects(values, grid, scale, seeds)
        return Experiment(
            name=name,
            scale=scale,
            title=values["title"],
            question=values["question"],
            figure=values["figure"],
            claims=claims_at(values, scale),
            reduced=values.get("reduced", {}).get(scale, ""),
            subjects=_in_order(subjects),
        )
    except KeyError as error:
        raise ValueError(f"{path}, scale {scale}: {error} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path}, scale {scale}: {error}") from None


def _subjects(
    values: Mapping[str, Any], grid: Mapping[str, Any], scale: str, seeds: int | None
) -> list[Subject]:
    """One grid of an experiment: problems x arms x seeds."""
    problems, shared = _read(ROOT / "problems.yaml"), _read(ROOT / "evaluations.yaml")
    arms = values["arms"]
    unknown = set(grid) - {"problems", "arms", "seeds", "evaluations", "priority"}
    if unknown:
        raise ValueError(f"unknown keys of a grid: {', '.join(sorted(unknown))}")
    wanted = list(arms) if grid.get("arms", "all") == "all" else grid["arms"]
    found = []
    for problem in grid["problems"]:
        for arm in wanted:
            options = dict(arms[arm] or {})
            extra = {key: options.pop(key) for key in RESERVED if key in options}
            if problem not in extra.get("only", [problem]):
                continue
            evaluations = tuple(
                Evaluation(name, shared[name]["kind"], _settings(shared[name], scale))
                for name in grid["evaluations"]
            )
            for seed in SEEDS[: seeds or grid.get("seeds", 3)]:
                made = {**problems[problem], **options, "seed": seed}
                config = TrainConfig.from_dict(made)
                resolved(config)
                found.append(
                    Subject(
                        problem,
                        arm,
                        seed,
                        config,
                        extra.get("oracle"),
                        extra.get("sampling", {}),
                        evaluations,
                        grid.get("priority", 5),
                    )
                )
    return found


def _settings(values: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """Arguments of an evaluation: those for all scales, then this scale's own."""
    own = dict(values.get(scale, {}))
    return {k: v for k, v in values.items() if k not in ("kind", *SCALES)} | own


def _in_order(subjects: Sequence[Subject]) -> list[Subject]:
    """Problem by problem and seed by seed, so that pairs are complete early."""
    problems = list(dict.fromkeys(subject.problem for subject in subjects))
    return sorted(subjects, key=lambda s: (problems.index(s.problem), SEEDS.index(s.seed)))
