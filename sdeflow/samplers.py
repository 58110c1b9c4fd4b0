"""Samplers as data: a method, a chart and a grid under the name the field uses.

A sampler is no file of its own. `Sampler` says which method of `solvers` runs in which chart, on
which grid unless tolerances are given; everything in it can be overridden in `sdeflow.sample`.
Any method name of `solvers.methods()` is a sampler too, in the default chart.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from solvers import methods

__all__ = ["DEFAULT_SOLVER", "Sampler", "find_sampler", "samplers"]

Kind = Literal["ode", "sde", "chain"]


@dataclass(frozen=True)
class Sampler:
    """One sampler.

    Attributes:
        name: what `sample(solver=...)` and `--solver` know it by.
        method: the method of `solvers` (ode, sde), or the transition of `sdeflow.stochastic`
            (chain).
        kind: ode, sde, or chain: exact random transitions along a grid.
        order: order of convergence; the weak order 1 of chains.
        adaptive: whether it can control its steps by tolerances.
        chart: SCALE/CLOCK it runs in by default.
        grid: spacing of its times where steps are fixed (`sdeflow.grids`).
        steps: number of fixed steps by default.
        tolerance: relative and absolute tolerance by default; errors of a path driven by noise
            fall slowly with the step, and its samples need fewer digits.
        eta: noise level by default; 0 where the method is deterministic.
        multistep: whether the method integrates N d mu, and so is given N and the measure.
        weights: exact or published, for multistep methods.
        source: solvers, torchdiffeq, torchsde, or the paper's arXiv number.
        about: one line.
    """

    name: str
    method: str
    kind: Kind
    order: float
    adaptive: bool
    chart: str = "x/std/log-snr"
    grid: str = "log-snr"
    steps: int = 50
    tolerance: float = 1e-3
    eta: float = 0.0
    multistep: bool = False
    weights: Literal["exact", "published"] = "exact"
    source: str = "solvers"
    about: str = ""


DEFAULT_SOLVER = "dopri5"

_NAMED = [
    Sampler(
        "ddim",
        "euler",
        "ode",
        1,
        adaptive=False,
        chart="x/alpha/noise-ratio",
        grid="time",
        source="arXiv 2010.02502",
        about="Euler in (x/alpha, sigma/alpha)",
    ),
]


def samplers() -> list[Sampler]:
    """Every sampler: the named ones, then the methods of `solvers` in the default chart."""
    named = {sampler.name: sampler for sampler in _NAMED}
    for info in methods():
        if info.name not in named:
            sampler = Sampler(
                info.name,
                info.name,
                info.kind,
                info.order,
                info.adaptive,
                eta=1.0 if info.kind == "sde" else 0.0,
                source=info.source,
                about=info.note,
            )
            named[info.name] = (
                replace(sampler, chart="x/log-snr", tolerance=0.05) if sampler.eta else sampler
            )
    return list(named.values())


def find_sampler(name: str) -> Sampler:
    """The sampler of that name.

    Raises:
        ValueError: there is none; the nearest names are given.
    """
    known = {sampler.name: sampler for sampler in samplers()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `sdeflow solvers`"
    raise ValueError(f"solver={name!r}: no such sampler; {hint}")
