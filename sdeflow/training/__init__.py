"""Training a denoiser: `train(config)` and the pieces it is made of.

`plan(config)` works out and checks a run without writing anything; `train(config)` carries it out.
`train` and `Learner` are imported when first used, since reading a checkpoint needs no Accelerate.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from .draws import Draws
from .heldout import HeldOut, HeldOutLoss
from .interrupt import TrainingInterrupted
from .journal import read_metrics
from .loss import DenoisingLoss, TimeDistribution, time_bins
from .plan import Plan, plan, resolve

if TYPE_CHECKING:
    from .learner import Learner
    from .trainer import train

__all__ = [
    "Checkpoint",
    "DenoisingLoss",
    "Draws",
    "HeldOut",
    "HeldOutLoss",
    "Learner",
    "Plan",
    "TimeDistribution",
    "TrainingInterrupted",
    "latest_checkpoint",
    "load_checkpoint",
    "plan",
    "read_metrics",
    "resolve",
    "time_bins",
    "train",
]

_HOME = {"Learner": "learner", "train": "trainer"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
