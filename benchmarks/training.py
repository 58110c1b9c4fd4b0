"""A training step: images per second and core, beside diffusers on the same work.

The work is one step on 64 images of 28 x 28: draw a batch, noise it, forward, backward, clip the
gradient, AdamW, and the moving average of the weights. Contestants:

    usual        diffusers' UNet2DModel of 1.11 M weights in its usual loop: fp32, AdamW (foreach),
                 EMAModel
    tuned        the same network in the best loops known to us by hand: bf16 autocast, written-out
                 attention, fused AdamW, `_foreach_lerp_`; once with contiguous feature maps and
                 once with channels-last ones and group norms of contiguous maps
    same net     the same network in `sdeflow train`'s loop at its defaults
    small        sdeflow's own `small` U-Net in the same loop

Each runs in a process of its own on one thread, and they take turns, a step at a time. Time is
that of the processor, so that others on the machine disturb less. The figure is the median of the
rounds, the spread their middle half, and ratios are of medians.

    python benchmarks/training.py [--peers] [--json] [--rounds N]

The overhead is the share of a `small` step outside forward, backward and optimiser.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH, PIXELS, WARM = 64, 28, 2
OURS = ("small",)
PEERS = ("usual", "tuned, contiguous", "tuned, channels-last", "same net")


def unet(seed: int = 0) -> Any:
    """diffusers' U-Net at 1.11 M weights."""
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=PIXELS,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


def told(network: Any) -> Any:
    """diffusers' network as F(x, c): c in [0, 1] as the index of a thousand steps."""
    import torch

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.network(x, 1000 * c).sample
            return out

    return Told()


def usual() -> Callable[[], None]:
    """diffusers' network in the loop of its training examples."""
    import torch
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    network, noising = unet().train(), DDPMScheduler()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, foreach=True)
    average = EMAModel(network.parameters(), decay=0.9999)
    data = torch.randn(2048, 1, PIXELS, PIXELS)

    def step() -> None:
        x_0 = data[torch.randint(0, len(data), (BATCH,))]
        noise, k = torch.randn_like(x_0), torch.randint(0, 1000, (BATCH,))
        out = network(noising.add_noise(x_0, noise, k), k).sample
        loss = torch.nn.functional.mse_loss(out, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        loss.item()

    return step


def tuned(channels_last: bool) -> Callable[[], None]:
    """diffusers' network in a loop tuned by hand."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from sdeflow.memory import keep_freed_memory

    keep_freed_memory()
    network = unet().train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
    weights = list(network.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    data = torch.randn(2048, 1, PIXELS, PIXELS)

    def step() -> None:
        x_0 = data[torch.randint(0, len(data), (BATCH,))]
        noise, t = torch.randn_like(x_0), torch.rand(BATCH)
        sigma = t.view(-1, 1, 1, 1)
        x = torch.sqrt(1 - sigma**2) * x_0 + sigma * noise
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            out = network(x, 1000 * t).sample
        loss = torch.nn.functional.mse_loss(out.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1e-3)
        loss.item()

    return step


def learner(
    network: Any = None, shape: tuple[int, ...] = (PIXELS, PIXELS), **settings: Any
) -> Any:
    """The loop of `sdeflow train` at its defaults but for `settings`, on noise for images.

    Args:
        network: to be trained; None for our own.
        shape: of an image, (H, W) or (H, W, 3).
        settings: options of `sdeflow train`.
    """
    import torch

    from sdeflow.config import TrainConfig
    from sdeflow.denoiser import Denoiser
    from sdeflow.memory import keep_freed_memory
    from sdeflow.training import Learner, plan

    keep_freed_memory()
    settings = {"size": "small", "batch_size": BATCH, "wandb": "disabled", **settings}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "noise.npz"
        count = max(64, 2048 * PIXELS**2 // int(np.prod(shape)))
        generator = np.random.default_rng(0)
        np.savez(file, generator.integers(0, 255, (count, *shape), dtype=np.uint8))
        planned = plan(TrainConfig(data=f"npz:{file}", **settings))
    if network is not None:
        old = planned.denoiser
        planned = dataclasses.replace(planned, denoiser=Denoiser(network, old.sde))
    torch.manual_seed(0)
    return Learner(planned)


def same_net() -> Callable[[], None]:
    """diffusers' network in our loop."""
    trained = learner(told(unet()))
    return lambda: trained.advance()


def small() -> Callable[[], None]:
    """Our own network in our loop."""
    trained = learner()
    return lambda: trained.advance()


def overhead() -> float:
    """Share of a `small` step that is neither forward, nor backward, nor optimiser."""
    trained = learner()
    inside = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal inside
            began = time.process_time()
            out = function(*args)
            inside += time.process_time() - began
            return out

        return call

    trained.model.forward = timed(trained.model.forward)
    trained.accelerator.backward = timed(trained.accelerator.backward)
    trained.optimizer.step = timed(trained.optimizer.step)
    shares = []
    for _ in range(WARM + 9):
        inside, began = 0.0, time.process_time()
        trained.advance()
        whole = time.process_time() - began
        shares.append(1 - inside / whole)
    return float(np.median(shares[WARM:]))


MAKERS: dict[str, Callable[[], Callable[[], None]]] = {
    "usual": usual,
    "tuned, contiguous": lambda: tuned(False),
    "tuned, channels-last": lambda: tuned(True),
    "same net": same_net,
    "small": small,
}


def work(name: str) -> None:
    """Take a step for every line of stdin; print its seconds."""
    import torch

    torch.set_num_threads(1)
    if name == "overhead":
        print(overhead(), flush=True)
        return
    step = MAKERS[name]()
    for _ in range(WARM):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        step()
        print(time.process_time() - began, flush=True)


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.answer()

    def answer(self) -> str:
        """The next line it prints.

        Raises:
            RuntimeError: it ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} failed; its error is above")
        return line.strip()

    def step(self) -> None:
        """Have it take a step."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.answer()))

    def rates(self) -> list[float]:
        """Images per second: the median and the middle half."""
        return [float(BATCH / np.percentile(self.seconds, q)) for q in (50, 75, 25)]


def measure(names: tuple[str, ...], rounds: int) -> dict[str, list[float]]:
    """Images per second of each contestant: median and middle half."""
    workers = [Worker(name) for name in names]
    for _ in range(rounds):
        for worker in workers:
            worker.step()
    for worker in workers:
        worker.process.communicate()
    return {worker.name: worker.rates() for worker in workers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="diffusers too")
    parser.add_argument("--json", action="store_true", help="the figures as JSON, nothing else")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each (15)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    rates = measure((*PEERS, *OURS) if options.peers else OURS, options.rounds)
    share = float(Worker("overhead").first)
    figures: dict[str, Any] = {
        "images_per_second": {name: round(values[0], 1) for name, values in rates.items()},
        "middle_half": {name: [round(v, 1) for v in r[1:]] for name, r in rates.items()},
        "overhead": round(share, 4),
    }
    if options.peers:
        best = max(rates[name][0] for name in rates if name.startswith("tuned"))
        figures |= {
            "same_net_over_usual": round(rates["same net"][0] / rates["usual"][0], 2),
            "same_net_over_tuned": round(rates["same net"][0] / best, 2),
            "small_over_usual": round(rates["small"][0] / rates["usual"][0], 2),
        }
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{'':24}{'images/s':>9}{'middle half':>18}{'beside usual':>14}")
    for name, (median, low, high) in rates.items():
        beside = f"{median / rates['usual'][0]:.2f}" if options.peers else "-"
        print(f"{name:24}{median:9.1f}{f'{low:.1f} to {high:.1f}':>18}{beside:>14}")
    print(f"outside forward, backward and optimiser: {100 * share:.1f} % of a step of `small`")


if __name__ == "__main__":
    main()
