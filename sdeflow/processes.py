"""Work shared out over processes that a launcher (torchrun, accelerate, srun) started together.

Process r of R takes items floor(r N / R), ..., floor((r + 1) N / R) - 1 of N. A sample depends on
its seed and number alone, so the parts, joined in order, are the set that one process makes. Until
they are joined no process waits for another: an adaptive solver may need more evaluations here
than there. The main process, rank 0, joins the parts, and alone speaks and writes.
"""

from __future__ import annotations

import datetime
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .samples import Samples

__all__ = ["Processes", "local_device", "processes", "sample_together"]

PATIENCE = datetime.timedelta(days=1)  # the fastest process waits for the slowest


@dataclass(frozen=True)
class Processes:
    """The processes that share a piece of work.

    Attributes:
        rank: number of this one.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """This process's share of `total` items."""
        return slice(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def gather(self, part: Any) -> list[Any] | None:
        """What each process gave, in order of rank, on the main one; None on the others.

        Raises:
            ConnectionResetError: a process has ended before it gave its part.
        """
        if self.count == 1:
            return [part]
        from torch import distributed

        parts: list[Any] | None = [None] * self.count if self.main else None
        try:
            distributed.gather_object(part, parts)
        except RuntimeError as error:
            raise ConnectionResetError(
                errno.ECONNRESET, "another process of this command ended", f"process {self.rank}"
            ) from error
        return parts


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that the launcher names in RANK and WORLD_SIZE; alone without it.

    Raises:
        ValueError: the launcher's variables are no numbers, or the others cannot be reached.
    """
    try:
        rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise ValueError(
            "RANK and WORLD_SIZE must be whole numbers, as launchers set them"
        ) from None
    if count == 1:
        yield Processes()
        return
    from torch import distributed

    opened = not distributed.is_initialized()
    if opened:
        try:
            distributed.init_process_group("gloo", timeout=PATIENCE, rank=rank, world_size=count)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"process {rank} of {count} cannot join the others: {' '.join(str(error).split())}"
            ) from error
    try:
        yield Processes(rank, count)
    finally:
        if opened:
            distributed.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """`device`, or this process's own GPU where the launcher gave it one."""
    import torch

    local = os.environ.get("LOCAL_RANK")
    if str(device) != "cuda" or local is None:  # "cuda:1" has been chosen by the user
        return device
    return torch.device("cuda", int(local) % torch.cuda.device_count())


def sample_together(
    group: Processes, count: int, draw: Callable[[slice], Samples]
) -> Samples | None:
    """Samples 0, ..., count - 1, drawn in parts by all processes.

    Args:
        group: the processes; each must call this.
        count: how many samples in all.
        draw: gives the samples of some rows; called once at most, with this process's.

    Returns:
        All of them, on the host, on the main process; None on the others.

    Raises:
        ValueError: no samples asked for, or as `draw`.
        ConnectionResetError: a process has ended.
    """
    from .samples import join_samples

    if count < 1:
        raise ValueError(f"count={count}: need at least 1 sample")

    rows = group.rows(count)
    if group.count == 1:
        return draw(rows)
    mine = draw(rows).to_host() if rows.stop > rows.start else None
    parts: list[Samples | None] | None = group.gather(mine)
    return join_samples([part for part in parts if part is not None]) if parts else None
