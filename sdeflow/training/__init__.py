"""Training a denoiser: `train(config)` and the pieces it is made of.

`plan(config)` works out and checks a run without writing anything; `train(config)` carries it out.
"""

from .checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from .draws import Draws
from .heldout import HeldOut, HeldOutLoss
from .interrupt import TrainingInterrupted
from .journal import read_metrics
from .learner import Learner
from .loss import DenoisingLoss, TimeDistribution, time_bins
from .plan import Plan, plan, resolve
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
