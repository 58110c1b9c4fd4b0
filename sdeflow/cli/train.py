"""`sdeflow train`: the options of `TrainConfig`, one flag per field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sdeflow.cli.options import common, emit
from sdeflow.config import Option, TrainConfig, options


def _help(option: Option) -> str:
    """Help of one option: what it is, its unit, its default."""
    if option.default is None:
        default = option.auto
    elif isinstance(option.default, bool):
        default = "yes" if option.default else "no"
    else:
        default = str(option.default)
    parts = [f"unit: {option.unit}"] if option.unit else []
    return f"{option.help} [{'; '.join([*parts, f'default: {default}'])}]"


def _flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: adds a click option for every field of `TrainConfig`."""
    for option in reversed(options()):
        flag = option.name.replace("_", "-")
        switch = f"--{flag}/--no-{flag}" if option.type is bool else f"--{flag}"
        kind = click.Choice(option.choices) if option.choices else option.type
        function = click.option(
            switch,
            option.name,
            type=None if option.type is bool else kind,
            default=option.default,
            help=_help(option),
        )(function)
    return function


@click.command("train")
@_flags
@click.option("--dry-run", is_flag=True, help="Check everything, print the settings, and stop.")
@common
def command(dry_run: bool, as_json: bool, **values: Any) -> None:
    """Train a model; everything about the run goes into one directory under --out."""
    config = TrainConfig.from_dict(values)
    emit(config.to_dict(), as_json, str(config))
