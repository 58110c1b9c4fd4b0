"""How many calls of the model a sampler needs to be right.

For every case and sampler a ladder of settings runs: tolerances divided by 1.8, or steps times
1.13. The figure of one set of samples is the smallest number of batched calls from which on, at
this and every finer setting, the root-mean-square error of the end states against a tight solution
of the same model stays under 1e-2, 1e-3 and 1e-4. For a trained network (case E) it is where 1e-2
is first reached: below that its own roughness rules.

One sample near a boundary between modes can rule a whole set. So several sets, each of its own
noise, run, and what is printed is the median of their figures, with the smallest and the largest.
Where a solver's samples do not depend on their batch, all sets are integrated as one batch, and
the calls of a set are the most evaluations of any of its samples.

    python benchmarks/nfe.py [--peers] [--cases A,B,C,D] [--run DIR] [--json]
    python benchmarks/nfe.py --oracle mixture:width=0.05,dim=3 --schedule cosine

A, B, C: eight modes on the unit circle, width 0.1, 0.1 and 0.002, down to t = 1e-3, 1e-5 and 1e-5,
256 samples. D: scikit-learn's digits as one Gaussian per class, t_min 1e-3, 128 samples. E: a run
directory, such as that of `sdeflow train --config experiments/configs/case-e.yaml`, 48 samples.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdeflow.denoiser import Predictor
from sdeflow.oracle import make_oracle
from sdeflow.run import load_run
from sdeflow.samplers import BACKENDS, find_sampler
from sdeflow.sampling import sample
from sdeflow.sde import SDE, make_sde

TARGETS = (1e-2, 1e-3, 1e-4)
MOST = 300  # calls after which a ladder gives up
# (calls, error) at every setting of a ladder, for one set of samples.
Curve = list[tuple[int, float]]
Figure = float  # calls, infinite where the target is not reached


@dataclass(frozen=True)
class Case:
    """A model, where to stop, how many samples make a set, and the noise that the sets start from.

    Attributes:
        noise: (sets, count, ...) float64.
    """

    name: str
    model: Predictor
    t_min: float
    noise: Tensor
    network: bool = False


@dataclass(frozen=True)
class Contestant:
    """A sampler by name, with a chart and a grid of its own where they are given."""

    label: str
    solver: str
    chart: str | None = None
    grid: str | None = None
    fixed: bool = False


OURS = {
    "adaptive": Contestant("adams", "adams"),
    "fixed": Contestant("tuned", "tuned", fixed=True),
}
PEERS = [
    Contestant("torchdiffeq dopri5, time", "torchdiffeq/dopri5", "x/time"),
    Contestant("torchdiffeq dopri5, log angle", "torchdiffeq/dopri5", "x/log-angle"),
    Contestant("DPM-Solver++(2M), log-SNR", "dpmpp-2m", fixed=True),
    Contestant("UniPC-2, log-SNR", "unipc-2", fixed=True),
    Contestant("UniPC-3, log-SNR", "unipc-3", fixed=True),
    Contestant("UniPC-4, log-time", "unipc-4", grid="log-time", fixed=True),
]
CASES = {
    "A": ("mixture:width=0.1", 1e-3, 256),
    "B": ("mixture:width=0.1", 1e-5, 256),
    "C": ("mixture:width=0.002", 1e-5, 256),
    "D": ("classes", 1e-3, 128),
}


def starts(shape: Sequence[int], count: int, sets: int, seed: int) -> Tensor:
    """Noise (sets, count, ...); the first set is that of `seed`, the next that of seed + 1."""
    draws = [torch.Generator().manual_seed(seed + number) for number in range(sets)]
    return torch.stack(
        [torch.randn(count, *shape, generator=draw, dtype=torch.float64) for draw in draws]
    )


def solve(case: Case, who: Contestant, noise: Tensor, **how: Any) -> tuple[list[int], Tensor]:
    """Calls of every set, and its end states (sets, count, ...)."""
    if find_sampler(who.solver).source in BACKENDS and len(noise) > 1 and not who.fixed:
        # One step size for the whole batch: the sets must not share it.
        parts = [solve(case, who, part[None], **how) for part in noise]
        return [calls[0] for calls, _ in parts], torch.cat([x for _, x in parts])
    out = sample(
        case.model,
        noise=noise.flatten(0, 1),
        solver=who.solver,
        chart=who.chart,
        grid=who.grid if who.fixed else None,
        t_min=case.t_min,
        dtype=torch.float32 if case.network else torch.float64,
        on_failure="return",
        **how,
    )
    calls = np.asarray(out.log.evaluations).reshape(noise.shape[:2]).max(1)
    return [int(number) for number in calls], out.x.double().view(noise.shape)


def reference(case: Case) -> Tensor:
    """A tight solution of the same model, to 1e-7; a float32 network allows less."""
    method, tolerance = ("dopri5", 2e-5) if case.network else ("dopri8", 1e-7)
    who = Contestant("reference", method, "x/std/log-snr")
    return solve(case, who, case.noise, rtol=tolerance, atol=tolerance)[1]


def distance(x: Tensor, exact: Tensor) -> list[float]:
    """Root-mean-square error of every set."""
    errors: list[float] = ((x - exact) ** 2).flatten(1).mean(1).sqrt().tolist()
    return errors


def arrived(curve: Curve, network: bool) -> bool:
    """Whether finer settings can be left out."""
    if network:
        return curve[-1][1] < TARGETS[0] or curve[-1][0] > MOST // 3
    low = [error < TARGETS[-1] / 2 for _, error in curve[-3:]]
    # A solver that fails at once spends no calls, however fine its setting.
    return (len(low) == 3 and all(low)) or curve[-1][0] > MOST or len(curve) > MOST // 4


def ladders(case: Case, who: Contestant, exact: Tensor) -> list[Curve]:
    """The curve of every set, from coarse to fine."""
    curves: list[Curve] = [[] for _ in exact]
    running = list(range(len(curves)))
    setting = 5.0 if who.fixed else 0.3
    while running:
        steps = round(setting)
        how = {"steps": steps} if who.fixed else {"rtol": setting, "atol": setting}
        calls, x = solve(case, who, case.noise[running], **how)
        errors = distance(x, exact[running])
        for number, spent, error in zip(running, calls, errors, strict=True):
            curves[number].append((spent, error))
        running = [number for number in running if not arrived(curves[number], case.network)]
        setting = max(setting * 1.13, steps + 1.0) if who.fixed else setting / 1.8
    return curves


def default_errors(case: Case, who: Contestant, exact: Tensor) -> list[float]:
    """Median and largest error of a set in units of the tolerance, at a tolerance of 1e-3."""
    _, x = solve(case, who, case.noise, rtol=1e-3, atol=1e-3)
    ratios = sorted(error / 1e-3 for error in distance(x, exact))
    return [ratios[len(ratios) // 2], ratios[-1]]


def needed(curve: Curve, network: bool) -> list[Figure]:
    """Calls from which on each target holds; for a network, where it is first reached."""
    if network:
        return [next((calls for calls, error in curve if error < TARGETS[0]), np.inf)]
    out = []
    for target in TARGETS:
        best = np.inf
        for calls, error in reversed(curve):
            if not error < target:
                break
            best = calls
        out.append(best)
    return out


def summary(figures: list[list[Figure]]) -> dict[str, list[Any]]:
    """Median, smallest and largest figure of each target; None where it is not reached."""

    def whole(number: Figure) -> int | None:
        return None if np.isinf(number) else int(number)

    table = [sorted(column) for column in zip(*figures, strict=True)]
    return {
        "median": [whole(column[len(column) // 2]) for column in table],
        "spread": [[whole(column[0]), whole(column[-1])] for column in table],
    }


def written(result: dict[str, list[Any]]) -> str:
    """12/21/34 (11-13/20-23/33-40)."""

    def one(number: int | None) -> str:
        return "-" if number is None else str(number)

    middle = "/".join(map(one, result["median"]))
    ranges = "/".join(f"{one(low)}-{one(high)}" for low, high in result["spread"])
    return f"{middle:>12s}  ({ranges})"


def asked(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line names."""

    def exact(name: str, spec: str, t_min: float, count: int, sde: SDE) -> Case:
        oracle = make_oracle(spec, sde)
        noise = starts(oracle.data_shape, count, options.sets, options.seed)
        return Case(name, oracle, t_min, noise)

    if options.oracle:
        sde = make_sde(options.sde, options.schedule)
        cases = [exact(options.oracle, options.oracle, options.t_min, options.count, sde)]
    else:
        names = [name for name in options.cases.split(",") if name]
        cases = [exact(name, *CASES[name], make_sde()) for name in names]
    if options.run:
        run = load_run(options.run)
        noise = starts(run.data_shape, 48, options.sets, options.seed)
        cases.append(Case("E", run.denoiser, 1e-3, noise, network=True))
    return cases


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", action="store_true", help="other samplers in the same run")
    parser.add_argument("--cases", default="A,B,C,D", help="which of A, B, C, D")
    parser.add_argument("--run", help="run directory of a trained network: case E")
    parser.add_argument("--oracle", help="another exact model instead of the cases")
    parser.add_argument("--sde", default="vp", help="process of --oracle")
    parser.add_argument("--schedule", default="linear", help="schedule of --oracle")
    parser.add_argument("--t-min", type=float, default=1e-3, help="end time of --oracle")
    parser.add_argument("--count", type=int, default=256, help="samples in a set of --oracle")
    parser.add_argument("--sets", type=int, default=5, help="sets of samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first set; then + 1")
    parser.add_argument("--json", action="store_true", help="figures of our two defaults as JSON")
    parser.add_argument("--verbose", action="store_true", help="every setting of every ladder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    unknown = [name for name in options.cases.split(",") if name and name not in CASES]
    if unknown:
        parser.error(f"--cases: {', '.join(unknown)}: choose from {', '.join(CASES)}")
    if options.sets < 1:
        parser.error(f"--sets: {options.sets}: need at least 1")
    report: dict[str, Any] = {"adaptive": {}, "fixed": {}, "sets": options.sets}
    report |= {"spread": {"adaptive": {}, "fixed": {}}, "error_per_tolerance": {}}
    contestants = [*OURS.items(), *((p.label, p) for p in PEERS if options.peers)]
    for case in asked(options):
        exact = reference(case)
        for key, who in contestants:
            curves = ladders(case, who, exact)
            result = summary([needed(curve, case.network) for curve in curves])
            line = f"{case.name:3s} {who.label:30s} {written(result)}"
            if key in report:
                report[key][case.name] = result["median"]
                report["spread"][key][case.name] = result["spread"]
            if not who.fixed:
                ratios = default_errors(case, who, exact)
                line += f"   error / tolerance at 1e-3: {ratios[0]:.1f}, at most {ratios[1]:.1f}"
                if key in report:
                    report["error_per_tolerance"][case.name] = ratios
            print(line, file=sys.stderr, flush=True)
            if options.verbose:
                for number, curve in enumerate(curves):
                    points = "  ".join(f"{calls}:{error:.2e}" for calls, error in curve)
                    print(f"      set {number}: {points}", file=sys.stderr)
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
