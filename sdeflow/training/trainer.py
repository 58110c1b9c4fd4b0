r"""The training loop.

Step n, for n = 0, 1, ...:

    (x_0, t, eps) = draws(seed, n);   x_t = alpha x_0 + sigma eps
    theta <- AdamW(theta, clip(grad mean_i w(t_i) |eps-hat_i - eps_i|^2 / d))
    ema   <- m ema + (1 - m) theta,   m = min(decay, (1 + k)/(10 + k)) after k updates

so that the average forgets its start in short runs as well. Times, alpha and sigma are float64 on
the host; the network alone runs in reduced precision; loss, gradients, optimiser and average are
float32. A step whose loss or gradient is not finite changes nothing and is counted.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..config import TrainConfig, save_config
from ..denoiser import Denoiser
from ..run import Run
from ..tracking import Tracker, start_tracking
from .checkpoint import (
    Checkpoint,
    checkpoint_steps,
    optimizer_tensors,
    prune_checkpoints,
    restore_optimizer,
    save_checkpoint,
    write_json,
)
from .draws import Draws, seed_of
from .heldout import HeldOut, HeldOutLoss
from .interrupt import StopRequest, TrainingInterrupted
from .journal import Journal
from .loss import DenoisingLoss, TimeDistribution
from .plan import Plan, Tensors, device_of, plan
from .preview import Preview
from .progress import ProgressBar

__all__ = ["Trainer", "ema_decay", "learning_rate", "train"]

BETAS = (0.9, 0.99)  # AdamW's; the second shorter than usual, since runs may be short
PATIENCE = 10  # steps in a row without a finite gradient before giving up
LINES = 200  # of training metrics in a run


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step`, from 0: linear warm-up, then constant or half a cosine to 0."""
    assert config.lr is not None and config.steps is not None and config.warmup is not None
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    if config.lr_schedule == "constant":
        return config.lr
    share = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def ema_decay(decay: float, updates: int) -> float:
    """The decay m of the average at update number `updates`, from 0."""
    return min(decay, (1 + updates) / (10 + updates))


class _Raw(nn.Module):
    """The denoiser's own output as a module's call, which is what data parallelism hooks into."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, t: Any, label: Tensor | None = None) -> Tensor:
        # t comes as a NumPy array: data parallelism would move a tensor off the host.
        return self.denoiser.raw(x, torch.from_numpy(t), label)


def _accelerator(config: TrainConfig) -> Accelerator:
    """Processes, device and precision, from the launcher's environment and the settings."""
    # Accelerate keeps one state per process; a second run may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=False)
    device = device_of(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    precision = {"fp32": "no"}.get(config.precision, config.precision)
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


class Trainer:
    """Trains what a plan describes.

    Args:
        plan: the run.
        say: told of events, a line at a time.
        progress: whether to show a progress bar; None: when stderr is a terminal.
    """

    def __init__(
        self, plan: Plan, say: Callable[[str], None], progress: bool | None = None
    ) -> None:
        self.config, self.dataset = plan.config, plan.dataset
        config = self.config
        assert config.t_max is not None and config.batch_size is not None
        assert config.steps is not None and config.ema is not None
        self.steps, self.batch_size, self.decay = config.steps, config.batch_size, config.ema
        self.accelerator = _accelerator(config)
        self.device: torch.device = self.accelerator.device
        self.main: bool = self.accelerator.is_main_process
        self.say = say if self.main else (lambda _: None)
        self.progress = progress if self.main else False

        self.denoiser = plan.denoiser.to(self.device)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False).eval()
        self.sde = self.denoiser.sde
        law = TimeDistribution(config.time_distribution, self.sde, config.t_min, config.t_max)
        self.loss = DenoisingLoss(config.predict, config.weighting, law)
        self.draws = Draws(
            config.seed,
            len(self.dataset.train),
            self.batch_size,
            law,
            config.label_dropout,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.labels = self.dataset.train_labels if config.class_condition else None
        heldout_labels = self.dataset.heldout_labels if config.class_condition else None
        self.heldout = HeldOut(
            self.loss,
            self.dataset.heldout,
            heldout_labels,
            self.device,
            self.batch_size,
            config.seed,
        )
        optimizer = torch.optim.AdamW(
            self.denoiser.parameters(),
            lr=learning_rate(config, 0),
            betas=BETAS,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self._dropout = any(
            isinstance(module, nn.Dropout) and module.p > 0 for module in self.denoiser.modules()
        )
        # How far the run has come; all of it is in a checkpoint.
        self.step = self.updates = self.skipped = self.bad = 0
        self.last_loss = self.best = math.inf
        self.best_step = 0
        self.seconds = 0.0
        if plan.checkpoint:
            self._restore(plan.checkpoint, plan.tensors, optimizer)
        self.started = self.step
        self.model, self.optimizer = self.accelerator.prepare(_Raw(self.denoiser), optimizer)
        self.weights = list(self.denoiser.parameters())
        self._averages = list(self.average.parameters())
        self.directory = Path(self._agree(str(plan.directory)))
        self.plan = plan

    def _agree(self, value: str) -> str:
        """The main process's value, in every process."""
        values = [value]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(values)
        return values[0]

    def _restore(
        self, checkpoint: Checkpoint, tensors: Tensors, optimizer: torch.optim.Optimizer
    ) -> None:
        self.denoiser.network.load_state_dict(tensors["model"])
        self.average.network.load_state_dict(tensors["ema"])
        restore_optimizer(optimizer, tensors["optimizer"])
        state = checkpoint.state
        self.step, self.updates = checkpoint.step, state["updates"]
        self.skipped, self.bad = state["skipped"], state["bad"]
        self.seconds = state["seconds"]
        self.last_loss = math.inf if state["loss"] is None else state["loss"]
        if state["best"] is not None:
            self.best, self.best_step = state["best"], state["best_step"]
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    # One step ------------------------------------------------------------------------------------

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Loss of each of this process's samples in step `step`, and their times."""
        batch = self.draws.batch(step)
        x_0 = self.dataset.train[batch.index]
        if self.config.flips:
            x_0 = torch.where(batch.flip.view(-1, *[1] * (x_0.dim() - 1)), x_0.flip(-1), x_0)
        x_0 = x_0.to(self.device, non_blocking=True)
        label = None
        if self.labels is not None:
            null = self.dataset.num_classes
            label = torch.where(batch.drop, null, self.labels[batch.index]).to(self.device)
        noise = self.draws.noise(step, tuple(x_0.shape[1:]), self.device)
        if self._dropout:
            torch.manual_seed(seed_of(self.config.seed, "dropout", step, self.draws.first))
        output = self.model(self.sde.perturb(x_0, batch.t, noise), batch.t.numpy(), label)
        return self.loss(output, x_0, noise, batch.t), batch.t

    def advance(self) -> tuple[float, float]:
        """One step; returns the loss over this process's samples and the norm of the gradient."""
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, t = self.losses(self.step)
        # Data parallelism averages over processes, whose slices may differ in size.
        total = losses.sum() * (self.accelerator.num_processes / self.batch_size)
        self.accelerator.backward(total)
        limit = self.config.clip or math.inf
        norm = float(self.accelerator.clip_grad_norm_(self.weights, limit))
        loss = float(losses.detach().mean())
        if self._any(not (math.isfinite(norm) and math.isfinite(loss))):
            self._skip(losses.detach(), t)
        else:
            self.optimizer.step()
            update = get_ema_multi_avg_fn(ema_decay(self.decay, self.updates))
            update(self._averages, self.weights, self.updates)
            self.updates, self.bad = self.updates + 1, 0
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss, norm

    def _any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.device)
        return bool(self.accelerator.reduce(flags, "sum").item())

    def _skip(self, losses: Tensor, t: Tensor) -> None:
        self.skipped, self.bad = self.skipped + 1, self.bad + 1
        if self.accelerator.scaler is not None:
            self.optimizer.step()  # the fp16 scaler leaves the weights alone and lowers its scale
        if self.bad < PATIENCE:
            return
        worst = t[~torch.isfinite(losses.cpu())]
        where = "the gradient is not finite though the loss is"
        if len(worst):
            edges = torch.tensor(self.heldout.edges[1:-1], dtype=torch.float64)
            index = int(torch.bucketize(worst, edges, right=True).mode().values)
            low, high = self.heldout.edges[index : index + 2]
            where = f"mostly for t in [{low:g}, {high:g})"
        saved = checkpoint_steps(self.directory / "checkpoints")
        last = f"the last checkpoint is step {saved[-1]}" if saved else "there is no checkpoint"
        raise FloatingPointError(
            f"loss or gradient not finite {PATIENCE} times in a row, at step {self.step}, {where}; "
            f"{last}. Lower --lr or --clip, or use --precision fp32"
        )

    # The whole run -------------------------------------------------------------------------------

    def run(self) -> Run:
        """Train to the end.

        Raises:
            TrainingInterrupted: a signal came; a checkpoint has been written.
            FloatingPointError: no finite gradient for `PATIENCE` steps in a row.
        """
        if self.step >= self.steps:
            self.say(f"{self.directory} is at step {self.step} of {self.steps}: nothing to do")
            return self._result()
        self._open()
        failed = True
        try:
            with StopRequest() as stop, ProgressBar(self.steps, self.step, self.progress) as bar:
                self._loop(stop, bar)
            failed = False
            return self._result()
        finally:
            if self.main:
                self.journal.update({"status": "stopped" if failed else "finished"})
                self.journal.close()
            self.tracker.finish(failed)

    def _open(self) -> None:
        """Make the run directory; only the main process writes."""
        self.accelerator.wait_for_everyone()
        self.tracker = Tracker()
        self.preview = Preview(self.plan, self.directory / "samples", self.say)
        if not self.main:
            return
        resumed = self.plan.checkpoint
        self.directory.mkdir(parents=True, exist_ok=True)
        save_config(self.config, self.directory / "config.yaml")
        self.journal = Journal(self.directory, resumed.step if resumed else None)
        self.tracker = start_tracking(
            self.config.wandb,
            self.directory,
            self.directory.name,
            self.config.to_dict(),
            self.journal.values.get("wandb_id"),
            self.say,
        )
        self.journal.update(
            {
                "format": 1,
                "name": self.directory.name,
                "created": self.journal.values.get("created", time.time()),
                "status": "running",
                "step": self.step,
                "steps": self.steps,
                "data": self.config.data,
                "data_shape": list(self.plan.data_shape),
                "num_classes": self.dataset.num_classes,
                "parameters": self.plan.parameters,
                "device": str(self.device),
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "wandb_id": self.tracker.id or self.journal.values.get("wandb_id"),
                "wandb_mode": self.tracker.mode,
            }
        )

    def _loop(self, stop: StopRequest, bar: ProgressBar) -> None:
        assert self.config.checkpoint_every is not None
        every = max(1, self.steps // LINES)
        window: list[float] = []
        clock = opened = time.perf_counter()
        before = self.seconds
        self.denoiser.train()
        while self.step < self.steps:
            loss, norm = self.advance()
            if math.isfinite(loss):
                window.append(loss)
            bar.update(self.step, loss, last=self.step == self.steps)
            stopping = self._any(stop.signal is not None)
            due = self.step % self.config.checkpoint_every == 0 or self.step == self.steps
            if (self.step % every == 0 or due or stopping) and window:
                now = time.perf_counter()
                self.last_loss = sum(window) / len(window)
                self._log(norm, len(window) / (now - clock))
                window, clock = [], now
            if due or stopping:
                self.seconds = before + time.perf_counter() - opened
                self._checkpoint(evaluate=due)
                self.accelerator.wait_for_everyone()
                clock = time.perf_counter()
            if stopping:
                raise TrainingInterrupted(
                    f"stopped at step {self.step} of {self.steps}, checkpoint written; go on with "
                    f"--resume {self.directory}",
                    stop.signal or 0,
                )

    def _log(self, norm: float, rate: float) -> None:
        if not self.main:
            return
        metrics = {
            "loss": self.last_loss,
            "lr": learning_rate(self.config, self.step - 1),
            "grad_norm": norm,
            "steps_per_second": rate,
            "skipped": self.skipped,
        }
        self.journal.write({"step": self.step, **metrics})
        self.tracker.log({f"train/{name}": value for name, value in metrics.items()}, self.step)

    def _checkpoint(self, evaluate: bool) -> None:
        """Evaluate the average where asked, write a checkpoint, drop the older ones."""
        if not self.main:
            return
        result = self.heldout.evaluate(self.average) if evaluate else None
        if result and result.loss < self.best:
            self.best, self.best_step = result.loss, self.step
        path = self._save(result)
        if result:
            self._report(result, path)

    def _save(self, result: HeldOutLoss | None) -> Path:
        root = self.directory / "checkpoints"
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        tensors = {
            "model": self.denoiser.network.state_dict(),
            "ema": self.average.network.state_dict(),
            "optimizer": optimizer_tensors(optimizer),
        }
        state = {
            "config": self.config.to_dict(),
            "data_shape": list(self.plan.data_shape),
            "num_classes": self.dataset.num_classes,
            "updates": self.updates,
            "skipped": self.skipped,
            "bad": self.bad,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "seconds": self.seconds,
            "loss": self.last_loss if math.isfinite(self.last_loss) else None,
            "heldout": result.loss if result and math.isfinite(result.loss) else None,
            "best": self.best if math.isfinite(self.best) else None,
            "best_step": self.best_step,
        }
        path = save_checkpoint(root, self.step, tensors, state)
        write_json(root / "latest.json", {"step": self.step, "path": path.name})
        steps = checkpoint_steps(root)
        if self.best_step in steps:
            best = {"step": self.best_step, "heldout": self.best}
            write_json(root / "best.json", {**best, "path": f"step-{self.best_step:08d}"})
        # The one before the latest is what damage to the latest falls back on.
        prune_checkpoints(root, {*steps[-2:], self.best_step})
        self.journal.update({"step": self.step, "loss": self.last_loss, "seconds": self.seconds})
        return path

    def _report(self, result: HeldOutLoss, path: Path) -> None:
        metrics = {"heldout": result.loss, "heldout_bins": result.bins}
        self.journal.write({"step": self.step, **metrics, "bin_edges": self.heldout.edges})
        self.journal.update({"heldout": result.loss})
        bins = zip(self.heldout.edges, self.heldout.edges[1:], result.bins, strict=False)
        flat = {f"heldout/t {low:g} to {high:g}": value for low, high, value in bins}
        self.tracker.log({"heldout/loss": result.loss, **flat}, self.step)
        last = self.step == self.steps
        for name, picture in self.preview.draw(self.average, self.step, last):
            self.tracker.image(name, picture, self.step)
        if last or self.step == self.best_step:
            names = ("latest", "best") if self.step == self.best_step else ("latest",)
            self.tracker.checkpoint(path, names)

    def _result(self) -> Run:
        return Run(
            path=self.directory,
            config=self.config,
            denoiser=self.average,
            data_shape=self.plan.data_shape,
            num_classes=self.dataset.num_classes,
            step=self.step,
            last_loss=self.last_loss if math.isfinite(self.last_loss) else None,
        )


def train(
    config: TrainConfig,
    *,
    say: Callable[[str], None] | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a denoiser.

    Args:
        config: the settings.
        say: told of what happens, a line at a time; nothing by default.
        progress: whether to show a progress bar on stderr; None: when that is a terminal.

    Returns:
        The finished run, its denoiser with the averaged weights.

    Raises:
        ValueError: bad settings or data, before anything is written.
        TrainingInterrupted: SIGINT or SIGTERM came; a checkpoint has been written.
        FloatingPointError: the training diverged.
    """
    say = say or (lambda _: None)
    return Trainer(plan(config, say), say, progress).run()
