"""What the figures of `step_sizes` share: the charts, the models and how each is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..verdicts import Records
from .common import Array, pick

__all__ = ["CHARTS", "ENDS", "MODELS", "Attempts", "Model", "attempts", "typical"]

CHARTS = {
    "x/time": "clock: time",
    "x/log-snr": "clock: log-SNR",
    "x/alpha/noise-ratio": "x/alpha, sigma/alpha",
}
ENDS = ("0.001", "0.0001", "1e-05")


@dataclass(frozen=True)
class Model:
    """A model and what the solver is told of it.

    Attributes:
        title, short: for titles and legends.
        arm, evaluation: in the results.
        told: what is added to the ID of a variant: " blind" where jumps are not told.
        colour, dash, mark: of its lines and marks; E-TSDM has one colour, told or not.
    """

    title: str
    short: str
    arm: str
    evaluation: str
    told: str
    colour: str
    dash: Any
    mark: str

    def found(self, records: Records, problem: str) -> list[Any]:
        """Its results; those of constant noise are the same for all problems of one process."""
        found = pick(records, arm=self.arm, evaluation=self.evaluation)
        same = [r for r in found if r["problem"] == problem]
        return same or (found if self.arm == "constant" else [])

    def values(self, records: Records, problem: str, metric: str, variant: str) -> list[float]:
        """A metric of a variant, seed by seed."""
        key = f"{metric} {variant}{self.told}"
        found = self.found(records, problem)
        return [r["values"][key] for r in found if key in r["values"]]


MODELS = (
    Model(
        "a constant noise: the coefficients alone", "constant noise", "constant", "noise-steps",
        "", "0.6", ":", "o",
    ),
    Model("baseline", "baseline", "baseline", "steps", "", "0.0", "-", "s"),
    Model(
        "E-TSDM, the solver not told of its jumps", "E-TSDM, not told", "etsdm", "steps",
        " blind", "#b0602a", (0, (3, 1.5)), "x",
    ),
    Model("E-TSDM, the solver told", "E-TSDM, told", "etsdm", "steps", "", "#b0602a", "-", "D"),
    Model("smooth time", "smooth time", "smooth-0.1", "steps", "", "#3b6ea5", "-.", "v"),
)  # fmt: skip


@dataclass(frozen=True)
class Attempts:
    """Every attempt of some samples: whose, where it begins and ends in time, and if accepted."""

    sample: NDArray[np.int64]
    begin: Array
    end: Array
    good: NDArray[np.bool_]

    @property
    def size(self) -> Array:
        """Of the steps, in time."""
        return np.abs(self.end - self.begin)


def attempts(found: list[Any], variant: str) -> Attempts | None:
    """Those of the first of some results that kept them; None where none did."""
    for record in found:
        kept = record["values"]["attempts"].get(variant)
        if kept is not None:
            good = np.array(kept["accepted"], dtype=np.bool_)
            sample, begin, end = (np.array(kept[n]) for n in ("sample", "time", "time_end"))
            return Attempts(sample, begin, end, good)
    return None


def typical(kept: Attempts) -> tuple[Array, Array]:
    """Times, and the accepted step that begins there, median over samples.

    Between the beginnings of a sample's own steps, its step is interpolated, logarithms of both;
    below its last one there is none.
    """
    begins = [kept.begin[kept.good & (kept.sample == i)] for i in np.unique(kept.sample)]
    sizes = [kept.size[kept.good & (kept.sample == i)] for i in np.unique(kept.sample)]
    low = max(float(begin.min()) for begin in begins)
    high = min(float(begin.max()) for begin in begins)
    times = np.geomspace(low, high, 300)
    steps = [
        np.interp(np.log(times), np.log(begin[::-1]), np.log(size[::-1]))
        for begin, size in zip(begins, sizes, strict=True)
    ]
    return times, np.exp(np.median(steps, axis=0))
