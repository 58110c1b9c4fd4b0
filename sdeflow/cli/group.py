"""The `sdeflow` group: commands imported on demand, and one place where errors become exit codes.

| what happened | stderr | exit code |
|---|---|---|
| bad input (`ValueError`, a usage error, an unreadable file) | one line | 2 |
| numerical failure, after what succeeded was saved | one line | 3 |
| interrupted (control-C, or asked to end) | one line | 130 (128 + the signal's number) |
| anything else is a bug in sdeflow | its traceback | 1 |

Setting SDEFLOW_TRACEBACK=1 shows the traceback of the first two as well.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import click

from sdeflow import __version__
from sdeflow.cli.options import nearest
from sdeflow.memory import keep_freed_memory

__all__ = ["CommandGroup", "cli"]

BAD_INPUT, NUMERICAL, SIGNAL = 2, 3, 128


class Interrupted(Exception):
    """A command was stopped from outside; training then says how to go on."""

    def __init__(self, error: KeyboardInterrupt) -> None:
        super().__init__(str(error) or "interrupted")
        self.signal = int(getattr(error, "signal", signal.SIGINT))


class CommandGroup(click.Group):
    """A group whose commands live in modules `sdeflow.cli.NAME`, imported when they are needed."""

    def __init__(self, *args: Any, modules: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.modules = tuple(modules)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.modules:
            return None
        command: click.Command = importlib.import_module(f"sdeflow.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.modules and not args[0].startswith("-"):
            hint = nearest(args[0], self.modules)
            raise click.UsageError(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(error) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        # Threads that wait for others spin by default, which costs a little on a quiet machine and
        # a factor of ten on a busy one. OpenMP reads this when torch is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        keep_freed_memory()
        run = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        if not standalone_mode:
            return run()
        try:
            with _terminable():
                code: Any = run()
        except click.Abort:
            _fail("interrupted", SIGNAL + signal.SIGINT)
        except Interrupted as error:
            _fail(str(error), SIGNAL + error.signal)
        except click.ClickException as error:
            _fail(error.format_message(), BAD_INPUT)
        except ValueError as error:
            _fail(str(error), BAD_INPUT)
        except OSError as error:
            _fail(f"{error.filename or 'file'}: {error.strerror or error}", BAD_INPUT)
        except FloatingPointError as error:
            _fail(str(error), NUMERICAL)
        except RuntimeError as error:
            from solvers import SolverError

            if not isinstance(error, SolverError):
                raise
            _fail(str(error), NUMERICAL)
        sys.exit(code if isinstance(code, int) else 0)


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""

    signal = signal.SIGTERM


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside: SIGTERM ends a command as control-C does, with a line."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise Terminated("terminated")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str, code: int) -> NoReturn:
    if os.environ.get("SDEFLOW_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exc()
    click.echo(f"sdeflow: error: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(
    cls=CommandGroup,
    modules=(
        "train",
        "plan",
        "sample",
        "evaluate",
        "likelihood",
        "solvers",
        "runs",
        "steps",
        "lipschitz",
        "partition",
        "budget",
        "sensitivity",
    ),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="sdeflow")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Diffusion models near zero noise: train, integrate and measure them.

    Two lines to start with: `sdeflow train --sde vp --etsdm`, then `sdeflow sample`.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
