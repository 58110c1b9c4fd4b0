"""What a training run is: one frozen dataclass, one field per option of ``sdeflow train``.

A run is the map

    (data, SDE, condition c(t), network F, weight w(t), density of t, optimiser, seed) -> weights,

and `TrainConfig` holds exactly the left-hand side. A value of None means "chosen from the data and
the other settings"; `sdeflow.training.train` resolves those and writes the result into
``config.yaml``, so that the file alone reproduces the run. This module imports neither torch nor
numpy at its top level: the command line reads the options from here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .files import read_yaml, write_text
from .options import Option, convert, flag, nearest, option, options_of, unknown
from .rules import conflicts

__all__ = [
    "ARCHITECTURE",
    "PLACE",
    "SHARING",
    "Option",
    "TrainConfig",
    "load_config",
    "nearest",
    "options",
    "save_config",
    "settled",
    "shape_name",
]

Value = TypeVar("Value")

SDES = ("vp", "subvp", "ve", "edm")
SCHEDULES = ("linear", "quadratic", "cosine", "zero-snr", "trig")
CONDITIONS = ("time", "smooth", "log-snr", "sigma", "edm", "none")
PREDICTIONS = ("noise", "data", "score", "velocity")
WEIGHTINGS = ("simple", "likelihood", "min-snr", "score-sigma2", "score")
TIME_DISTRIBUTIONS = ("uniform", "stratified", "discrete", "log-snr", "log-normal")
NETWORKS = ("auto", "unet", "mlp", "own")
EMBEDDINGS = ("sinusoidal", "fourier", "table")
SIZES = ("auto", "tiny", "small", "base", "paper")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TRACKING = ("auto", "offline", "online", "disabled")
LR_SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run; checked on construction.

    Raises:
        ValueError: a value outside its domain; the message names the option, the value and the
            remedy.
    """

    data: str = option(
        "digits",
        "data set: digits, fashion-mnist, moons, rings, swissroll, checkerboard, mixture, "
        "folder:PATH, npz:PATH or idx:PATH",
    )
    data_dir: str | None = option(
        None, "directory with the files of a named data set", auto="the usual places"
    )
    image_size: int | None = option(
        None, "side to which images are resized", unit="pixels", auto="as in the data"
    )
    sde: str = option("vp", "forward process", choices=SDES)
    schedule: str = option("linear", "noise schedule of vp and subvp", choices=SCHEDULES)
    smooth_start: float | None = option(
        None,
        "scale s of the smooth start: the schedule is evaluated at t^2 (1 + s)/(t + s)",
        unit="time",
        auto="no smooth start",
    )
    sigma_floor: float | None = option(
        None,
        "smallest sigma of vp and subvp: the noise is max(sigma(t), floor), and the data are "
        "never quite reached",
        unit="units of the data, in (0, 1)",
        auto="no floor",
    )
    etsdm: bool = option(
        False, "share the condition time inside each sub-interval below the threshold (E-TSDM)"
    )
    etsdm_threshold: float | None = option(
        None,
        "time below which the condition is shared",
        unit="time, in (0, 1)",
        auto="where log-SNR equals that of vp linear at 0.1",
    )
    etsdm_intervals: int = option(5, "number of sub-intervals below the threshold")
    etsdm_edges: str = option(
        "time",
        "edges equally spaced in time, sigma or log-snr, or the edges themselves, separated by "
        "commas, or the path of a file of them; intervals and threshold are then theirs",
    )
    etsdm_at: str = option(
        "left",
        "point of a sub-interval that the network is told",
        choices=("left", "middle", "right"),
    )
    shared_noise: bool = option(
        False,
        "share the noise level itself in the intervals of E-TSDM: train and sample at t = f_T(t) "
        "only; the first level, where sigma would be 0, is at --t-min",
    )
    condition: str = option("time", "what the network is told of t", choices=CONDITIONS)
    smooth_scale: float = option(
        0.1, "scale s of the condition `smooth`: c(t) = t^2/(sqrt(t^2 + s^2) + s)", unit="time"
    )
    smooth_shape: str = option(
        "hyperbola",
        "shape of the condition `smooth`: hyperbola; power:P, c(t) = (t^P + s^P)^(1/P) - s; or "
        "the path of a lipschitz.json of `sdeflow lipschitz`: its steepness equalised above s",
    )
    predict: str = option("noise", "what the network predicts", choices=PREDICTIONS)
    weighting: str = option("simple", "weight of the loss over time", choices=WEIGHTINGS)
    time_distribution: str = option(
        "stratified", "how training times are drawn", choices=TIME_DISTRIBUTIONS
    )
    lipschitz_weight: float = option(
        0.0,
        "weight of a penalty on K = |eps(x, t) - eps(x, t + 1/1000)| * 1000 for small t, the "
        "steepness in time; 0: none",
    )
    lipschitz_below: float | None = option(
        None,
        "time below which steepness is penalised",
        unit="time, in (0, 1)",
        auto="where log-SNR equals that of vp linear at 0.1",
    )
    soft_truncation: float | None = option(
        None,
        "draw a smallest time for each batch, with density proportional to 1/t^k, k this number; "
        "1: even in log t",
        auto="t_min for every batch",
    )
    t_min: float = option(1e-5, "smallest training time", unit="time, in (0, 1)")
    t_max: float | None = option(
        None,
        "largest training time",
        unit="time, in (t_min, 1]",
        auto="1, or 0.999 where alpha(1) = 0 and the loss, the density of t or the condition "
        "would be infinite",
    )
    network: str = option(
        "auto",
        "network; auto: unet for images, else mlp; own: one given to sdeflow.train in Python",
        choices=NETWORKS,
    )
    size: str = option("auto", "size of the network", choices=SIZES)
    embedding: str = option(
        "sinusoidal",
        "how the network reads the condition: sinusoidal (waves, frequencies in geometric steps), "
        "fourier (waves, denser in the high frequencies), table (a learned row per thousandth of "
        "time, linear between them)",
        choices=EMBEDDINGS,
    )
    embedding_scale: float = option(
        1.0,
        "factor of the highest frequency of the waves, which caps how steep the network can be in "
        "time; at 1 it is that of 1000 discrete steps, 1 radian a step",
    )
    class_condition: bool = option(False, "tell the network the class label")
    label_dropout: float = option(
        0.1, "share of labels replaced by the null label, for guidance", unit="in [0, 1]"
    )
    super_resolution: int | None = option(
        None,
        "learn images given their own smaller versions, this many times smaller on each side",
        unit="at least 2, a divisor of the image size",
        auto="images are made from noise alone",
    )
    flips: bool | None = option(
        None, "mirror images at random", auto="where the data set allows it"
    )
    steps: int | None = option(
        None, "number of optimiser steps", unit="steps", auto="by data, 1200 to 4000"
    )
    batch_size: int | None = option(
        None, "samples a step, over all processes", unit="samples", auto="by data, 64 to 256"
    )
    lr: float | None = option(None, "peak learning rate of AdamW", auto="0.001")
    lr_schedule: str = option("cosine", "learning rate after the warm-up", choices=LR_SCHEDULES)
    warmup: int | None = option(
        None, "linear warm-up", unit="steps", auto="a twelfth of the steps, at most 1000"
    )
    weight_decay: float = option(0.01, "decoupled weight decay of AdamW")
    clip: float = option(1.0, "largest norm of the gradient; 0: no clipping")
    ema: float | None = option(
        None,
        "decay of the exponential moving average of the weights",
        unit="in [0, 1)",
        auto="0.999",
    )
    precision: str = option(
        "auto",
        "arithmetic inside the network; auto: bf16 where that is faster, else fp32, and fp32 with "
        "--lipschitz-weight",
        choices=PRECISIONS,
    )
    checkpointing: bool = option(
        False,
        "recompute the U-Net's blocks in the backward pass: less memory, a third more time",
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps")
    seed: int = option(0, "seed of every random draw")
    checkpoint_every: int | None = option(
        None,
        "steps between checkpoints and held-out evaluations",
        unit="steps",
        auto="a tenth of the steps, at most 5000",
    )
    diagnostics: bool = option(
        False,
        "at each held-out evaluation, measure the gradients per interval of time and the "
        "steepness in time, too",
    )
    resume: str = option(
        "never",
        "auto: go on from the latest checkpoint of this run, or start; or a run directory, or the "
        "name of one under --out",
    )
    out: str = option("runs", "directory in which runs are kept")
    name: str | None = option(
        None, "name of the run, a directory in --out", auto="from data, sde and conditioning"
    )
    wandb: str = option(
        "auto", "Weights & Biases; auto: online when logged in, else offline", choices=TRACKING
    )

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Check every value against its domain.

        Raises:
            ValueError: naming the option, the value and the remedy.
        """
        for item in options():
            value = getattr(self, item.name)
            if item.choices and value not in item.choices:
                raise ValueError(unknown(flag(item.name), value, item.choices))
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{flag(item.name)} is {value}: it must be finite")
        self._open("etsdm_threshold", 0, 1)
        self._open("t_min", 0, 1)
        self._open("lipschitz_below", 0, 1)
        self._open("sigma_floor", 0, 1)
        self._least("super_resolution", 2)
        for name in ("etsdm_intervals", "steps", "batch_size", "image_size", "checkpoint_every"):
            self._least(name, 1)
        for name in (
            "warmup",
            "weight_decay",
            "clip",
            "seed",
            "lipschitz_weight",
            "soft_truncation",
        ):
            self._least(name, 0)
        for name in ("lr", "smooth_start", "smooth_scale", "embedding_scale"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{flag(name)} is {value}: give a positive number")
        if self.t_max is not None and not self.t_min < self.t_max <= 1:
            raise ValueError(f"--t-max is {self.t_max}: give a time in ({self.t_min}, 1]")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"--ema is {self.ema}: give a decay in [0, 1)")
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"--label-dropout is {self.label_dropout}: give a share in [0, 1]")
        if self.name is not None and not _plain(self.name):
            raise ValueError(
                f"--name is {self.name!r}: give a plain directory name; its place goes into --out"
            )
        for line in conflicts(self):
            raise ValueError(line)

    def _open(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is not None and not low < value < high:
            raise ValueError(f"{flag(name)} is {value}: give a number in ({low}, {high})")

    def _least(self, name: str, least: float) -> None:
        value = getattr(self, name)
        if value is not None and value < least:
            raise ValueError(f"{flag(name)} is {value}: give at least {least}")

    @property
    def lists_edges(self) -> bool:
        """Whether `etsdm_edges` are the edges themselves, written out or in a file."""
        return self.etsdm_edges.partition(":")[0] not in ("time", "sigma", "log-snr")

    def replace(self, values: Mapping[str, Any]) -> TrainConfig:
        """A copy with some values replaced; refuses unknown names as `from_dict` does."""
        return TrainConfig.from_dict({**self.to_dict(), **values})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the options."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """From plain values, as JSON and YAML give them.

        Args:
            values: option names, with ``_`` or ``-``, to values. A float may come as an integer
                or as text (YAML 1.1 reads ``1e-3`` as text).

        Raises:
            ValueError: an unknown key (named with the nearest option) or a value of another type.
        """
        known = {item.name: item for item in options()}
        given = {}
        for key, value in values.items():
            name = str(key).replace("-", "_")
            if name not in known:
                raise ValueError(unknown("config key", str(key), known))
            given[name] = convert(known[name], value)
        return cls(**given)


def options() -> tuple[Option, ...]:
    """The options of ``sdeflow train``, in the order in which help should list them."""
    return options_of(TrainConfig)


ARCHITECTURE = (
    "image_size",
    "sde",
    "schedule",
    "smooth_start",
    "sigma_floor",
    "etsdm",
    "etsdm_threshold",
    "etsdm_intervals",
    "etsdm_edges",
    "etsdm_at",
    "shared_noise",
    "condition",
    "smooth_scale",
    "smooth_shape",
    "predict",
    "network",
    "size",
    "embedding",
    "embedding_scale",
    "class_condition",
    "super_resolution",
)
"""Options that change what the weights mean: a run cannot be resumed with others."""

SHARING = ("etsdm", "etsdm_threshold", "etsdm_intervals", "etsdm_edges", "etsdm_at")
"""Options of E-TSDM, which a trained run can be sampled with others of."""

PLACE = ("resume", "out", "name")
"""Options that say where a run lives, not what it is: left out of ``config.yaml``."""


def settled(value: Value | None) -> Value:
    """A setting that resolving has replaced by a value, for settings that may be "auto"."""
    if value is None:
        raise TypeError("an unresolved setting is used: resolve the configuration first")
    return value


def shape_name(config: TrainConfig) -> str:
    """The shape of smooth time in a word: hyperbola, power:P, or equalised where it is a table."""
    shape = config.smooth_shape
    return shape if shape == "hyperbola" or shape.startswith("power:") else "equalised"


def _plain(name: str) -> bool:
    """Whether `name` is one visible path component on every platform."""
    allowed = all(letter.isalnum() or letter in "._-+=@ " for letter in name)
    return bool(name.strip()) and allowed and not name.startswith(".")


def save_config(config: TrainConfig, path: str | Path) -> None:
    """Write what reproduces the run, as YAML, without `PLACE`: it can be trained anew beside."""
    import yaml

    values = {key: value for key, value in config.to_dict().items() if key not in PLACE}
    write_text(Path(path), yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML file of options.

    Raises:
        ValueError: the file is missing, is no YAML mapping, or holds an unknown key.
    """
    try:
        values = read_yaml(Path(path))
    except ValueError as error:
        raise ValueError(f"config {error}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ValueError(f"config {path} holds no mapping: write lines of `option: value`")
    try:
        return TrainConfig.from_dict(values)
    except ValueError as error:
        raise ValueError(f"config {path}: {error}") from None
