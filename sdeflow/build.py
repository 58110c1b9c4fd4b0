"""From settings to objects: the process, the conditioning, the network, the denoiser."""

from __future__ import annotations

import json

from torch import nn

from .conditioning import Conditioning, make_conditioning, read_edges, read_steepness
from .config import TrainConfig, shape_name
from .denoiser import Denoiser
from .networks import make_network
from .sde import SDE, make_sde

__all__ = [
    "build_conditioning",
    "build_denoiser",
    "build_network",
    "build_sde",
    "tables",
    "written_out",
]


def tables(config: TrainConfig) -> list[str]:
    """The settings that are tables, in a file or written out."""
    found = {"etsdm_edges": config.lists_edges, "smooth_shape": shape_name(config) == "equalised"}
    return [name for name, is_table in found.items() if is_table]


def written_out(config: TrainConfig) -> TrainConfig:
    """The same settings with tables as JSON in place of their files, which may not be there later.

    Raises:
        ValueError: a file is missing or holds something else.
    """
    readers = {"etsdm_edges": read_edges, "smooth_shape": read_steepness}
    return config.replace(
        {name: json.dumps(readers[name](getattr(config, name))) for name in tables(config)}
    )


def build_sde(config: TrainConfig) -> SDE:
    """The forward process."""
    return make_sde(
        config.sde,
        schedule=config.schedule,
        smooth_start=config.smooth_start,
        sigma_floor=config.sigma_floor,
    )


def build_conditioning(config: TrainConfig, sde: SDE) -> Conditioning:
    """What the network is told of t.

    Raises:
        ValueError: thresholds or edges out of range, or a condition that would be infinite.
    """
    return make_conditioning(
        sde,
        condition=config.condition,
        smooth_scale=config.smooth_scale,
        smooth_shape=config.smooth_shape,
        etsdm=config.etsdm,
        etsdm_threshold=config.etsdm_threshold,
        etsdm_intervals=config.etsdm_intervals,
        etsdm_edges=config.etsdm_edges,
        etsdm_at=config.etsdm_at,
        shared_noise=config.shared_noise,
        t_min=config.t_min,
    )


def build_network(
    config: TrainConfig, data_shape: tuple[int, ...], num_classes: int = 0
) -> nn.Module:
    """The network for samples of shape `data_shape`; its weights come from torch's generator.

    Raises:
        ValueError: the network does not suit the data.
    """
    return make_network(
        config.network,
        config.size,
        data_shape=data_shape,
        num_classes=num_classes if config.class_condition else 0,
        condition=config.condition,
        embedding=config.embedding,
        embedding_scale=config.embedding_scale,
        image_channels=data_shape[0] if config.super_resolution else 0,
        checkpointing=config.checkpointing,
    )


def build_denoiser(
    config: TrainConfig,
    data_shape: tuple[int, ...],
    num_classes: int = 0,
    network: nn.Module | None = None,
) -> Denoiser:
    """Network, process and conditioning put together.

    Args:
        config: the settings.
        data_shape: shape of one sample.
        num_classes: classes of the data; 0 for none.
        network: the caller's own, where the settings say so; else one is made, with fresh weights.

    Raises:
        ValueError: as `build_conditioning` and `build_network`; or a network of the caller's own
            is missing, or is given to settings that name another.
    """
    if (network is not None) != (config.network == "own"):
        raise ValueError(
            "network: this run has a network of its own in Python; give it, as in "
            "sdeflow.load_run(run, network=...) or sdeflow.train(config, network=...)"
            if network is None
            else f"network: this run's is {config.network!r}, made by sdeflow; leave yours out"
        )
    sde = build_sde(config)
    conditioning = build_conditioning(config, sde)
    if network is None:
        network = build_network(config, data_shape, num_classes)
    elif config.class_condition and getattr(network, "num_classes", 0) != num_classes:
        raise ValueError(
            f"network: its num_classes is {getattr(network, 'num_classes', None)}, the data have "
            f"{num_classes} classes; set the attribute, and take label {num_classes} for none"
        )
    return Denoiser(network, sde, conditioning, predict=config.predict, scale_input=True)
