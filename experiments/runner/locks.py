"""A lock per job, on a file that outlives it.

The kernel holds the lock (flock) for as long as the process lives: one that is killed, at whatever
moment, leaves nothing to clean up, and no clock decides whether a lock is stale. The file itself
says who has it, for people. Network file systems must pass flock on to their server, as NFSv4 and
Lustre (mounted with `flock`) do.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked"]


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Try to take a lock; gives whether it was free. Held until the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()} since {time.ctime()}\n")
        file.flush()
        yield True
