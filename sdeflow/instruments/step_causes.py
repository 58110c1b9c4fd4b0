r"""Why steps get small near t = 0: two causes, kept apart.

The probability flow in (x, t) is f x + (g^2 / 2 sigma) eps. Steps can be short there because

    the coefficients   g^2 / (2 sigma) grows without bound as t -> 0, whatever eps does
    the prediction     eps(x, t) itself changes quickly in t

The same solver therefore runs three fields from the same noise, in each chart:

    model              the model that is studied
    exact              the exact model of its data: the change that the data ask for
    constant noise     eps = eps_i for sample i, at all x and t: the coefficients alone

with eps_i the noise that sample i starts from, so that its flow is x = sigma(t) eps_i and stays of
the size of the others. With y = x/alpha and rho = sigma/alpha the flow is dy/d rho = eps: there
the third is a straight line, and what is left of the first two is the prediction's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solvers.noise import NoiseSource, sample_seeds

from ..denoiser import Predictor, convert
from ..modes import evaluated
from ..sde import SDE, like
from .step_sizes import Setting, StepStudy, step_study

__all__ = ["CAUSES", "CauseStudy", "ConstantNoise", "cause_study"]

CAUSES = ("model", "exact", "constant noise")


class ConstantNoise(Predictor):
    """A noise prediction that is constant in x and t: a flow that only its coefficients bend.

    Args:
        sde: the forward process.
        constants: (N, ...) the predictions; a "label" says which one is a sample's.
    """

    def __init__(self, sde: SDE, constants: Tensor) -> None:
        self.sde, self.constants = sde, constants
        self.data_shape, self.num_classes = tuple(constants.shape[1:]), len(constants)

    @classmethod
    def of_starts(
        cls, sde: SDE, shape: tuple[int, ...], count: int, seed: int, t_max: float
    ) -> ConstantNoise:
        """The noise that `count` samples of a seed start from at t_max."""
        start = NoiseSource(sample_seeds(seed, count), shape, dtype=torch.float64).normal(0)
        return cls(sde, start * (sde.prior_scale(t_max) / float(sde.sigma(t_max))))

    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        if label is None:
            raise ValueError("label is None: say which constant is each sample's")
        on_x, on_noise = (like(c, x) for c in convert(self.sde, t, "noise", wanted))
        return on_x * x + on_noise * self.constants[label].to(x)


@dataclass(frozen=True)
class CauseStudy:
    """The same settings on up to three fields.

    Attributes:
        studies: name of the field, out of `CAUSES` -> what the settings did on it. No "exact"
            where no exact model is known, or where the model is one.
    """

    studies: dict[str, StepStudy]

    def table(self) -> list[dict[str, Any]]:
        """One row per setting and field."""
        return [
            {"field": name, **self.studies[name].outcomes[number].row()}
            for number in range(len(self.studies["model"].outcomes))
            for name in self.fields(number)
        ]

    def fields(self, number: int) -> list[str]:
        """The fields to show for a setting.

        Those that do not jump do the same whether told of jumps or not: they are shown once.
        """
        settings = [replace(o.setting, breaks=None) for o in self.studies["model"].outcomes]
        again = settings[number] in settings[:number]
        return [
            name
            for name, study in self.studies.items()
            if name == "model" or study.edges or not again
        ]


@evaluated
def cause_study(
    study: StepStudy,
    model: Predictor,
    settings: Sequence[Setting],
    exact: Predictor | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> CauseStudy:
    """Run the settings of a study on the exact model and on constant noise, too.

    Args:
        study: what the settings did on the model.
        model: the model.
        settings: what was run on it.
        exact: the exact model of its data, or None.
        progress: called with the share of the work done, in [0, 1].

    Raises:
        ValueError: as `step_study`.
        solvers.SolverError: a tight solution failed.
    """
    done = study.reference.settings
    count, shape = len(study.reference.x), tuple(study.reference.x.shape[1:])
    constant = ConstantNoise.of_starts(model.sde, shape, count, done["seed"], done["t_max"])
    others: dict[str, Predictor | None] = {"exact": exact, "constant noise": constant}
    known = {name: field for name, field in others.items() if field is not None}
    studies = {"model": study}

    def part(index: int) -> Callable[[float], None] | None:
        return progress and (lambda done: progress((index + done) / len(known)))

    for index, (name, field) in enumerate(known.items()):
        studies[name] = step_study(
            field,
            settings,
            shape,
            count=count,
            seed=done["seed"],
            t_min=done["t_min"],
            t_max=done["t_max"],
            label=torch.arange(count) if field is constant else None,
            reference_tolerance=done["rtol"],
            progress=part(index),
        )
    return CauseStudy(studies)
