"""How many calls of the model a sampler needs to be right.

For every case and sampler a ladder of settings runs: tolerances divided by 1.8, or steps times
1.13. The figure is the smallest number of batched calls from which on, at this and every finer
setting, the root-mean-square error of the end states against a tight solution of the same model
stays under 1e-2, 1e-3 and 1e-4. For a trained network (case E) it is where 1e-2 is first reached:
below that its own roughness rules.

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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdeflow.denoiser import Predictor
from sdeflow.oracle import make_oracle
from sdeflow.run import load_run
from sdeflow.sampling import sample
from sdeflow.sde import make_sde

TARGETS = (1e-2, 1e-3, 1e-4)
MOST = 300  # calls after which a ladder gives up


@dataclass(frozen=True)
class Case:
    """A model, where to stop, and how many samples."""

    name: str
    model: Predictor
    shape: tuple[int, ...]
    t_min: float
    count: int
    network: bool = False
    seed: int = 0


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


def named(name: str, seed: int) -> Case:
    """Case A, B, C or D."""
    spec, t_min, count = CASES[name]
    oracle = make_oracle(spec, make_sde())
    return Case(name, oracle, oracle.data_shape, t_min, count, seed=seed)


def solve(case: Case, who: Contestant, **how: Any) -> tuple[int, Tensor]:
    """Batched calls and end states."""
    dtype = torch.float32 if case.network else torch.float64
    noise = torch.randn(
        case.count,
        *case.shape,
        generator=torch.Generator().manual_seed(case.seed),
        dtype=torch.float64,
    )
    out = sample(
        case.model,
        noise=noise,
        solver=who.solver,
        chart=who.chart,
        grid=who.grid if who.fixed else None,
        t_min=case.t_min,
        dtype=dtype,
        on_failure="return",
        **how,
    )
    return int(out.log.calls), out.x.double()


def reference(case: Case) -> Tensor:
    """A tight solution of the same model; a float32 network's is as tight as it allows."""
    who = Contestant("reference", "dopri8", "x/std/log-snr")
    tolerance = 1e-6 if case.network else 1e-10
    return solve(case, who, rtol=tolerance, atol=tolerance)[1]


def ladder(case: Case, who: Contestant, exact: Tensor) -> Iterator[tuple[float, int, float]]:
    """(setting, calls, error), from coarse to fine."""
    last = TARGETS[0] if case.network else TARGETS[-1]
    setting = 5.0 if who.fixed else 0.3
    good = 0
    while good < 3:
        steps = round(setting)
        how = {"steps": steps} if who.fixed else {"rtol": setting, "atol": setting}
        calls, x = solve(case, who, **how)
        error = float(((x - exact) ** 2).mean().sqrt())
        yield setting, calls, error
        # Three settings in a row below half of the last target: the ladder has arrived.
        good = good + 1 if error < last / 2 else 0
        if calls > MOST:
            return
        setting = max(setting * 1.13, steps + 1.0) if who.fixed else setting / 1.8


def needed(curve: list[tuple[float, int, float]], network: bool) -> list[int | None]:
    """Calls from which on each target holds; for a network, where it is first reached."""
    if network:
        return [next((calls for _, calls, error in curve if error < TARGETS[0]), None)]
    out: list[int | None] = []
    for target in TARGETS:
        best = None
        for _, calls, error in reversed(curve):
            if not error < target:
                break
            best = calls
        out.append(best)
    return out


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
    parser.add_argument("--count", type=int, default=256, help="samples of --oracle")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples' starts")
    parser.add_argument("--json", action="store_true", help="figures of our two defaults as JSON")
    parser.add_argument("--verbose", action="store_true", help="every setting of every ladder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    unknown = [name for name in options.cases.split(",") if name and name not in CASES]
    if unknown:
        parser.error(f"--cases: {', '.join(unknown)}: choose from {', '.join(CASES)}")
    cases = [named(name, options.seed) for name in options.cases.split(",") if name]
    if options.oracle:
        oracle = make_oracle(options.oracle, make_sde(options.sde, options.schedule))
        shape = oracle.data_shape
        cases = [
            Case(options.oracle, oracle, shape, options.t_min, options.count, seed=options.seed)
        ]
    if options.run:
        run = load_run(options.run)
        cases.append(Case("E", run.denoiser, run.data_shape, 1e-3, 48, True, options.seed))
    figures: dict[str, dict[str, list[int | None]]] = {"adaptive": {}, "fixed": {}}
    contestants = [*OURS.items(), *((p.label, p) for p in PEERS if options.peers)]
    for case in cases:
        exact = reference(case)
        for key, who in contestants:
            curve = list(ladder(case, who, exact))
            result = needed(curve, case.network)
            if key in figures:
                figures[key][case.name] = result
            text = "/".join("-" if n is None else str(n) for n in result)
            at = min(curve, key=lambda row: abs(row[0] - 1e-3)) if not who.fixed else None
            ratio = (
                "" if at is None else f"   error / tolerance at {at[0]:.1e}: {at[2] / at[0]:.1f}"
            )
            print(f"{case.name:6s} {who.label:32s} {text:>14s}{ratio}", file=sys.stderr)
            if options.verbose:
                for setting, calls, error in curve:
                    print(f"       {setting:9.3g} {calls:5d} {error:9.2e}", file=sys.stderr)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
