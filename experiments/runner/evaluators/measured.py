"""What an evaluation is given: the model of a subject, its data, and where features are kept."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdeflow.build import build_conditioning, build_sde
from sdeflow.conditioning import ETSDM
from sdeflow.data import Dataset, load_data
from sdeflow.denoiser import Denoiser, Predictor
from sdeflow.oracle import make_oracle
from sdeflow.run import load_run
from sdeflow.shared_time import SharedTime
from sdeflow.training.plan import device_of

from ..spec import Subject

__all__ = ["Measured", "data_of", "measured"]


@dataclass(frozen=True)
class Measured:
    """A model to be measured.

    Attributes:
        subject: its place in the grid.
        model: the denoiser or the oracle.
        shape: of one sample.
        run: its run directory, or None.
        cache: where classifiers are kept.
    """

    subject: Subject
    model: Predictor
    shape: tuple[int, ...]
    run: Path | None
    cache: Path

    @property
    def data(self) -> Dataset:
        """The data it was trained on."""
        return data_of(self.subject)

    def probes(self) -> Tensor | None:
        """Held-out data to measure it on; None where an oracle draws its own."""
        return None if self.subject.oracle else self.data.heldout

    def labels(self, count: int) -> Tensor | None:
        """Classes of the first `count` held-out samples, where the model is told classes."""
        have = self.data.heldout_labels
        if not self.subject.config.class_condition or have is None:
            return None
        return have[torch.arange(count) % len(have)]


@functools.lru_cache(maxsize=4)
def _load(name: str, data_dir: str | None, image_size: int | None) -> Dataset:
    return load_data(name, data_dir=data_dir, image_size=image_size)


def data_of(subject: Subject) -> Dataset:
    """The data of a subject, kept in memory between jobs."""
    config = subject.config
    return _load(config.data, config.data_dir, config.image_size)


def measured(subject: Subject, run: Path | None, runs: Path) -> Measured:
    """The model of a subject: exact, or trained, with the condition it is to be sampled with."""
    cache = runs / "features"
    if subject.oracle is not None or run is None:
        sde = build_sde(subject.config)
        oracle = make_oracle(subject.oracle or "mixture", sde)
        conditioning = build_conditioning(subject.config, sde)
        model = SharedTime(oracle, conditioning) if isinstance(conditioning, ETSDM) else oracle
        return Measured(subject, model, oracle.data_shape, None, cache)
    loaded = load_run(run)
    denoiser: Denoiser = loaded.told(subject.sampling).denoiser
    denoiser.to(device_of(subject.config.device))
    return Measured(subject, denoiser, loaded.data_shape, run, cache)
