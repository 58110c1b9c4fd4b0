"""What the instruments measure: a run, an exact model, or any module from elsewhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sdeflow.cli.options import note, run_argument, single, train_options
from sdeflow.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from sdeflow.denoiser import Predictor
    from sdeflow.run import Run

__all__ = [
    "PROCESS",
    "Measured",
    "exact_model",
    "find_measured",
    "foreign_model",
    "measured_options",
    "only_with",
    "run_model",
]

Command = TypeVar("Command", bound=Callable[..., Any])

PROCESS = (
    "sde",
    "schedule",
    "smooth_start",
    "sigma_floor",
    "etsdm",
    "etsdm_threshold",
    "etsdm_intervals",
    "etsdm_edges",
    "etsdm_at",
)
FOREIGN = (
    "condition",
    "smooth_scale",
    "smooth_shape",
    "predict",
    "data",
    "data_dir",
    "image_size",
)


@dataclass(frozen=True)
class Measured:
    """A model to measure, with data to measure it on.

    Attributes:
        model: the model.
        about: what it is, for captions.
        source: which option named it, for `config.yaml`.
        place: where results go by default.
        t_min: smallest time at which it means something.
        x_0: data, (N, ...); None for an exact model, which draws its own.
        label: their classes, or None.
    """

    model: Predictor
    about: str
    source: dict[str, str]
    place: Path
    t_min: float
    x_0: Tensor | None = None
    label: Tensor | None = None

    @property
    def exact(self) -> bool:
        """Whether it is an oracle."""
        return "oracle" in self.source

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one sample; None for an exact model, which knows it."""
        return None if self.x_0 is None else tuple(self.x_0.shape[1:])


def measured_options(several: bool = False) -> Callable[[Command], Command]:
    """Decorator: adds RUN, or RUN... where several can be compared, --oracle, --model and theirs.

    What they name is found by `find_measured`.
    """

    def add(function: Command) -> Command:
        function = click.option(
            "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps. [default: auto]"
        )(function)
        function = train_options((*PROCESS, *FOREIGN))(function)
        function = click.option(
            "--shared",
            type=click.Choice(["ideal", "plug-in"]),
            default="ideal",
            help="What an oracle answers with --etsdm: ideal, the best predictor of the shared "
            "time; plug-in, the exact one asked at the shared time. [default: ideal]",
        )(function)
        function = click.option(
            "--model",
            multiple=True,
            callback=single,
            metavar="MODULE:FACTORY",
            help="In place of RUN, what a function of yours gives: a torch module F(x, c), read "
            "by --sde, --condition and --predict, with --data; runs its code. [default: none]",
        )(function)
        function = click.option(
            "--oracle",
            multiple=True,
            callback=single,
            metavar="SPEC",
            help="An exact model in place of RUN: gaussian, mixture, mixture:width=0.02, finite, "
            "classes. [default: none]",
        )(function)
        if several:
            return click.argument("run", nargs=-1)(function)
        return run_argument(function)

    return add


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
    about += f", time shared in {len(conditioning.edges)} intervals ({values['shared']})"
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

    from sdeflow.build import build_conditioning, build_sde, written_out
    from sdeflow.denoiser import Denoiser, Predictor
    from sdeflow.report import describe
    from sdeflow.training.plan import device_of

    place, _, name = spec.partition(":")
    if not (place and name):
        raise ValueError(f"--model {spec}: write package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        made = getattr(importlib.import_module(place), name)()
    except Exception as error:  # whatever a stranger's code raises is bad input to us
        raise ValueError(f"--model {spec}: {type(error).__name__}: {error}") from error
    if isinstance(made, Predictor):
        if isinstance(made, nn.Module):
            made.requires_grad_(False).eval().to(device_of(device))
        return made, f"{spec}, {config.data}"
    if not isinstance(made, nn.Module):
        raise ValueError(f"--model {spec}: gives a {type(made).__name__}, not a torch.nn.Module")
    sde = build_sde(config)
    model = Denoiser(made, sde, build_conditioning(config, sde), config.predict)
    model.requires_grad_(False).eval().to(device_of(device))
    return model, f"{spec}, {describe(written_out(config))}"


def find_measured(
    ctx: click.Context,
    command: str,
    run: str | None,
    oracle: str | None,
    model: str | None,
    values: dict[str, Any],
) -> Measured:
    """The model that was asked for, by `measured_options`.

    Args:
        ctx: the command's context.
        command: its name, that of the directory of its results.
        run: a run directory; None for the latest, where no other is named.
        oracle: an exact model, or None.
        model: a function that makes a model, or None.
        values: values of the options.
    """
    from sdeflow.data import load_data
    from sdeflow.report import describe

    given = [name for name in (run, oracle, model) if name is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)}: give one of RUN, --oracle and --model")
    written = str(values["etsdm_edges"])
    if written.partition(":")[0] not in ("time", "sigma", "log-snr"):
        only_with(
            ctx, ("etsdm_intervals",), f"beside --etsdm-edges {written}: their number is settled"
        )
    if oracle is not None:
        only_with(ctx, FOREIGN, "belongs to --model: an oracle brings its own")
        made, about = exact_model(oracle, values)
        place = Path(command, oracle.split(":")[0])
        return Measured(made, about, {"oracle": oracle}, place, 1e-8)
    if model is not None:
        only_with(ctx, ("shared",), "belongs to --oracle")
        config = TrainConfig.from_dict({name: values[name] for name in (*PROCESS, *FOREIGN)})
        made, about = foreign_model(model, config, values["device"])
        x_0 = load_data(config.data, config.data_dir, config.image_size).heldout
        _try(made, x_0, model)
        place = Path(command, model.replace(":", "."))
        return Measured(made, about, {"model": model}, place, 1e-5, x_0)
    only_with(ctx, FOREIGN, "belongs to --model: a run brings its own")
    loaded = run_model(ctx, run, values["device"])
    config = loaded.config
    data = load_data(config.data, config.data_dir, config.image_size)
    return Measured(
        loaded.denoiser,
        f"{loaded.path.name}, {loaded.step} steps: {describe(config)}",
        {"run": str(loaded.path)},
        loaded.path / command,
        config.t_min,
        data.heldout,
        data.heldout_labels if config.class_condition else None,
    )


def _try(made: Predictor, x_0: Tensor, spec: str) -> None:
    """Ask a strange model once, so that one that does not fit its data is refused in a line."""
    import torch

    from sdeflow.instruments.derivative import state_of

    dtype, device = state_of(made)
    x = x_0[:2].to(device, dtype)
    shape = tuple(x.shape)
    try:
        with torch.no_grad():
            answer = made.noise(x, 0.5)
    except Exception as error:  # whatever a stranger's code raises is bad input to us
        raise ValueError(
            f"--model {spec}: fails on x of shape {shape} and c of shape (2,), "
            f"{type(error).__name__}: {error}"
        ) from error
    if tuple(answer.shape) != shape:
        raise ValueError(
            f"--model {spec}: answers shape {tuple(answer.shape)} to x of shape {shape}"
        )
