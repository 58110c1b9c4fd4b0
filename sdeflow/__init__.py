"""Continuous-time SDE/ODE research framework for diffusion models near zero noise.

    import sdeflow

    sde = sdeflow.make_sde("vp")
    model = sdeflow.Denoiser(network, sde, sdeflow.ETSDM(sde), predict="noise")
    drawn = sdeflow.sample(model, shape=(1, 28, 28), count=64)
    drawn.x, drawn.log.summary()

Names are imported when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chart import Chart
    from .conditioning import (
        EDM,
        ETSDM,
        EqualisedTime,
        LogSNR,
        NoTime,
        SharedNoise,
        Sigma,
        SmoothTime,
        Time,
    )
    from .config import TrainConfig
    from .data import load_data
    from .denoiser import Denoiser
    from .dynamics import ProbabilityFlow, ReverseSDE
    from .networks import make_network
    from .oracle import FiniteData, Gaussian, Mixture, make_oracle
    from .run import latest_run, list_runs, load_run
    from .sampling import encode, sample
    from .sde import make_sde
    from .shared_time import SharedTime, Told
    from .training import train

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "ETSDM",
    "Chart",
    "Denoiser",
    "EqualisedTime",
    "FiniteData",
    "Gaussian",
    "LogSNR",
    "Mixture",
    "NoTime",
    "ProbabilityFlow",
    "ReverseSDE",
    "SharedNoise",
    "SharedTime",
    "Sigma",
    "SmoothTime",
    "Time",
    "Told",
    "TrainConfig",
    "encode",
    "latest_run",
    "list_runs",
    "load_data",
    "load_run",
    "make_network",
    "make_oracle",
    "make_sde",
    "sample",
    "train",
]

_HOME = {
    "chart": ("Chart",),
    "conditioning": (
        "EDM",
        "ETSDM",
        "EqualisedTime",
        "LogSNR",
        "NoTime",
        "SharedNoise",
        "Sigma",
        "SmoothTime",
        "Time",
    ),
    "config": ("TrainConfig",),
    "data": ("load_data",),
    "denoiser": ("Denoiser",),
    "dynamics": ("ProbabilityFlow", "ReverseSDE"),
    "networks": ("make_network",),
    "oracle": ("FiniteData", "Gaussian", "Mixture", "make_oracle"),
    "run": ("latest_run", "list_runs", "load_run"),
    "sampling": ("encode", "sample"),
    "sde": ("make_sde",),
    "shared_time": ("SharedTime", "Told"),
    "training": ("train",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
