"""Samplers as data: a method, a chart and a grid under the name the field uses.

A sampler is no file of its own. `Sampler` says which method of `solvers` runs in which chart, on
which grid unless tolerances are given; everything in it can be overridden in `sdeflow.sample`.
Any method name of `solvers.methods()` is a sampler too, in the default chart.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from solvers import PID, methods
from solvers.multistep import GAINS

__all__ = ["BACKENDS", "DEFAULT_SOLVER", "Sampler", "find_sampler", "samplers", "with_noise"]

Kind = Literal["ode", "sde", "chain"]


@dataclass(frozen=True)
class Sampler:
    """One sampler.

    Attributes:
        name: what `sample(solver=...)` and `--solver` know it by.
        method: the method of `solvers` (ode, sde), or the transition of `sdeflow.stochastic`
            (chain).
        kind: ode, sde, or chain: exact random transitions along a grid.
        order: order of convergence on its grid, where the first steps are easy; the weak order of
            chains.
        adaptive: whether it can control its steps by tolerances.
        chart: SCALE/CLOCK it runs in by default.
        grid: spacing of its times where steps are fixed (`sdeflow.grids`).
        steps: number of fixed steps by default.
        tolerance: relative and absolute tolerance by default; errors of a path driven by noise
            fall slowly with the step, and its samples need fewer digits.
        eta: noise level by default; 0 where the method is deterministic.
        multistep: whether the method integrates N d mu, and so is given N and the measure.
        interpolate: clock in which a multistep method interpolates; the chart's own if None.
        gains: what "pi" control means for it; the controller's own gains if None.
        churn: noise that heun-edm adds on the whole.
        weights: exact or published, for multistep methods.
        noisy: the chain that takes over where the user asks for eta > 0.
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
    interpolate: str | None = None
    gains: PID | None = None
    churn: float = 0.0
    noisy: str = ""


DEFAULT_SOLVER = "dopri5"
BACKENDS = ("torchdiffeq", "torchsde")  # they measure errors in the state as it is: scale x

_DDIM, _DEIS, _DPM, _UNIPC = (
    f"arXiv {number}" for number in ("2010.02502", "2204.13902", "2211.01095", "2302.04867")
)
_EDM, _SONG = "arXiv 2206.00364", "arXiv 2011.13456"


def _flow(name: str, method: str, order: float, chart: str, grid: str, **more: str) -> Sampler:
    """A named sampler that follows the flow on a grid."""
    published = method.endswith("-published")
    return Sampler(
        name,
        method,
        "ode",
        order,
        adaptive=False,
        chart=chart,
        grid=grid,
        steps=20,
        multistep=True,
        weights="published" if published else "exact",
        source=more["source"],
        about=more["about"],
        noisy=more.get("noisy", ""),
    )


def _chain(name: str, method: str, grid: str, source: str, about: str, **more: float) -> Sampler:
    """A named sampler that is a chain of random transitions."""
    return Sampler(
        name,
        method,
        "chain",
        2 if method == "heun-edm" else 1,
        adaptive=False,
        chart="x/time",
        grid=grid,
        steps=100,
        eta=more.get("eta", 0.0),
        churn=more.get("churn", 0.0),
        source=source,
        about=about,
    )


_NAMED = [
    Sampler(
        "adams",
        "adams",
        "ode",
        5,
        adaptive=True,
        chart="x/std/mixed",
        multistep=True,
        interpolate="banded-linear",
        # Its errors are a predictor's: they may be larger, and say less about the next step.
        gains=GAINS,
        about="Adams predictor-corrector, order and form as it goes, one evaluation a step",
    ),
    _flow(
        "ddim",
        "ab-1",
        1,
        "x/alpha/noise-ratio",
        "time",
        source=_DDIM,
        noisy="ddim",
        about="Euler in (x/alpha, sigma/alpha); with eta, noise in every step",
    ),
    *(
        _flow(
            f"deis-{k}",
            f"ab-{k}",
            k,
            "x/alpha/time",
            "power:2",
            source=_DEIS,
            about=f"tAB{k - 1}: the noise as a polynomial in t, through {k} points",
        )
        for k in (2, 3, 4)
    ),
    *(
        _flow(
            f"dpmpp-{k}m{'' if weights else '-exact'}",
            f"ab-{k}{weights}",
            2 if weights else k,
            "x/sigma/log-snr",
            "log-snr",
            source=_DPM,
            about=f"DPM-Solver++ multistep: the data in log-SNR through {k} points"
            + ("" if weights else ", exact weights"),
        )
        for k in (2, 3)
        for weights in ("-published", "")
    ),
    *(
        _flow(
            f"unipc-{k}{'' if weights else '-exact'}",
            f"abm-{k}{weights}",
            2 if weights else k + 1,
            "x/sigma/log-snr",
            "log-snr",
            source=_UNIPC,
            about=f"UniPC: the data in log-SNR through {k} points, corrected"
            + (", B(h) = exp(h) - 1" if weights else ", exact weights"),
        )
        for k in (2, 3, 4)
        for weights in ("-published", "")
    ),
    _flow(
        "tuned",
        "abm-4-two-forms",
        2,
        "x/std/log-linear:0.24",
        "tuned",
        source="solvers",
        about="four points, corrected, in two forms, in the chart and on the grid that did best",
    ),
    _chain("heun-edm", "heun-edm", "karras", _EDM, "Heun in (x/alpha, sigma/alpha), no churn"),
    _chain(
        "heun-edm-churn", "heun-edm", "karras", _EDM, "the same, S_churn = 40 added", churn=40.0
    ),
    _chain("ancestral", "ddim", "time", "arXiv 2006.11239", "DDIM's transition, eta = 1", eta=1.0),
    _chain("dpmpp-sde", "dpmpp-sde", "log-snr", _DPM, "first order, exact noise", eta=1.0),
    _chain("dpmpp-2m-sde", "dpmpp-2m-sde", "log-snr", _DPM, "two points, exact noise", eta=1.0),
    _chain("pc", "pc", "time", _SONG, "ancestral step, then a Langevin step", eta=1.0),
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
                multistep=info.measured,
                weights="published" if info.name.endswith("-published") else "exact",
                source=info.source,
                about=info.note,
            )
            if sampler.eta:
                sampler = replace(sampler, chart="x/log-snr", tolerance=0.05)
            elif info.source in BACKENDS:
                sampler = replace(sampler, chart="x/log-snr")
            named[info.name] = sampler
    return list(named.values())


def with_noise(sampler: Sampler) -> Sampler:
    """The chain that takes over from a deterministic sampler where eta > 0.

    Raises:
        ValueError: it has none.
    """
    if not sampler.noisy:
        raise ValueError(
            f"eta: {sampler.name} is deterministic; leave eta at 0 or use a stochastic solver"
        )
    return replace(sampler, kind="chain", method=sampler.noisy, chart="x/time", multistep=False)


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
