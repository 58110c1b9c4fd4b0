r"""Held-out loss against the number of images seen, for two arms that differ in one thing.

    networks     sdeflow's `small` U-Net beside diffusers' U-Net of as many weights: Fashion-MNIST
                 at 28 x 28, in bf16
    precision    bf16 beside fp32 inside the network: `small` on Fashion-MNIST at 16 x 16

Data, order of the batches, times, noise, loss, optimiser, schedule and seed are the same in both
arms; `sdeflow train`'s loop trains both, at its defaults. The loss is the training objective on
probes that never change, of the weights as they are (no average), evaluated in fp32. A curve that
is in OUT is not computed again, so a run that was stopped goes on where it was.

    python benchmarks/convergence.py STUDY [--steps N] [--seeds 0 1] [--out DIR] [--json]

Writes OUT/STUDY-ARM-lrRATE-SEED.json for every curve, and OUT/convergence-STUDY.png with a CSV.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sdeflow.plots import LINES, STYLE, captioned, save, write_csv

BATCH, POINTS = 64, 15
DEFAULT_RATE = 1e-3
STUDIES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "networks": (
        {"precision": "bf16"},
        {"diffusers": {}, "sdeflow": {"size": "small"}},
    ),
    "precision": (
        {"image_size": 16, "size": "small"},
        {"fp32": {"precision": "fp32"}, "bf16": {"precision": "bf16"}},
    ),
}
"""Settings of both arms, and of each: the one that is compared with first."""

Curve = dict[str, Any]


def curve(study: str, arm: str, steps: int, seed: int, rate: float) -> Curve:
    """Train once; losses at `POINTS` numbers of images."""
    import torch
    from training import told, unet

    from sdeflow.config import TrainConfig
    from sdeflow.denoiser import Denoiser
    from sdeflow.memory import keep_freed_memory
    from sdeflow.training import Learner, plan
    from sdeflow.training.heldout import HeldOut

    keep_freed_memory()
    torch.set_num_threads(1)
    common, arms = STUDIES[study]
    settings = {"data": "fashion-mnist", "steps": steps, "batch_size": BATCH, "seed": seed}
    planned = plan(
        TrainConfig(**settings, lr=rate, device="cpu", wandb="disabled", **common, **arms[arm])
    )
    if arm == "diffusers":
        denoiser = Denoiser(told(unet(seed)), planned.denoiser.sde)
        planned = dataclasses.replace(planned, denoiser=denoiser)
    learner = Learner(planned)
    probes = HeldOut(learner.loss, planned.dataset.heldout, None, learner.device, BATCH)
    found: Curve = {
        "parameters": planned.parameters, "images": [], "training": [], "heldout": [], "bins": [],
        "edges": list(probes.edges),
    }  # fmt: skip
    window = []
    every = steps // POINTS
    for step in range(1, steps + 1):
        window.append(learner.advance()[0])
        if step % every == 0:
            heldout = probes.evaluate(learner.denoiser)
            found["images"].append(step * BATCH)
            found["training"].append(float(np.mean(window)))
            found["heldout"].append(heldout.loss)
            found["bins"].append(list(heldout.bins))
            window = []
            said = f"{study} {arm} seed {seed}: step {step}, held out {heldout.loss:.4f}"
            print(said, file=sys.stderr, flush=True)
    return found


def kept(path: Path, *asked: Any) -> Curve:
    """The curve in a file, or one trained now and written there."""
    if not path.exists():
        text = json.dumps(curve(*asked))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    found: Curve = json.loads(path.read_text())
    return found


def draw(study: str, curves: dict[str, list[Curve]], about: str) -> Figure:
    """Losses of both arms, a line for each seed, and their ratio."""
    reference, other = curves
    seeds = len(curves[reference])
    caption = (
        f"{about}, {seeds} seed{'s' * (seeds > 1)}, the same batches, times and noise in both "
        "arms. Held-out loss of the weights as they are, on probes that never change, in fp32. "
        f"Right: below 1, {other} is ahead after the same number of images"
        + ("; a line for each seed, in black the ratio of the means" if seeds > 1 else "")
        + ". The first points may lie outside."
    )
    with rc_context(STYLE):
        figure, bottom = captioned(8.4, 3.3, caption)
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.08, right=0.985, top=0.94, bottom=bottom + 0.13, wspace=0.22)
        for index, (arm, found) in enumerate(curves.items()):
            colour, dash = LINES[index]
            images = np.array(found[0]["images"]) / 1000
            losses = np.array([one["heldout"] for one in found])
            name = f"{arm}, {found[0]['parameters'] / 1e6:.2f} M weights"
            left.plot(images, losses.mean(0), color=colour, linestyle=dash, label=name)
            if seeds > 1:
                left.fill_between(
                    images, losses.min(0), losses.max(0), color=colour, alpha=0.15, linewidth=0
                )
        left.set(xlabel="images seen, thousands", ylabel="held-out loss", yscale="log")
        left.set_title("mean over the seeds, and their range" if seeds > 1 else "one seed")
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("{x:.2g}")
        left.legend(loc="upper right")
        top = np.array([one["heldout"] for one in curves[other]])
        base = np.array([one["heldout"] for one in curves[reference]])
        if seeds > 1:
            for ratio in top / base:
                right.plot(images, ratio, color=LINES[1][0], linewidth=0.7, alpha=0.7)
        right.plot(images, top.mean(0) / base.mean(0), color="0.0")
        right.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
        # The first points, when losses fall by the step, would hide the rest.
        late = [1.0, *(top / base)[:, len(images) // 4 :].flat]
        room = 0.25 * (max(late) - min(late)) + 0.01
        right.set_ylim(min(late) - room, max(late) + room)
        right.set(xlabel="images seen, thousands", ylabel=f"loss of {other} over {reference}")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=tuple(STUDIES))
    parser.add_argument("--steps", type=int, default=300, help="of each training (300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(0)")
    parser.add_argument("--lr", type=float, default=DEFAULT_RATE, help="of both arms (0.001)")
    parser.add_argument("--out", type=Path, default=Path("runs/convergence"))
    parser.add_argument("--json", action="store_true", help="the figures as JSON, nothing else")
    options = parser.parse_args()
    study: str = options.study
    if options.steps < POINTS:
        parser.error(f"--steps is {options.steps}: need at least {POINTS}")
    curves: dict[str, list[Curve]] = {}
    for arm in STUDIES[study][1]:
        for seed in options.seeds:
            name = f"{study}-{arm}-{options.steps}-lr{options.lr:g}-{seed}.json"
            asked = (study, arm, options.steps, seed, options.lr)
            curves.setdefault(arm, []).append(kept(options.out / name, *asked))
    side = STUDIES[study][0].get("image_size", 28)
    about = (
        f"Fashion-MNIST at {side} x {side}, {options.steps} steps of {BATCH} images, AdamW at "
        f"{options.lr:g} falling as a cosine"
    )
    path = options.out / f"convergence-{study}.png"
    save(draw(study, curves, about), path)
    columns = {"images": next(iter(curves.values()))[0]["images"]}
    for arm, found in curves.items():
        for seed, one in zip(options.seeds, found, strict=True):
            columns[f"{arm}, seed {seed}"] = one["heldout"]
    write_csv(path, columns)
    reference, other = curves.values()
    ratios = [b["heldout"][-1] / a["heldout"][-1] for a, b in zip(reference, other, strict=True)]
    figures = {
        "parameters": {arm: found[0]["parameters"] for arm, found in curves.items()},
        "last_loss": {arm: [one["heldout"][-1] for one in found] for arm, found in curves.items()},
        "ratio": [round(ratio, 4) for ratio in ratios],
    }
    print(json.dumps(figures) if options.json else json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
