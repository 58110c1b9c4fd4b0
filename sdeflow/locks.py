"""A lock on a file that outlives it.

The kernel holds the lock (flock) for as long as the process lives: one that is killed, at whatever
moment, leaves nothing to clean up, and no clock decides whether a lock is stale. The file itself
says who has it, for people. Network file systems must pass flock on to their server, as NFSv4 and
Lustre (mounted with `flock`) do.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import open_regular, read_bytes

__all__ = ["abandoned", "holder", "locked"]


@contextmanager
def locked(path: Path, required: bool = True) -> Iterator[bool]:
    """Try to take a lock; gives whether it was free. Held until the end of the block.

    Args:
        path: the file; made where it is missing.
        required: whether a file system that knows no locks is an error; else the lock counts as
            free there.

    Raises:
        OSError: the file cannot be written, or not be locked though that is required.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # a link may lead anywhere
    with open(os.open(path, flags, 0o666), "r+") as file:
        try:
            import fcntl  # not on Windows

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # perhaps by `abandoned`, for a moment
                time.sleep(0.05)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except (ImportError, OSError):
            if required:
                raise
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()} since {time.ctime()}\n")
        file.flush()
        yield True


def abandoned(path: Path) -> bool:
    """Whether nobody holds a lock, its file being left; False where that cannot be told.

    Nothing is written. On file systems that know no locks it cannot be told.
    """
    try:
        import fcntl

        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def holder(path: Path) -> str:
    """Who has, or last had, a lock: host, process and since when."""
    try:
        return " ".join(read_bytes(path).decode(errors="replace").split())[:200]
    except OSError:
        return "unknown"
