"""Faults of a file system, made on purpose: every change under a directory can be the last.

Python announces each opening, renaming, making and removing of a file to audit hooks, before it
happens; a hook that raises takes the operation's place.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAKING = ("open", "os.mkdir", "os.rename")
REMOVING = ("os.remove", "os.rmdir")
SIGNALS = {
    "killed": (signal.SIGKILL,),
    "asked to end": (signal.SIGTERM,),
    "interrupted": (signal.SIGINT,),
    "interrupted twice": (signal.SIGINT, signal.SIGINT),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """The process is dead: from here on nothing on the disk changes, not even by cleaning up."""


class Fault:
    """Lets `at` changes happen under `root`, then fails.

    Args:
        root: only changes below it count.
        at: how many are let through; None for all.
        kind: "full", nothing new can be made (OSError), old things can be removed; "dead", nothing
            changes any more (Killed); or one of SIGNALS, sent to this process at that change.

    Attributes:
        changes: how many there were.
    """

    def __init__(self, root: Path, at: int | None = None, kind: str = "full") -> None:
        self.root, self.at, self.kind, self.changes = str(root), at, kind, 0

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        """An operation is about to happen."""
        making = event in MAKING and not (event == "open" and not _writes(args))
        if (not making and event not in REMOVING) or not self._below(event, args):
            return
        self.changes += 1
        if self.at is None or self.changes <= self.at:
            return
        if self.kind in SIGNALS:
            for number in SIGNALS[self.kind] if self.changes == self.at + 1 else ():
                os.kill(os.getpid(), number)
            return
        if self.kind == "dead":
            raise Killed
        if making:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(args[0]))

    def _below(self, event: str, args: tuple[Any, ...]) -> bool:
        path = args[0]
        if isinstance(path, int):
            return False
        name = os.fsdecode(path)
        inside = event in REMOVING and not os.path.isabs(name)  # shutil.rmtree names entries so
        return inside or name.startswith(self.root)


def _writes(args: tuple[Any, ...]) -> bool:
    mode, flags = args[1], args[2]
    by_mode = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    return by_mode or bool(isinstance(flags, int) and flags & WRITES)


_active: list[Fault] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _active and (event in MAKING or event in REMOVING):
        _active[-1].see(event, args)


@contextmanager
def injected(fault: Fault) -> Iterator[Fault]:
    """Put a fault in place."""
    if not getattr(sys, "_sdeflow_faults", False):  # a hook stays for the life of the process
        sys.addaudithook(_hook)
        sys._sdeflow_faults = True  # type: ignore[attr-defined]
    _active.append(fault)
    try:
        yield fault
    finally:
        _active.remove(fault)


@contextmanager
def quota(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: the kernel cuts the write there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def forked(work: Callable[[], object]) -> int:
    """Do something in a copy of this process; its exit code, or minus the signal that ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work()
            code = 0
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # nothing of the test that called is run a second time
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
