"""A worker: takes the first job that is free and ready, until all are done.

Any number of them may work on one directory, on one machine or several: a job is locked while it
is done (`sdeflow.locks`), and looked at again under the lock, so nothing is done twice. A worker
that is killed loses its lock with its life; its training goes on from the last checkpoint
elsewhere.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from sdeflow.locks import locked

from .estimate import Costs
from .jobs import Job
from .work import do

__all__ = ["work"]

WAIT = 2.0  # seconds between looks, when all that is left is being done elsewhere


def work(jobs: Sequence[Job], runs: Path, say: Callable[[str], None]) -> list[str]:
    """Do all jobs.

    Args:
        jobs: in the order of work.
        runs: the directory they live in.
        say: told of every job, in a line.

    Returns:
        What failed, a line for each; the errors themselves are in failed.json of the jobs.
    """
    failed: dict[Path, str] = {}
    while True:
        left = [job for job in jobs if not job.done and job.directory not in failed]
        # What waits for a training that failed will not be done.
        left = [job for job in left if job.needs not in failed]
        if not left:
            return list(failed.values())
        if not any(_try(job, jobs, runs, say, failed) for job in left if job.ready):
            time.sleep(WAIT)


def _try(
    job: Job,
    jobs: Sequence[Job],
    runs: Path,
    say: Callable[[str], None],
    failed: dict[Path, str],
) -> bool:
    """Do a job unless another worker has it; whether anything was done."""
    with locked(job.directory / "lock") as free:
        if not free or job.done:
            return False
        try:
            result = do(job, runs)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            failed[job.directory] = f"{job.label()}: {reason} ({job.directory})"
            text = json.dumps({"error": reason, "traceback": traceback.format_exc()}, indent=1)
            (job.directory / "failed.json").write_text(text)
            say(f"FAILED {failed[job.directory]}")
            return True
        (job.directory / "failed.json").unlink(missing_ok=True)
    done = sum(other.done for other in jobs)
    left = Costs(runs).left(jobs)
    say(
        f"[{done}/{len(jobs)}] {job.label()} ({', '.join(job.experiments)}): "
        f"{result['seconds']:.0f} s; {left} of one worker left"
    )
    return True
