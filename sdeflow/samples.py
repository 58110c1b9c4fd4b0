"""What sampling gives back: the samples, each one's status, every attempted step, the settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers import Status, StepLog

from .dynamics import ProbabilityFlow, ReverseSDE

__all__ = ["Samples", "add_times", "join_samples"]


@dataclass
class Samples:
    """What a run of a sampler gives back.

    Attributes:
        x: (N, ...) the samples; where a sample failed, its last accepted state.
        t: (N,) float64 the time each reached.
        status: (N,) int64 values of `solvers.Status`.
        log: every attempt of every sample, with time, sigma and log_snr where it began added,
            and where it would have ended: time_end, sigma_end and log_snr_end.
        settings: what produced it: solver, chart, grid or tolerances, times, breaks, seed.
        seconds: wall time.
        trajectory: (T, N, ...) states at the times asked for, or None.
    """

    x: Tensor
    t: np.ndarray
    status: np.ndarray
    log: StepLog
    settings: dict[str, Any]
    seconds: float
    trajectory: Tensor | None = None
    failure: str = field(default="", repr=False)

    def to_host(self) -> Samples:
        """The same with every tensor on the host."""
        path = None if self.trajectory is None else self.trajectory.cpu()
        return replace(self, x=self.x.cpu(), trajectory=path)

    @property
    def ok(self) -> np.ndarray:
        """Which samples reached the end, (N,) bool."""
        good: np.ndarray = self.status == Status.ok
        return good

    def summary(self) -> dict[str, Any]:
        """The settings and the costs, ready for JSON."""
        evaluations = self.log.evaluations
        accepted = int(np.count_nonzero(self.log.accepted))
        counts = {s.name: int(np.count_nonzero(self.status == s)) for s in Status}
        return {
            **self.settings,
            "count": len(self.x),
            "evaluations": {
                "min": int(evaluations.min()),
                "mean": float(evaluations.mean()),
                "max": int(evaluations.max()),
            },
            "calls": int(self.log.calls),
            "accepted": accepted,
            "rejected": len(self.log) - accepted,
            "status": counts,
            "seconds": self.seconds,
        }

    def caption(self) -> str:
        """The settings in one line, for figures."""
        s = self.settings
        if s["grid"] is None:
            control = f", {s['controller']} control" if s["controller"] else ""
            how = f"rtol {s['rtol']:g}, atol {s['atol']:g}{control}"
        else:
            how = f"{s['steps']} steps, {s['grid']} grid"
        told = f", {len(s['breaks'])} breaks" if s["breaks"] else ""
        return f"{s['solver']} in {s['chart']}, {how}, t {s['t_max']:g} to {s['t_min']:g}{told}"


def join_samples(parts: list[Samples]) -> Samples:
    """Parts of one run put together, in order; they took place at the same time."""
    first = parts[0]
    paths = [part.trajectory for part in parts if part.trajectory is not None]
    settings = dict(first.settings)
    if isinstance(settings.get("label"), list):
        settings["label"] = [label for part in parts for label in part.settings["label"]]
    return Samples(
        x=torch.cat([part.x for part in parts]),
        t=np.concatenate([part.t for part in parts]),
        status=np.concatenate([part.status for part in parts]),
        log=StepLog.joined([part.log for part in parts]),
        settings=settings,
        seconds=max(part.seconds for part in parts),
        trajectory=torch.cat(paths, dim=1) if paths else None,
        failure=next((part.failure for part in parts if part.failure), ""),
    )


def add_times(log: StepLog, dynamics: ProbabilityFlow | ReverseSDE) -> None:
    """Where each attempt starts and ends, in t, and the noise there."""
    start = dynamics.time(torch.from_numpy(log.t))
    end = dynamics.time(torch.from_numpy(log.t + log.dt))
    sde = dynamics.chart.sde
    log.extra |= {
        "time": start.numpy(),
        "time_end": end.numpy(),
        "sigma": sde.sigma(start).numpy(),
        "log_snr": sde.log_snr(start).numpy(),
        "sigma_end": sde.sigma(end).numpy(),
        "log_snr_end": sde.log_snr(end).numpy(),
    }
