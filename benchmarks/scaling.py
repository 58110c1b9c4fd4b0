r"""How cost grows: a call of the network, and the memory of a training step.

    cost      seconds of a call of the U-Net (fp32, no gradient) against the batch, the dimension
              D of an image and the number of weights, each with the other two fixed, and the
              exponent p of  time ~ n^p,  by least squares on logarithms over the upper half
    memory    peak memory of a training step of `paper` on 3 x S x S images in `sdeflow train`'s
              loop, one image at a time, with and without --checkpointing, beside what
              `sdeflow plan` counts: 20 bytes a weight and what is kept for the backward pass

Cost is the thread's own time, the median of rounds in which all sizes take turns. Memory is the
largest resident size of a process that took two steps, one for each point; the largest point needs
some 4 GiB. Points that are in OUT are not measured again.

    python benchmarks/scaling.py [cost] [memory] [--out DIR] [--json]

Writes OUT/scaling-cost.png and OUT/scaling-memory.png with the numbers as CSV beside them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from numpy.typing import NDArray

from sdeflow.plots import LINES, STYLE, captioned, save, write_csv

ROUNDS = 5
BATCH, SIDE, WIDTH = 16, 28, 24
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SIDES = (8, 12, 16, 20, 28, 40, 56, 80)
WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96)
MEMORY = ((32, 1, "fp32"), (64, 1, "fp32"), (128, 1, "fp32"), (256, 1, "fp32"))
"""Side, images a step and arithmetic of each point, measured with and without checkpointing."""
GIB = 2**30

Point = dict[str, Any]


def cost() -> dict[str, list[Point]]:
    """Seconds of a call against batch, dimension and weights."""
    import torch

    from sdeflow.memory import keep_freed_memory
    from sdeflow.networks import UNet

    keep_freed_memory()
    torch.set_num_threads(1)

    def unet(width: int) -> tuple[UNet, int]:
        network = UNet(1, (width, 2 * width, 4 * width), blocks=1).eval()
        return network, sum(p.numel() for p in network.parameters())

    small, weights = unet(WIDTH)
    works: dict[str, list[tuple[float, UNet, int, int]]] = {
        "batch": [(n, small, n, SIDE) for n in BATCHES],
        "dimension": [(side**2, small, BATCH, side) for side in SIDES],
        "weights": [],
    }
    for width in WIDTHS:
        network, count = (small, weights) if width == WIDTH else unet(width)
        works["weights"].append((count, network, BATCH, SIDE))
    seconds: dict[tuple[str, float], list[float]] = {}
    with torch.no_grad():
        for _ in range(ROUNDS + 1):
            for name, points in works.items():
                for n, network, batch, side in points:
                    x = torch.randn(batch, 1, side, side)
                    c = torch.full((batch,), 0.5, dtype=torch.float64)
                    began = time.thread_time()
                    network(x, c)
                    seconds.setdefault((name, n), []).append(time.thread_time() - began)
    found: dict[str, list[Point]] = {name: [] for name in works}
    for (name, n), times in seconds.items():
        low, middle, high = np.percentile(times[1:], [25, 50, 75])  # the first round warms up
        found[name].append({"n": n, "seconds": middle, "low": low, "high": high})
    return found


def exponent(points: list[Point]) -> tuple[float, float, NDArray[np.float64], int]:
    """Slope in logarithms over the upper half, its error, the line, where the half begins."""
    half = len(points) // 2
    x = np.log([point["n"] for point in points[half:]])
    y = np.log([point["seconds"] for point in points[half:]])
    line, covariance = np.polyfit(x, y, 1, cov="unscaled")
    spread = np.sqrt(np.sum((np.polyval(line, x) - y) ** 2) / (len(x) - 2))
    return float(line[0]), float(spread * np.sqrt(covariance[0, 0])), line, half


def draw_cost(found: dict[str, list[Point]], path: Path) -> dict[str, float]:
    """One panel for each of the three; the exponents."""
    fixed = {
        "batch": f"{SIDE} x {SIDE}, `small`",
        "dimension": f"batch {BATCH}, `small`",
        "weights": f"batch {BATCH}, {SIDE} x {SIDE}",
    }
    labels = {
        "batch": "images in a batch",
        "dimension": "numbers in an image, D",
        "weights": "weights",
    }
    caption = (
        "A call of sdeflow's U-Net in fp32 without gradient on one core; the network `small` has "
        "channels 24 48 96, the others multiples of 1 2 4. Dots: median of rounds in which all "
        "take turns, bars their middle half. Lines: least squares on logarithms over the upper "
        "half of each panel, drawn through the whole of it."
    )
    exponents = {}
    with rc_context(STYLE):
        figure, bottom = captioned(9.6, 3.1, caption)
        panels = figure.subplots(1, 3, sharey=True)
        figure.subplots_adjust(
            left=0.075, right=0.985, top=0.92, bottom=bottom + 0.14, wspace=0.08
        )
        for axes, (name, points) in zip(panels, found.items(), strict=True):
            n, middle = (np.array([p[key] for p in points]) for key in ("n", "seconds"))
            low, high = (np.array([p[key] for p in points]) for key in ("low", "high"))
            slope, error, line, half = exponent(points)
            exponents[name] = slope
            axes.errorbar(
                n, middle, (middle - low, high - middle), fmt="o", color="0.0", markersize=3.5,
                linewidth=0.8,
            )  # fmt: skip
            fitted = np.exp(np.polyval(line, np.log(n)))
            said = f"time ~ n^{slope:.2f} (± {error:.2f})"
            axes.plot(n[half:], fitted[half:], color=LINES[1][0], label=said)
            axes.plot(n[: half + 1], fitted[: half + 1], color=LINES[1][0], linestyle=":")
            axes.set(xscale="log", yscale="log", xlabel=labels[name])
            axes.set_title(fixed[name])
            axes.legend(loc="upper left")
        panels[0].set_ylabel("seconds a call")
    save(figure, path)
    rows = [(name, p) for name, points in found.items() for p in points]
    columns: dict[str, Any] = {"against": [name for name, _ in rows]}
    write_csv(path, columns | {key: [p[key] for _, p in rows] for key in rows[0][1]})
    return exponents


def step_memory(side: int, batch: int, precision: str, checkpointing: bool) -> Point:
    """Peak memory of two training steps of `paper`, in this process."""
    import torch
    from training import learner

    torch.set_num_threads(1)
    trained = learner(
        None, (side, side, 3), size="paper", batch_size=batch, precision=precision,
        checkpointing=checkpointing, device="cpu", steps=2,
    )  # fmt: skip
    seconds = []
    for _ in range(2):
        began = time.thread_time()
        trained.advance()
        seconds.append(time.thread_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"bytes": peak, "seconds": min(seconds)}


def counted(side: int, batch: int, precision: str, checkpointing: bool) -> int:
    """The bytes that `sdeflow plan` counts."""
    import torch

    from sdeflow.cost import BYTES_PER_WEIGHT, kept_bytes
    from sdeflow.networks import make_network

    shape = (3, side, side)
    with torch.device("meta"):
        network = make_network("unet", "paper", data_shape=shape, checkpointing=checkpointing)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    weights = sum(p.numel() for p in network.parameters())
    return weights * BYTES_PER_WEIGHT + batch * kept_bytes(network, shape, dtype)


def memory(out: Path) -> list[Point]:
    """Every point of `MEMORY`, each from a process of its own, with and without checkpointing."""
    found = []
    for checkpointing in (False, True):
        for side, batch, precision in MEMORY:
            asked = (side, batch, precision, checkpointing)
            file = out / f"memory-{side}-{batch}-{precision}-{checkpointing}.json"
            if not file.exists():
                command = [sys.executable, __file__, "--worker", json.dumps(asked)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                out.mkdir(parents=True, exist_ok=True)
                file.write_text(done.stdout.splitlines()[-1] + "\n")
            point = json.loads(file.read_text())
            names = ("side", "batch", "precision", "checkpointing")
            found.append(
                {**dict(zip(names, asked, strict=True)), **point, "counted": counted(*asked)}
            )
            print(found[-1], file=sys.stderr)
    return found


def draw_memory(found: list[Point], path: Path) -> None:
    """Peak memory against the side, measured and counted."""
    caption = (
        "`paper`, 106 M weights, on 3 x S x S images: the largest resident size of a process that "
        "trains, one image a step in fp32 on a CPU. Marks: measured. Lines: counted by `sdeflow "
        "plan` (20 bytes a weight, and what is kept for the backward pass), beyond 256 "
        "extrapolated: nothing was measured there."
    )
    sides = (32, 64, 128, 256, 512)
    with rc_context(STYLE):
        figure, bottom = captioned(6.0, 3.4, caption)
        axes = figure.add_axes((0.11, bottom + 0.13, 0.86, 0.96 - bottom - 0.13))
        for index, checkpointing in enumerate((False, True)):
            colour, dash = LINES[index]
            name = "with --checkpointing" if checkpointing else "as it is"
            line = [counted(side, 1, "fp32", checkpointing) / GIB for side in sides]
            axes.plot(
                sides[:-1], line[:-1], color=colour, linestyle=dash, label=f"{name}, counted"
            )
            axes.plot(sides[-2:], line[-2:], color=colour, linestyle=":", linewidth=0.9)
            points = [
                p for p in found
                if (p["checkpointing"], p["batch"], p["precision"]) == (checkpointing, 1, "fp32")
            ]  # fmt: skip
            axes.plot(
                [p["side"] for p in points], [p["bytes"] / GIB for p in points],
                "os"[index], color=colour, markersize=5, label=f"{name}, measured",
                fillstyle="full" if index == 0 else "none",
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="side S, pixels", ylabel="GiB")
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.minorticks_off()
        ticks = (2, 3, 5, 10)
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.legend(loc="upper left")
    save(figure, path)
    write_csv(path, {key: [point[key] for point in found] for key in found[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="cost, memory (both)")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--json", action="store_true", help="the figures as JSON, nothing else")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(step_memory(*json.loads(options.worker))))
        return
    parts = options.parts or ["cost", "memory"]
    if not set(parts) <= {"cost", "memory"}:
        parser.error(f"unknown part in {parts}: choose from cost, memory")
    figures: dict[str, Any] = {}
    if "cost" in parts:
        found = cost()
        exponents = draw_cost(found, options.out / "scaling-cost.png")
        figures["exponents"] = {name: round(value, 3) for name, value in exponents.items()}
    if "memory" in parts:
        points = memory(options.out)
        draw_memory(points, options.out / "scaling-memory.png")
        figures["memory"] = points
    print(json.dumps(figures) if options.json else json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
