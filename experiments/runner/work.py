"""Doing one job: a training through the library, or an evaluation of a finished one."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

import sdeflow
from sdeflow.training import train

from .evaluators import evaluate, version_of
from .jobs import Job, write_result
from .spec import keyed, resolved

__all__ = ["do"]

SAVES = 5  # checkpoints in a training: what a kill can cost is a fifth of it
LINES = 60  # of the loss curve that are kept


def do(job: Job, runs: Path) -> dict[str, Any]:
    """Do a job and put its result in its place.

    Raises:
        KeyboardInterrupt: a training was asked to stop; it goes on from there the next time.
        Exception: whatever the library raises; nothing is written then.
    """
    began, worked = time.perf_counter(), time.process_time()
    found = _train(job) if job.evaluation is None else _evaluate(job, runs)
    result = {
        "key": job.key,
        "config": keyed(job.subject.config),
        **found,
        "seconds": time.perf_counter() - began,
        "core_seconds": time.process_time() - worked,
        "versions": {"sdeflow": sdeflow.__version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
    }
    write_result(job.directory, result)
    return result


def _train(job: Job) -> dict[str, Any]:
    """Train, or go on with what a kill has left."""
    config = resolved(job.subject.config)
    steps = config.steps or 1
    run = train(
        dataclasses.replace(
            config,
            out=str(job.directory),
            name="run",
            resume="auto",
            wandb="disabled",
            checkpoint_every=job.subject.config.checkpoint_every or max(1, -(-steps // SAVES)),
        ),
        progress=None,
    )
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    thin = losses[:: max(1, len(losses) // LINES)]
    held = [line for line in lines if "heldout" in line]
    record = json.loads((run.path / "run.json").read_text())
    return {
        "kind": "train",
        "values": {
            "steps": run.step,
            "parameters": sum(weight.numel() for weight in run.denoiser.parameters()),
            "training_seconds": record["seconds"],
            "loss_step": [line["step"] for line in thin],
            "loss": [line["loss"] for line in thin],
            "gradient_norm": [line["grad_norm"] for line in thin],
            "heldout_step": [line["step"] for line in held],
            "heldout": [line["heldout"] for line in held],
            "bin_edges": held[-1]["bin_edges"],
            "heldout_bins": held[-1]["heldout_bins"],
        },
    }


def _evaluate(job: Job, runs: Path) -> dict[str, Any]:
    """Measure a model."""
    from .evaluators.measured import measured

    assert job.evaluation is not None
    run = None if job.needs is None else job.needs / "run"
    of = measured(job.subject, run, runs)
    kind, settings = job.evaluation.kind, dict(job.evaluation.settings)
    return {
        "kind": kind,
        "version": version_of(kind),
        "settings": settings,
        "values": evaluate(kind, of, settings),
    }
