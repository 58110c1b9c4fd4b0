r"""Step sizes: what several solvers do on one model, what it costs them, and how wrong they end.

Every setting (a solver in a chart, with a tolerance or a number of steps) starts from the same
noise, and is compared with one tight solution x* of the same model, at the same t_min:

$$ e = \sqrt{\frac{1}{N D} \sum_{i=1}^N \|x_i - x^*_i\|^2} $$

for N samples of D numbers. So e is the error of the integration alone: neither the model's, nor
that of stopping at t_min. Stochastic solvers do not follow that solution; for them no error is
given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..denoiser import Predictor
from ..guidance import innermost
from ..modes import evaluated
from ..plots import StepPanel
from ..precision import check_float64, in_float64
from ..samplers import find_sampler
from ..samples import Samples
from ..sampling import sample

__all__ = ["Outcome", "Setting", "StepStudy", "step_panels", "step_study", "tight_solver"]

FINE = 1e-5  # tolerance below which a network's float32 is too coarse


def tight_solver(denoiser: Predictor) -> str:
    """The cheapest solver of a model at small tolerances.

    The highest order is, on exact models; not on networks, which are rough (a U-Net on digits, to
    1e-5: 741 evaluations by dopri5, 2,743 by dopri8, errors alike).
    """
    return "dopri5" if isinstance(innermost(denoiser), nn.Module) else "dopri8"


@dataclass(frozen=True)
class Setting:
    """One way to sample; what is None is left to the solver, as in `sdeflow.sampling.sample`.

    Attributes:
        solver: its name.
        chart: SCALE/CLOCK.
        tolerance: rtol and atol, both.
        steps: number of fixed steps, in place of the tolerance.
        grid: spacing of fixed steps.
        controller: i, pi or pid.
        breaks: whether the solver is told where the model jumps.
    """

    solver: str = "dopri5"
    chart: str | None = None
    tolerance: float | None = None
    steps: int | None = None
    grid: str | None = None
    controller: str = "pi"
    breaks: bool | None = None


@dataclass(frozen=True)
class Outcome:
    """What a setting did.

    Attributes:
        setting: the setting.
        samples: its samples, with the log.
        error: root mean square of x - x* over all numbers of the samples that succeeded; None
            where there is nothing to compare with.
    """

    setting: Setting
    samples: Samples
    error: float | None

    def row(self) -> dict[str, Any]:
        """The outcome as a line of a table."""
        summary = self.samples.summary()
        cost = summary["evaluations"]
        return {
            "solver": summary["solver"],
            "chart": summary["chart"],
            "tolerance": summary["rtol"],
            "steps": summary["steps"],
            "grid": summary["grid"],
            "told_breaks": bool(summary["breaks"]),
            "evaluations_min": cost["min"],
            "evaluations_mean": cost["mean"],
            "evaluations_max": cost["max"],
            "calls": summary["calls"],
            "accepted": summary["accepted"],
            "rejected": summary["rejected"],
            "failed": int((~self.samples.ok).sum()),
            "error": self.error,
            "seconds": summary["seconds"],
        }

    def label(self) -> str:
        """The outcome in a line, as the title of its panel."""
        row = self.row()
        if row["tolerance"] is None:
            how = f"{row['steps']} steps, {row['grid']} grid"
        else:
            how = f"tolerance {row['tolerance']:g}"
        told = ", told the jumps" if row["told_breaks"] else ""
        error = "" if self.error is None else f", error {self.error:.2g}"
        return (
            f"{row['solver']} in {row['chart']}, {how}{told}: {row['evaluations_mean']:.1f} "
            f"evaluations ({row['evaluations_min']} to {row['evaluations_max']}){error}"
        )


@dataclass(frozen=True)
class StepStudy:
    """Several settings on one model.

    Attributes:
        outcomes: one per setting, in their order.
        reference: the tight solution.
        edges: times at which the model jumps.
    """

    outcomes: tuple[Outcome, ...]
    reference: Samples
    edges: tuple[float, ...]

    def table(self) -> list[dict[str, Any]]:
        """One row per setting."""
        return [outcome.row() for outcome in self.outcomes]

    def attempts(self) -> dict[str, np.ndarray]:
        """Every attempt of every sample of every setting, `setting` its number, as columns."""
        logs = [outcome.samples.log.columns() for outcome in self.outcomes]
        number = [np.full(len(log["t"]), i) for i, log in enumerate(logs)]
        joined = {name: np.concatenate([log[name] for log in logs]) for name in logs[0]}
        return {"setting": np.concatenate(number), **joined}

    def panels(self, in_time: bool) -> list[StepPanel]:
        """A panel per setting: steps in time, or in the variable its solver runs in."""
        return [
            step_panels(outcome.samples, outcome.label())[-1 if in_time else 0]
            for outcome in self.outcomes
        ]


def step_panels(samples: Samples, label: str = "") -> list[StepPanel]:
    """Panels of the steps that samples took: in the solver's variable, and in time.

    One panel where the solver's variable is time itself.
    """
    columns = dict(samples.log.columns())
    columns["step_in_time"] = columns["time_end"] - columns["time"]
    clock = str(samples.settings["chart"]).rpartition("/")[2]
    in_time = StepPanel(columns, label, "step_in_time", "step in time t")
    if clock == "time":
        return [in_time]
    return [StepPanel(columns, label, "dt", f"step in {clock}"), in_time]


@evaluated
def step_study(
    denoiser: Predictor,
    settings: Sequence[Setting],
    shape: tuple[int, ...] | None = None,
    *,
    count: int = 64,
    seed: int = 0,
    t_min: float = 1e-3,
    t_max: float | None = None,
    label: int | Tensor | None = None,
    guidance: float = 1.0,
    reference_tolerance: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> StepStudy:
    """Run settings on one model from the same starts, and a tight solution to compare with.

    Oracles run in float64. A network runs in float32, as in use; so does its tight solution, but
    with the same weights in float64 where it is asked for to less than 1e-5.

    Args:
        denoiser: a model or an oracle.
        settings: what to run.
        shape: shape of one sample; oracles bring their own.
        count: number of samples.
        seed: seed of the starts.
        t_min: where all stop.
        t_max: where all start; by default where `sample` would.
        label: class label, one for all or (count,).
        guidance: classifier-free guidance weight.
        reference_tolerance: rtol and atol of the tight solution; by default a thousandth of the
            smallest tolerance in `settings`, and at most 1e-6.
        progress: called with the share of the work done, in [0, 1].

    Returns:
        One outcome per setting; samples that failed are in it with their status.

    Raises:
        ValueError: no settings, or one that `sample` refuses, before anything is run; a network
            that cannot compute in float64 where that is needed.
        solvers.SolverError: the tight solution failed.
    """
    if not settings:
        raise ValueError("settings is empty: give at least one solver to run")
    tolerances = [
        find_sampler(setting.solver).tolerance if setting.tolerance is None else setting.tolerance
        for setting in settings
    ]
    network = isinstance(innermost(denoiser), nn.Module)
    common: dict[str, Any] = {
        "count": count,
        "seed": seed,
        "t_min": t_min,
        "label": label,
        "guidance": guidance,
    }
    # The tight solution usually costs most; the shares are only for the bar.
    share = 1 / (2 * len(settings))

    def part(begin: float, size: float) -> Callable[[float], None] | None:
        return progress and (lambda done: progress(begin + size * done))

    if reference_tolerance is None:
        reference_tolerance = min(1e-6, 1e-3 * min(tolerances))
    double = not network or reference_tolerance < FINE
    precise = in_float64(denoiser) if double else denoiser
    if double and shape is not None:
        check_float64(precise, shape, label)
    reference = sample(
        precise,
        shape,
        solver=tight_solver(denoiser),
        rtol=reference_tolerance,
        atol=reference_tolerance,
        t_max=t_max,
        dtype=torch.float64 if double else torch.float32,
        max_evaluations=1_000_000,
        progress=part(0, 0.5),
        **common,
    )
    outcomes = []
    for index, setting in enumerate(settings):
        samples = sample(
            denoiser,
            shape,
            solver=setting.solver,
            chart=setting.chart,
            rtol=setting.tolerance,
            atol=setting.tolerance,
            steps=setting.steps,
            grid=setting.grid,
            controller=setting.controller,
            breaks=setting.breaks,
            t_max=reference.settings["t_max"],
            dtype=torch.float32 if network else torch.float64,
            on_failure="return",
            progress=part(0.5 + index * share, share),
            **common,
        )
        sampler = find_sampler(setting.solver)
        follows_the_flow = sampler.eta == 0 and sampler.churn == 0
        error = _error(samples, reference) if follows_the_flow else None
        outcomes.append(Outcome(setting, samples, error))
    return StepStudy(tuple(outcomes), reference, tuple(denoiser.breaks))


def _error(samples: Samples, reference: Samples) -> float | None:
    """Root mean square difference over the samples that succeeded."""
    ok = torch.from_numpy(samples.ok)
    if not bool(ok.any()):
        return None
    difference = samples.x[ok].cpu().double() - reference.x[ok].cpu().double()
    return float(difference.square().mean().sqrt())
