"""What a training leaves behind: measurements, checkpoints, pictures, and the same for wandb.

Only the main process has a recorder; the directory is made by `Recorder.open`, no sooner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..config import save_config, settled
from ..files import write_json
from ..tracking import Tracker, start_tracking
from .checkpoint import checkpoint_steps, prune_checkpoints, save_checkpoint
from .diagnostics import Diagnostics
from .heldout import HeldOut, HeldOutLoss
from .journal import Journal
from .learner import Learner, learning_rate
from .plan import Plan
from .preview import Preview

__all__ = ["Recorder"]


class Recorder:
    """Writes the run directory.

    Args:
        plan: the run.
        learner: what is being trained.
        say: told of events, a line at a time.

    Attributes:
        last_loss: mean training loss over the last logged steps, or None.
        seconds: time spent training, resumed runs added up.
    """

    def __init__(self, plan: Plan, learner: Learner, say: Callable[[str], None]) -> None:
        self.plan, self.learner, self.say = plan, learner, say
        self.config, self.directory = plan.config, plan.directory
        self.last_loss: float | None = None
        self.best: float | None = None
        self.best_step = 0
        self.seconds = 0.0
        self.tracker = Tracker()
        if plan.checkpoint:
            state = plan.checkpoint.state
            self.last_loss, self.seconds = state["loss"], state["seconds"]
            self.best, self.best_step = state["best"], state["best_step"]

    def open(self) -> None:
        """Make the run directory and start tracking."""
        dataset, batch_size = self.plan.dataset, settled(self.config.batch_size)
        labels = dataset.heldout_labels if self.config.class_condition else None
        loss, device, seed = self.learner.loss, self.learner.device, self.config.seed
        factor = self.config.super_resolution
        self.heldout = HeldOut(loss, dataset.heldout, labels, device, batch_size, seed, factor)
        self.diagnostics = None
        if self.config.diagnostics:
            breaks = self.learner.denoiser.breaks
            self.diagnostics = Diagnostics(
                loss, dataset.heldout, labels, device, breaks, batch_size, seed
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        save_config(self.config, self.directory / "config.yaml")
        resumed = self.plan.checkpoint
        self.journal = Journal(self.directory, resumed.step if resumed else None)
        self.preview = Preview(self.plan, self.directory / "samples", self.say)
        before = self.journal.values
        self.tracker = start_tracking(
            self.config.wandb,
            self.directory,
            self.directory.name,
            self.config.to_dict(),
            before.get("wandb_id"),
            self.say,
        )
        self.journal.update(
            {
                "format": 1,
                "name": self.directory.name,
                "created": before.get("created", time.time()),
                "status": "running",
                "step": self.learner.step,
                "steps": self.config.steps,
                "data": self.config.data,
                "data_shape": list(self.plan.data_shape),
                "num_classes": dataset.num_classes,
                "parameters": self.plan.parameters,
                "device": str(self.learner.device),
                "processes": self.learner.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "wandb_id": self.tracker.id or before.get("wandb_id"),
                "wandb_mode": self.tracker.mode,
            }
        )

    def close(self, finished: bool) -> None:
        """Write how it ended; end tracking."""
        self.journal.update({"status": "finished" if finished else "stopped"})
        self.journal.close()
        self.tracker.finish(failed=not finished)

    def log(self, loss: float | None, norm: float, rate: float) -> None:
        """Record the training quantities of the steps since the last call.

        Args:
            loss: mean over these steps; None where none was finite.
            norm: of the last gradient.
            rate: steps a second.
        """
        self.last_loss = self.last_loss if loss is None else loss
        metrics = {
            "loss": loss,
            "lr": learning_rate(self.config, self.learner.step - 1),
            "grad_norm": norm,
            "steps_per_second": rate,
            "skipped": self.learner.skipped,
        }
        step = self.learner.step
        self.journal.write({"step": step, **metrics})
        known = {f"train/{name}": value for name, value in metrics.items() if value is not None}
        self.tracker.log(known, step)

    def checkpoint(self, last: bool, evaluate: bool = True) -> None:
        """Evaluate the averaged weights, write a checkpoint, drop older ones, draw samples."""
        result = self.heldout.evaluate(self.learner.average) if evaluate else None
        step = self.learner.step
        # A loss that is not a number compares as false.
        if result and result.loss < (math.inf if self.best is None else self.best):
            self.best, self.best_step = result.loss, step
        path = self._save(result)
        if result:
            self._report(result)
            for name, picture in self.preview.draw(self.learner.average, step, last):
                self.tracker.image(name, picture, step)
        if last:
            names = ("latest", "best") if step == self.best_step else ("latest",)
            self.tracker.checkpoint(path, names)

    def _save(self, result: HeldOutLoss | None) -> Path:
        from ..verify import draw_probe

        root, step = self.directory / "checkpoints", self.learner.step
        state: dict[str, Any] = {
            "config": self.config.to_dict(),
            "data_shape": list(self.plan.data_shape),
            "num_classes": self.plan.dataset.num_classes,
            **self.learner.state(),
            "seconds": self.seconds,
            "loss": self.last_loss,
            "heldout": result.loss if result and math.isfinite(result.loss) else None,
            "best": self.best,
            "best_step": self.best_step,
        }
        tensors = self.learner.tensors()
        probe = draw_probe(self.learner.average, self.plan.data_shape)
        if probe is not None:
            tensors["probe"] = {"x": probe}
        path = save_checkpoint(root, step, tensors, state)
        write_json(root / "latest.json", {"step": step, "path": path.name})
        # Later ones were passed over when this run was resumed: they are damaged.
        steps = [saved for saved in checkpoint_steps(root) if saved <= step]
        if self.best_step in steps:
            best = f"step-{self.best_step:08d}"
            write_json(
                root / "best.json", {"step": self.best_step, "heldout": self.best, "path": best}
            )
        # The one before the latest is what damage to the latest falls back on.
        prune_checkpoints(root, {*steps[-2:], self.best_step})
        self.journal.update({"step": step, "loss": self.last_loss, "seconds": self.seconds})
        return path

    def _report(self, result: HeldOutLoss) -> None:
        edges, step = self.heldout.edges, self.learner.step
        metrics = {"heldout": result.loss, "heldout_bins": result.bins, "bin_edges": edges}
        self.journal.write({"step": step, **metrics})
        self.journal.update({"heldout": result.loss})
        bins = zip(edges, edges[1:], result.bins, strict=False)
        named = {f"heldout/t {low:g} to {high:g}": value for low, high, value in bins}
        self.tracker.log({"heldout/loss": result.loss, **named}, step)
        if self.diagnostics:
            found = self.diagnostics.diagnose(self.learner.denoiser, self.learner.average)
            self.journal.write({"step": step, **self.diagnostics.metrics(found)})
            self.tracker.log(self.diagnostics.named(found), step)
