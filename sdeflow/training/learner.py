r"""One optimiser step, and everything it changes.

Step n, for n = 0, 1, ...:

    (x_0, t, eps) = draws(seed, n);   x_t = alpha x_0 + sigma eps
    theta <- AdamW(theta, clip(grad mean_i w(t_i) |eps-hat_i - eps_i|^2 / d))
    ema   <- m ema + (1 - m) theta,   m = min(decay, (1 + k)/(10 + k)) after k updates

so that the average forgets its start in short runs as well. Asked for, a penalty on steepness in
time is added to the loss (`penalty.py`), and each batch has a smallest time of its own
(`truncation.py`). Times, alpha and sigma are float64 on
the host; the network alone runs in reduced precision; loss, gradients, optimiser and average are
float32. A step whose loss or gradient is not finite changes nothing and is counted; one that
makes a weight infinite (no gradient showed it) ends the run before the average sees it.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..config import TrainConfig, settled
from ..denoiser import Denoiser
from ..super_resolution import low_resolution
from .checkpoint import Checkpoint, load_weights, optimizer_tensors, restore_optimizer
from .draws import Draws, seed_of
from .kernels import Kernels, kernels
from .loss import DenoisingLoss, time_bins
from .penalty import GAP, LipschitzPenalty
from .plan import Plan, Tensors, device_of, laws_of_time

__all__ = ["Learner", "ema_decay", "learning_rate"]

BETAS = (0.9, 0.99)  # AdamW's; the second shorter than usual, since runs may be short
PATIENCE = 10  # steps in a row without a finite gradient before giving up


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step`, from 0: linear warm-up, then constant or half a cosine to 0."""
    peak, steps, warmup = settled(config.lr), settled(config.steps), settled(config.warmup)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if config.lr_schedule == "constant":
        return peak
    share = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def ema_decay(decay: float, updates: int) -> float:
    """The decay m of the average at update number `updates`, from 0."""
    return min(decay, (1 + updates) / (10 + updates))


class _Raw(nn.Module):
    """The denoiser's own output as a module's call, which is what data parallelism hooks into."""

    def __init__(self, denoiser: Denoiser, fast: Kernels) -> None:
        super().__init__()
        self.denoiser, self.fast = denoiser, fast

    def forward(
        self, x: Tensor, t: Any, label: Tensor | None = None, image: Tensor | None = None
    ) -> Tensor:
        # t comes as a NumPy array: data parallelism would move a tensor off the host.
        with self.fast():
            return self.denoiser.raw(x, torch.from_numpy(t), label, image)


def _accelerator(config: TrainConfig) -> Accelerator:
    """Processes, device and precision, from the launcher's environment and the settings."""
    # Accelerate keeps one state per process; a second run may want another device or precision.
    # The device is part of what processes share; a process alone may forget that, too.
    alone = PartialState._shared_state.get("num_processes", 1) == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    device = device_of(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    precision = "no" if config.precision == "fp32" else config.precision
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


class Learner:
    """The network being trained, its average, its optimiser and where they stand.

    Args:
        plan: the run.

    Attributes:
        denoiser: the network being trained, with its process and conditioning.
        average: the same with averaged weights, in evaluation mode.
        loss: the training loss.
        step: steps taken, skipped ones included.
        skipped: steps that changed nothing because something was not finite.
    """

    def __init__(self, plan: Plan) -> None:
        config = self.config = plan.config
        self.dataset = plan.dataset
        self.batch_size, self.decay = settled(config.batch_size), settled(config.ema)
        self.accelerator = _accelerator(config)
        self.device: torch.device = self.accelerator.device
        self.denoiser = plan.denoiser.to(self.device).train()
        fast = kernels(self.denoiser.network, self.device, config.precision)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False).eval()
        self.sde = self.denoiser.sde
        law, truncation = laws_of_time(config, self.denoiser)
        self.loss = DenoisingLoss(config.predict, config.weighting, law)
        self.penalty = None
        if config.lipschitz_weight:
            self.penalty = LipschitzPenalty(
                self.denoiser, config.lipschitz_weight, settled(config.lipschitz_below)
            )
        self.draws = Draws(
            config.seed,
            len(self.dataset.train),
            self.batch_size,
            law,
            config.label_dropout,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            truncation,
        )
        self.labels = self.dataset.train_labels if config.class_condition else None
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
        self.step = self.updates = self.skipped = self.bad = 0
        if plan.checkpoint:
            self._restore(plan.checkpoint, plan.tensors, optimizer)
        self.model, self.optimizer = self.accelerator.prepare(_Raw(self.denoiser, fast), optimizer)
        self.weights = list(self.denoiser.parameters())
        self._averages = list(self.average.parameters())

    def tensors(self) -> Tensors:
        """What a checkpoint holds of the networks and the optimiser."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return {
            "model": self.denoiser.network.state_dict(),
            "ema": self.average.network.state_dict(),
            "optimizer": optimizer_tensors(optimizer),
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides, as plain values."""
        scaler = self.accelerator.scaler
        return {
            "updates": self.updates,
            "skipped": self.skipped,
            "bad": self.bad,
            "scaler": scaler.state_dict() if scaler else None,
        }

    def _restore(
        self, checkpoint: Checkpoint, tensors: Tensors, optimizer: torch.optim.Optimizer
    ) -> None:
        state = checkpoint.state
        try:
            load_weights(self.denoiser.network, tensors["model"])
            load_weights(self.average.network, tensors["ema"])
            restore_optimizer(optimizer, tensors["optimizer"])
            self.step, self.updates = checkpoint.step, int(state["updates"])
            self.skipped, self.bad = int(state["skipped"]), int(state["bad"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{checkpoint.path} cannot be resumed: {reason}") from None
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.device)
        return bool(self.accelerator.reduce(flags, "sum").item())

    def mean(self, losses: list[float]) -> float | None:
        """Mean over all processes of what `advance` returned in some steps; None without any.

        Every process must call it.
        """
        size = self.draws.last - self.draws.first
        total, count = sum(losses) * size, len(losses) * size
        if self.accelerator.num_processes > 1:
            sums = torch.tensor([total, count], device=self.device)
            total, count = self.accelerator.reduce(sums, "sum").tolist()
        return total / count if count else None

    def losses(self, step: int) -> tuple[Tensor, Tensor]:
        """Loss of each of this process's samples in step `step`, and their times; both (b,)."""
        batch = self.draws.batch(step)
        x_0 = self.dataset.train[batch.index]
        if self.config.flips:
            x_0 = torch.where(batch.flip.view(-1, *[1] * (x_0.dim() - 1)), x_0.flip(-1), x_0)
        x_0 = x_0.to(self.device, non_blocking=True)
        label = None
        if self.labels is not None:
            null = self.dataset.num_classes
            label = torch.where(batch.drop, null, self.labels[batch.index]).to(self.device)
        factor = self.config.super_resolution
        image = low_resolution(x_0, factor) if factor else None
        noise = self.draws.noise(step, tuple(x_0.shape[1:]), self.device)
        if self._dropout:
            torch.manual_seed(seed_of(self.config.seed, "dropout", step, self.draws.first))
        x, t = self.sde.perturb(x_0, batch.t, noise), batch.t
        # What the penalty asks besides goes into the same call: one forward pass, whoever trains.
        early = torch.empty(0, dtype=torch.int64) if self.penalty is None else self.penalty.rows(t)
        rows = early.to(self.device)
        if len(rows):
            x, t = torch.cat([x, x[rows]]), torch.cat([t, t[early] + GAP])
            label = None if label is None else torch.cat([label, label[rows]])
            image = None if image is None else torch.cat([image, image[rows]])
        output = self.model(x, t.numpy(), label, image)
        output, later = output[: len(x_0)], output[len(x_0) :]
        losses = batch.kept * self.loss(output, x_0, noise, batch.t)
        if self.penalty is not None and len(rows):
            penalty = self.penalty(x[len(x_0) :], batch.t[early], output[rows], later)
            losses = losses.index_add(0, rows, penalty)
        return losses, batch.t

    def advance(self) -> tuple[float, float]:
        """One step; returns the mean loss of this process's samples and the gradient's norm.

        Raises:
            FloatingPointError: no finite gradient for `PATIENCE` steps in a row, or a weight that
                is no longer finite.
        """
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
        self.step += 1
        if self.any(not (math.isfinite(norm) and math.isfinite(loss))):
            self._skip(losses.detach(), t)
        else:
            self.optimizer.step()
            self._check_weights()
            average = get_ema_multi_avg_fn(ema_decay(self.decay, self.updates))  # type: ignore[no-untyped-call]
            average(self._averages, self.weights, self.updates)
            self.updates, self.bad = self.updates + 1, 0
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def _check_weights(self) -> None:
        norms = torch.stack(torch._foreach_norm([weight.detach() for weight in self.weights]))
        # A norm overflows before its elements do: only then is it worth looking at each.
        if not bool(torch.isfinite(norms.sum())) and not all(
            bool(torch.isfinite(weight).all()) for weight in self.weights
        ):
            raise FloatingPointError(
                f"step {self.step} made a weight infinite, from a finite gradient"
            )

    def _skip(self, losses: Tensor, t: Tensor) -> None:
        self.skipped, self.bad = self.skipped + 1, self.bad + 1
        if self.accelerator.scaler is not None:
            self.optimizer.step()  # the fp16 scaler leaves the weights alone and lowers its scale
        if self.bad < PATIENCE:
            return
        edges = time_bins(self.loss.time.t_min, self.loss.time.t_max)
        inner = torch.tensor(edges[1:-1], dtype=torch.float64)
        bins = torch.bucketize(t[~torch.isfinite(losses.cpu())], inner, right=True)
        counts = torch.bincount(bins, minlength=len(edges) - 1).float().to(self.device)
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts, "sum")
        bad, worst = int(counts.sum()), int(counts.argmax())
        where = "the gradient is not finite, though every loss is"
        if bad:
            where = (
                f"{bad} of the {self.batch_size} samples of that batch, mostly for t in "
                f"[{edges[worst]:g}, {edges[worst + 1]:g})"
            )
        raise FloatingPointError(
            f"loss or gradient not finite {PATIENCE} times in a row, last in the batch of step "
            f"{self.step} (seed {self.config.seed}): {where}"
        )
