"""What the instruments measure: a run, an exact model, or any module from elsewhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.options import note
from sdeflow.config import TrainConfig

if TYPE_CHECKING:
    from sdeflow.denoiser import Predictor
    from sdeflow.run import Run

__all__ = ["PROCESS", "exact_model", "foreign_model", "only_with", "run_model"]

PROCESS = (
    "sde",
    "schedule",
    "smooth_start",
    "etsdm",
    "etsdm_threshold",
    "etsdm_intervals",
    "etsdm_edges",
    "etsdm_at",
)


def only_with(ctx: click.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that were given where they mean nothing.

    A configuration file lists all options: there, only a value other than the default counts.
    """
    sources = click.core.ParameterSource
    defaults = {p.name: p.default for p in ctx.command.params}
    for name in names:
        source = ctx.get_parameter_source(name)
        listed = source is sources.DEFAULT_MAP and ctx.params[name] == defaults[name]
        if source is not sources.DEFAULT and not listed:
            raise click.UsageError(f"--{name.replace('_', '-')} {why}")


def run_model(ctx: click.Context, run: str | None, device: str) -> Run:
    """The run's model on the device; a run brings its own process."""
    from sdeflow.run import latest_run, load_run
    from sdeflow.training.plan import device_of

    only_with(ctx, (*PROCESS, "shared"), "belongs to --oracle: a run has a process of its own")
    loaded = load_run(run or latest_run(), warn=note)
    loaded.denoiser.to(device_of(device))
    return loaded


def exact_model(spec: str, values: dict[str, Any]) -> tuple[Predictor, str]:
    """The oracle, sharing time if asked to, and what it is."""
    from sdeflow.build import build_conditioning, build_sde
    from sdeflow.conditioning import ETSDM
    from sdeflow.oracle import make_oracle
    from sdeflow.report import describe_process
    from sdeflow.shared_time import SharedTime, Told

    process = TrainConfig.from_dict({name: values[name] for name in PROCESS})
    sde = build_sde(process)
    oracle = make_oracle(spec, sde)
    about = f"{spec}, exact, {describe_process(process)}"
    conditioning = build_conditioning(process, sde)
    if not isinstance(conditioning, ETSDM):
        return oracle, about
    about += f", time shared in {process.etsdm_intervals} intervals ({values['shared']})"
    if values["shared"] == "plug-in":
        return Told(oracle, conditioning), about
    return SharedTime(oracle, conditioning), about


def foreign_model(spec: str, config: TrainConfig, device: str) -> tuple[Predictor, str]:
    """The model that `package.module:factory` makes, and what it is.

    The factory takes nothing and gives a `torch.nn.Module` F(x, c), which gets the process, the
    condition and the prediction of `config`, or a `sdeflow.denoiser.Predictor`, used as it is.
    Modules are looked for in the working directory, too.

    Raises:
        ValueError: there is no such factory, it fails, or gives something else.
    """
    from torch import nn

    from sdeflow.build import build_conditioning, build_sde
    from sdeflow.denoiser import Denoiser, Predictor
    from sdeflow.report import describe_process
    from sdeflow.training.plan import device_of

    place, _, name = spec.partition(":")
    if not (place and name):
        raise ValueError(f"--model {spec}: write package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model {spec}: {error}") from error
    try:
        made = factory()
    except Exception as error:  # whatever a stranger's code raises is bad input to us
        raise ValueError(f"--model {spec}: {type(error).__name__}: {error}") from error
    if isinstance(made, Predictor):
        if isinstance(made, nn.Module):
            made.requires_grad_(False).eval().to(device_of(device))
        return made, spec
    if not isinstance(made, nn.Module):
        raise ValueError(f"--model {spec}: gives a {type(made).__name__}, not a torch.nn.Module")
    sde = build_sde(config)
    model = Denoiser(made, sde, build_conditioning(config, sde), config.predict)
    model.requires_grad_(False).eval().to(device_of(device))
    return model, f"{spec}, {describe_process(config)}, predicts {config.predict}"
