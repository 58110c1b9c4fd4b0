r"""Keep the memory that a step frees for the next one, and imports away from the collector.

glibc hands blocks of 128 KiB and more back to the system when they are freed, and asks for them
again, page by page and zeroed, when the next tensor is made:

    time of a step = arithmetic + (bytes allocated / page size) x (time of a page fault)

A training step of the `small` U-Net takes 18,000 page faults, a tenth of its time. Two thresholds
of glibc's allocator turn this off for the whole process; the price is that memory, once used, is
returned only when the process ends.

Python's garbage collector looks at all objects again and again as they become more. Importing
torch makes some hundred thousand, none of which is ever garbage: looking at them took a sixth of
the time of a short command.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keep_freed_memory", "permanent"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers for its settings (malloc.h)
NEVER = -1
LARGEST = 2**30  # bytes; blocks beyond are mapped one by one as before
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; call it before tensors are made.

    Returns:
        Whether it was told: not where the C library is another one, nor where the environment
        already sets one of these thresholds.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in VARIABLES):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # An older glibc refuses thresholds above 32 MiB.
    mapped = any(library.mallopt(MMAP_THRESHOLD, size) for size in (LARGEST, 2**25))
    return mapped and bool(library.mallopt(TRIM_THRESHOLD, NEVER))


@contextmanager
def permanent() -> Iterator[None]:
    """For imports: the collector rests meanwhile, and never looks at what there is by then."""
    working = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if working:
            gc.enable()
