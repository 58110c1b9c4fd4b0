"""What a solver costs beside the network, in microseconds per evaluation of the field.

The state is 64 x 2 on one thread, the field one small kernel. Times are the thread's own, which
other processes disturb less. Time spent in the field, measured in a loop of its own, is taken off.
Every contestant runs in turn, several rounds over; the figure is the least of the rounds, which is
what the code costs on a quiet machine, and the spread is that of the middle half of the rounds.

    python benchmarks/overhead.py [--peers] [--json] [--rounds N]

`brownian_ratio` is the time of one sequential Brownian increment at 64 x 784 over that of
`torch.randn` of the shape. `sampling_ratio` is the time of `sdeflow.sample` over that of its calls
of the network alone, for 64 samples and the small U-Net on 28 x 28: every call is followed by a
bare one on the same input, and compared with it (median); to this comes what is spent outside the
network. The largest of three samplers.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sdeflow.denoiser import Denoiser
from sdeflow.networks import make_network
from sdeflow.sampling import sample
from sdeflow.sde import make_sde
from solvers import BrownianPath, methods, odeint
from solvers.tableau import TABLEAUS

BATCH, SIZE, PIXELS, TURNS = 64, 2, 784, 30.0
STEPS = 200
RTOL = ATOL = 1e-5


@dataclass
class Contestant:
    """Something to time: `run` returns how many evaluations (or queries) it made."""

    name: str
    key: str | None
    run: Callable[[], int]
    beside: Callable[[], object] | None
    seconds: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def round(self) -> None:
        """Time one run, and as many calls of what it is measured beside.

        An untimed run comes first: what ran before has left caches and memory to its own liking.
        """
        self.run()
        begin = time.thread_time()
        count = self.run()
        middle = time.thread_time()
        self.seconds.append((middle - begin) / count)
        if self.beside is not None:
            for _ in range(count):
                self.beside()
            self.bare.append((time.thread_time() - middle) / count)

    def microseconds(self) -> tuple[float, float, float]:
        """The least, and the quartiles, of the cost per evaluation."""
        own = np.array(self.seconds) - (min(self.bare) if self.bare else 0.0)
        low, high = np.percentile(own, [25, 75])
        return float(own.min() * 1e6), float(low * 1e6), float(high * 1e6)


def turning() -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """A field that turns every state about the origin, in one kernel; and the initial states."""
    matrix = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    y0 = torch.randn(BATCH, SIZE, generator=torch.Generator().manual_seed(0))
    return lambda t, y: torch.mm(y, matrix), y0


def ours() -> list[Contestant]:
    """Our own methods."""
    turn, y0 = turning()
    t = torch.zeros(BATCH, dtype=torch.float64)

    def bare() -> Tensor:
        return turn(t, y0)

    def fixed(method: str) -> Callable[[], int]:
        return lambda: odeint(turn, y0, 0, TURNS, method=method, dt=TURNS / STEPS).log.calls

    def adaptive(method: str) -> Callable[[], int]:
        return lambda: odeint(turn, y0, 0, TURNS, method=method, rtol=RTOL, atol=ATOL).log.calls

    found = [
        Contestant("euler, fixed", "fixed_us", fixed("euler"), bare),
        Contestant("rk4, fixed", None, fixed("rk4"), bare),
        Contestant("dopri5, adaptive", "adaptive_us", adaptive("dopri5"), bare),
        Contestant("bosh3, adaptive", None, adaptive("bosh3"), bare),
    ]
    for info in methods():
        multistep = info.kind == "ode" and info.source == "solvers" and info.name not in TABLEAUS
        if multistep and info.adaptive:
            found.append(Contestant(info.name, "multistep_us", adaptive(info.name), bare))
            break
    return found


def brownian(size: int, peers: bool) -> tuple[Contestant, list[Contestant]]:
    """`torch.randn` (64, size), and what draws Brownian increments of that shape."""
    queries, shape = 100, (BATCH, size)
    ends = np.linspace(0, 1, queries + 1)[1:]
    everyone = np.ones(BATCH, np.bool_)
    where = f"64x{size}"

    def normal() -> int:
        for _ in range(queries):
            torch.randn(shape)
        return queries

    def path(area: bool) -> int:
        walk = BrownianPath(torch.arange(BATCH), shape[1:], 0.0, area=area)
        for end in ends:
            walk.increment(np.full(BATCH, end))
            walk.advance(everyone)
        return queries

    key = "brownian_ratio" if size == PIXELS else None
    found = [
        Contestant(f"path {where}", key, partial(path, False), None),
        Contestant(f"path with integrals {where}", None, partial(path, True), None),
    ]
    if peers:
        import torchsde

        def interval() -> int:
            walk = torchsde.BrownianInterval(0.0, 1.0, shape, dt=1 / queries)
            for start, end in zip([0.0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                walk(start, end)
            return queries

        found.append(Contestant(f"torchsde interval {where}", None, interval, None))
    return Contestant("torch.randn", None, normal, None), found


class Doubled(torch.nn.Module):
    """A network that answers, then runs once more on the same input, and times both."""

    condition_dtype = torch.float64

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seconds: list[tuple[float, float]] = []

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        begin = time.thread_time()
        out: Tensor = self.network(x, c)
        middle = time.thread_time()
        self.network(x, c)
        self.seconds.append((middle - begin, time.thread_time() - middle))
        return out


def sampling(rounds: int) -> list[tuple[str, np.ndarray]]:
    """Sampling time over that of the bare calls, for three samplers, every round."""
    network = make_network(size="small", data_shape=(1, 28, 28))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():  # the layers that start at 0 would leave nothing to integrate
            parameter.data.normal_(0.0, 0.02, generator=generator)
    model = Doubled(network.eval())
    denoiser = Denoiser(model, make_sde())
    noise = torch.randn(BATCH, 1, 28, 28, generator=generator)
    ways: dict[str, dict[str, float]] = {
        "dopri5": {"rtol": 1.0, "atol": 1.0},
        "dpmpp-2m": {"steps": 8},
        "adams": {"rtol": 1.0, "atol": 1.0},
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    network(noise, torch.ones(BATCH, dtype=torch.float64))
    for _ in range(rounds):
        for name, how in ways.items():
            model.seconds.clear()
            begin = time.thread_time()
            sample(denoiser, noise=noise, solver=name, **how)  # type: ignore[arg-type]
            whole = time.thread_time() - begin
            inside, bare = np.array(model.seconds).T
            beside = (whole - inside.sum() - bare.sum()) / bare.sum()
            found[name].append(float(np.median(inside / bare)) + beside)
    return [(name, np.array(ratios)) for name, ratios in found.items()]


def peers() -> list[Contestant]:
    """torchdiffeq and torchode on the same problem with the same tolerances."""
    import torchdiffeq
    import torchode

    turn, y0 = turning()
    scalar = torch.tensor(0.0, dtype=torch.float64)

    class Counted(torch.nn.Module):
        calls = 0

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return turn(t, y)

    counted = Counted()

    def bare() -> Tensor:
        return counted(scalar, y0)

    def diffeq(method: str, times: Tensor) -> Callable[[], int]:
        def run() -> int:
            counted.calls = 0
            torchdiffeq.odeint(counted, y0, times, method=method, rtol=RTOL, atol=ATOL)
            return counted.calls

        return run

    term = torchode.ODETerm(counted)
    solver = torchode.AutoDiffAdjoint(
        torchode.Dopri5(term), torchode.PIDController(ATOL, RTOL, 0.2, 0.7, 0.0, term=term)
    )

    def ode() -> int:
        counted.calls = 0
        start, end = torch.zeros(BATCH), torch.full((BATCH,), TURNS)
        solver.solve(torchode.InitialValueProblem(y0, start, end))
        return counted.calls

    grid = torch.linspace(0, TURNS, STEPS + 1, dtype=torch.float64)
    return [
        Contestant("torchdiffeq euler, fixed", None, diffeq("euler", grid), bare),
        Contestant("torchdiffeq dopri5", None, diffeq("dopri5", grid[[0, -1]]), bare),
        Contestant("torchode dopri5", None, ode, bare),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="torchdiffeq, torchode, torchsde too")
    parser.add_argument("--json", action="store_true", help="the figures as JSON, nothing else")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of timing (40)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    noise = [brownian(size, options.peers) for size in (PIXELS, SIZE)]
    solvers = ours() + (peers() if options.peers else [])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everybody = [*solvers, *(one for normal, paths in noise for one in (normal, *paths))]
        for contestant in everybody:
            contestant.run()
        for _ in range(options.rounds):
            for contestant in everybody:
                contestant.round()
    figures: dict[str, float | None] = dict.fromkeys(
        ("fixed_us", "adaptive_us", "multistep_us", "brownian_ratio", "sampling_ratio")
    )
    lines = [f"{'':28}{'least':>8}{'middle half':>18}"]
    for contestant in solvers:
        least, low, high = contestant.microseconds()
        if contestant.key is not None:
            figures[contestant.key] = round(least, 2)
        lines.append(f"{contestant.name:28}{least:8.1f}{f'{low:.1f} to {high:.1f}':>18}  us")
    for normal, paths in noise:
        unit = normal.microseconds()[0]
        for contestant in paths:
            least, low, high = (value / unit for value in contestant.microseconds())
            if contestant.key is not None:
                figures[contestant.key] = round(least, 2)
            spread = f"{low:.2f} to {high:.2f}"
            lines.append(f"{contestant.name:28}{least:8.2f}{spread:>18}  x randn")
    worst = 0.0
    for name, ratios in sampling(max(1, options.rounds // 20)):
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        worst = max(worst, float(middle))
        spread = f"{low:.3f} to {high:.3f}"
        lines.append(f"{f'sampling, {name}':28}{middle:8.3f}{spread:>18}  x bare calls, median")
    figures["sampling_ratio"] = round(worst, 4)
    print(json.dumps(figures) if options.json else "\n".join(lines))


if __name__ == "__main__":
    main()
