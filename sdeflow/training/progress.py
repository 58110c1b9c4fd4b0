"""The progress bar: steps, steps/s, loss and time left, on stderr, where that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

__all__ = ["ProgressBar"]

INTERVAL = 0.25  # seconds between redraws: each costs about a millisecond


class ProgressBar:
    """A rich progress bar, or nothing.

    Args:
        total: steps of the whole run.
        done: steps taken before.
        show: None shows it when stderr is a terminal.
    """

    def __init__(self, total: int, done: int = 0, show: bool | None = None) -> None:
        self._bar = None
        self._drawn = self._started = time.perf_counter()
        self._done = done
        if not (sys.stderr.isatty() if show is None else show):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[left]} left"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._bar.add_task(
            "", total=total, completed=done, rate=0, loss="-", left="-"
        )

    def __enter__(self) -> ProgressBar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, loss: float, last: bool = False) -> None:
        """Show that `step` steps are done; redraws at most every `INTERVAL` seconds."""
        if not self._bar:
            return
        now = time.perf_counter()
        if now - self._drawn < INTERVAL and not last:
            return
        self._drawn = now
        rate = (step - self._done) / max(now - self._started, 1e-9)
        total = self._bar.tasks[0].total or step
        seconds = round((total - step) / rate) if rate else 0
        left = f"{seconds // 60}:{seconds % 60:02d}"
        self._bar.update(
            self._task, completed=step, rate=rate, loss=f"{loss:.4f}", left=left, refresh=True
        )
