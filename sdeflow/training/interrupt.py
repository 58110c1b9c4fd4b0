"""Leaving in good order: the first SIGINT or SIGTERM asks, the second insists.

A launcher passes a signal on that its processes were sent as well (control-C in a terminal, a
cluster's warning before the end), so one request reaches each of them twice. Under a launcher a
signal within `ECHO` of the first therefore counts as the same request.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopRequest", "TrainingInterrupted"]

ECHO = 2.0  # seconds; torchrun looks at its processes ten times a second


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped at a signal, after a checkpoint; the message says how to go on.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class StopRequest:
    """A context in which SIGINT and SIGTERM, once, only set `signal`; twice, end the process.

    Outside the main thread Python delivers no signals, so there nothing is changed.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._asked = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._asked = number, time.monotonic()
            if "RANK" not in os.environ:
                # From here the kernel acts, at once, even inside a long operation of torch.
                for each in self.SIGNALS:
                    signal.signal(each, signal.SIG_DFL)
        elif time.monotonic() - self._asked > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
