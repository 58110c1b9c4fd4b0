"""Settings of a training run that do not go together, each refused with a remedy.

What one option alone may be is said by `sdeflow.config`; here is what two of them rule out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from .options import flag

if TYPE_CHECKING:
    from .config import TrainConfig

__all__ = ["conflicts"]

_SHARING = ("etsdm_threshold", "etsdm_intervals", "etsdm_edges", "etsdm_at")
_SMOOTH = ("smooth_scale", "smooth_shape")


def conflicts(config: TrainConfig) -> Iterator[str]:
    """A line for each pair of settings that contradict each other; nothing where all is well."""
    if config.weighting in ("score", "score-sigma2") and config.predict != "score":
        yield (
            f"--weighting {config.weighting} is a loss of the score, but --predict is "
            f"{config.predict}: add --predict score, or choose --weighting simple"
        )
    if config.sigma_floor is not None and config.sde not in ("vp", "subvp"):
        yield (
            f"--sigma-floor with --sde {config.sde}: its sigma does not vanish as a square root; "
            "only vp and subvp can have a floor"
        )
    if config.embedding == "table" and config.condition not in ("time", "smooth"):
        yield (
            f"--embedding table has a row per thousandth of [0, 1], and --condition "
            f"{config.condition} lies elsewhere: use --condition time or smooth, or waves"
        )
    if config.embedding == "table" and config.embedding_scale != 1:
        yield (
            f"--embedding-scale {config.embedding_scale:g} is for waves, and --embedding table "
            "has none: leave it out"
        )
    if config.super_resolution and config.diagnostics:
        yield (
            "--diagnostics with --super-resolution: they measure networks that are given x and "
            "the time alone; leave one of them out"
        )
    default = {field.name: field.default for field in fields(config)}
    for names, used, what, remedy in (
        (_SHARING, config.etsdm or config.shared_noise, "E-TSDM", "--etsdm"),
        (_SMOOTH, config.condition == "smooth", "smooth time", "--condition smooth"),
    ):
        for name in names:
            if not used and getattr(config, name) != default[name]:
                yield f"{flag(name)} without {what} does nothing: add {remedy}"
    if config.etsdm and config.condition == "none":
        yield (
            "--etsdm with --condition none does nothing: a network that is not told the time has "
            "none to share; leave one of them out"
        )
    if config.lists_edges and config.etsdm_intervals != default["etsdm_intervals"]:
        yield (
            f"--etsdm-intervals {config.etsdm_intervals} with a list of edges does nothing: the "
            "list has its own number; leave it out, or choose --etsdm-edges time"
        )
    if config.shared_noise:
        for name, there in (
            ("--etsdm", config.etsdm),
            ("--lipschitz-weight", bool(config.lipschitz_weight)),
            ("--soft-truncation", config.soft_truncation is not None),
            ("--weighting likelihood", config.weighting == "likelihood"),
        ):
            if there:
                yield (
                    f"{name} with --shared-noise: the noise has a few levels below the threshold, "
                    "and no density or slope in time; leave one of them out"
                )
    if config.lipschitz_weight and config.condition == "none":
        yield (
            "--lipschitz-weight with --condition none: a network that is not told the time has "
            "no slope in it; leave one of them out"
        )
    if not config.class_condition and config.label_dropout != default["label_dropout"]:
        yield "--label-dropout without --class-condition does nothing: add --class-condition"
    if config.lipschitz_below is not None and not config.lipschitz_weight:
        yield "--lipschitz-below without --lipschitz-weight does nothing: give a weight"
