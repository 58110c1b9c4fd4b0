"""What every command has in common: `--json`, `--config FILE`, and how results are printed.

A result goes to stdout, as text or with `--json` as one JSON object; everything else (progress,
remarks, errors) goes to stderr, so that stdout can be piped.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from sdeflow import config
from sdeflow.files import check_place, read_yaml, write_text

__all__ = [
    "batch_option",
    "common",
    "emit",
    "nearest",
    "note",
    "plain",
    "progress_bar",
    "run_argument",
    "single",
    "train_options",
    "write_config",
]

Command = TypeVar("Command", bound=Callable[..., Any])
WIDE = 200  # columns of a table that goes to a file or a pipe
NOT_IN_CONFIG = ("config", "as_json", "help")


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?`, with the known name nearest to `name`, or the list of known names."""
    known = list(names)
    match = config.nearest(name, known)
    return f"; did you mean {match}?" if match else f"; choose from {', '.join(known)}"


def common(function: Command) -> Command:
    """Decorator: adds `--config FILE` and `--json` to a command."""
    function = click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON; all else to stderr."
    )(function)
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        metavar="FILE",
        help="YAML file with values for these options; what is given here wins over the file.",
    )(function)


def batch_option(function: Command) -> Command:
    """Decorator: adds `--batch-size`, of whatever integrates samples (`sdeflow.batches`)."""
    return click.option(
        "--batch-size",
        type=int,
        help="How many at once; changes memory and speed, not the result. [unit: samples; "
        "default: as many as have 2^18 numbers in all, at least 16]",
    )(function)


def single(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> str | None:
    """Callback of what may be written several times only to be refused with a reason."""
    if len(given) > 1:
        name = "RUN" if isinstance(param, click.Argument) else param.opts[0]
        raise click.UsageError(
            f"{name} is {' and '.join(given)}: {ctx.info_name} takes one at a time; `sdeflow "
            "lipschitz` and `sdeflow evaluate` compare several runs"
        )
    return given[0] if given else None


def run_argument(function: Command) -> Command:
    """Decorator: adds RUN, one or none."""
    return click.argument("run", nargs=-1, metavar="[RUN]", callback=single)(function)


def output_options(default: str, figures: str | None = "figures") -> Callable[[Command], Command]:
    """Decorator: adds `--out DIR` and, where there are figures, `--svg`.

    Args:
        default: the directory that is taken without `--out`.
        figures: what `--svg` writes as SVG, too; None for no such option.
    """

    def decorate(function: Command) -> Command:
        if figures is not None:
            function = click.option(
                "--svg", is_flag=True, help=f"Write the {figures} as SVG, too."
            )(function)
        return click.option(
            "--out",
            type=click.Path(path_type=Path),
            metavar="DIR",
            callback=_check_out,
            help=f"Where to write: a directory that is new, empty, or of earlier results, which "
            f"are replaced. [default: {default}]",
        )(function)

    return decorate


def _check_out(ctx: click.Context, param: click.Parameter, out: Path | None) -> Path | None:
    if out is not None:
        try:
            check_place(out)
        except ValueError as error:
            raise click.UsageError(f"--out {error}") from None
    return out


def _help(option: config.Option, trained: bool) -> str:
    """Help of one option: what it is, its unit, its default."""
    if trained:
        default = "as the run was trained"
    elif option.default is None:
        default = option.auto
    elif isinstance(option.default, bool):
        default = "yes" if option.default else "no"
    else:
        default = str(option.default)
    parts = [f"unit: {option.unit}"] if option.unit else []
    return f"{option.help} [{'; '.join([*parts, f'default: {default}'])}]"


def train_options(
    names: Sequence[str] = (), *, trained: bool = False
) -> Callable[[Command], Command]:
    """Decorator: adds a click option for each field of `TrainConfig`, or for `names` alone.

    With `trained` the options change a run that exists: they are None unless given.
    """

    def add(function: Command) -> Command:
        chosen = [o for o in config.options() if not names or o.name in names]
        for option in reversed(chosen):
            flag = option.name.replace("_", "-")
            switch = f"--{flag}/--no-{flag}" if option.type is bool else f"--{flag}"
            kind = click.Choice(option.choices) if option.choices else option.type
            function = click.option(
                switch,
                option.name,
                type=None if option.type is bool else kind,
                default=None if trained else option.default,
                help=_help(option, trained),
            )(function)
        return function

    return add


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = read_yaml(path) or {}
    except ValueError as error:
        raise click.UsageError(f"--config {error}") from None
    if not isinstance(values, dict):
        raise click.UsageError(f"--config {path} is no mapping: write lines of `option: value`")
    known = {p.name: p for p in ctx.command.params if p.name and p.name not in NOT_IN_CONFIG}
    defaults: dict[str, str | list[str]] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise click.UsageError(f"--config {path}: unknown key {key!r}{nearest(name, known)}")
        if value is None:  # as if the option were not given
            continue
        many = getattr(known[name], "multiple", False) or known[name].nargs != 1
        values = value if many and isinstance(value, list) else [value]
        if any(item is None or isinstance(item, (dict, list, set)) for item in values):
            what = "a value or a list of values" if many else "one value"
            raise click.UsageError(f"--config {path}: {key} must be {what}")
        # As text, values are read as those of a command line are, with the same messages.
        defaults[name] = [str(item) for item in values] if many else str(value)
    ctx.default_map = defaults


def write_config(path: Path, values: Mapping[str, Any]) -> Path:
    """Write option values as the YAML file with which `--config` repeats the command."""
    import yaml

    return write_text(path, yaml.safe_dump(plain(values), sort_keys=False))


def plain(value: Any) -> Any:
    """`value` in JSON's types: arrays as lists, paths as text, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and torch, scalars and arrays alike
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def emit(result: Any, as_json: bool, text: Any) -> None:
    """Print a result: with `--json` as JSON on stdout and `text` on stderr, else `text` on stdout.

    `text` is a string or anything rich can print.
    """
    from rich.console import Console

    if as_json:
        click.echo(json.dumps(plain(result), indent=2, allow_nan=False))
    console = Console(stderr=as_json, highlight=False, soft_wrap=isinstance(text, str))
    if not console.is_terminal:
        console.width = WIDE
    console.print(text, markup=False) if isinstance(text, str) else console.print(text)


@contextmanager
def progress_bar(what: str, show: bool = True) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal: call what it gives with the share done."""
    # Not a disabled bar: older versions of rich end it with an empty line all the same.
    if not (show and sys.stderr.isatty()):
        yield lambda share: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn(what),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def note(message: str) -> None:
    """A remark for the reader, on stderr."""
    click.echo(message, err=True)
