"""The methods there are, by name: what they can do, and how to make one."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .controller import Array, Controller, ErrorNorm
from .stepper import Evaluator, Stepper

__all__ = ["Gauge", "Measure", "MethodInfo", "Problem", "find", "methods", "register"]


@dataclass(frozen=True)
class Gauge:
    """A second form of `du = N dmu`: `dv = M dnu` for `v = g u`, with `M = p N + q u`.

    The two agree where `g dmu = p dnu` and `dg = q dnu`. All functions are (n,) -> (n,), float64.

    Attributes:
        scale: `g(t)`, positive.
        field: `p(t)`.
        state: `q(t)`.
        density: `dnu/dt`.
    """

    scale: Callable[[Array], Array]
    field: Callable[[Array], Array]
    state: Callable[[Array], Array]
    density: Callable[[Array], Array]


@dataclass(frozen=True)
class Measure:
    """The measure `dmu` of a field given as `du = N dmu`.

    Attributes:
        mu: `mu(t)`, (n,) -> (n,), float64.
        density: `dmu/dt` at t, (n,) -> (n,), float64.
        clock: `c(t)`, (n,) -> (n,): the monotone variable in which methods that can interpolate
            N by polynomials; t itself by default.
        gauge: a second form of the equation, for methods that can choose; None for none.
        longest: `dt(t)`, (n,) -> (n,) > 0: the longest step that methods with control of their
            own steps take from t, and the first that they try; None for no limit.
    """

    mu: Callable[[Array], Array]
    density: Callable[[Array], Array]
    clock: Callable[[Array], Array] = lambda t: t
    gauge: Gauge | None = None
    longest: Callable[[Array], Array] | None = None


@dataclass(frozen=True)
class MethodInfo:
    """One integration method.

    Attributes:
        name: what `odeint` or `sdeint` know it by.
        kind: "ode" or "sde".
        order: order of convergence; the strong order of SDE methods.
        adaptive: whether it estimates its error, so that steps can be controlled.
        source: "solvers", or the library that it comes from.
        per_sample: whether every sample has steps of its own.
        breaks: whether break points are hit exactly and the field is evaluated on the right side.
        exact_end: whether the field is evaluated inside [t0, t1] only.
        dense: whether the solution between the steps can be had.
        logs: what the log holds: "attempts" (accepted and rejected, with errors), "steps"
            (accepted and rejected, without errors), "grid" (the steps taken), or "nothing".
        evaluations: evaluations of the field per accepted step; 0 if this varies.
        inside: whether it evaluates the field inside its steps, too, not at their ends alone;
            not said of backends.
        measured: whether it integrates `du = N dmu` with weights that are exact for the measure.
        controller: what sets its steps by default; None for `PI()`.
        note: one line on what it is.
    """

    name: str
    kind: Literal["ode", "sde"]
    order: float
    adaptive: bool
    source: Literal["solvers", "torchdiffeq", "torchsde"] = "solvers"
    per_sample: bool = True
    breaks: bool = True
    exact_end: bool = True
    dense: bool = True
    logs: Literal["attempts", "steps", "grid", "nothing"] = "attempts"
    evaluations: int = 0
    inside: bool = False
    measured: bool = False
    controller: Controller | None = None
    note: str = ""


@dataclass
class Problem:
    """What a method is given to make its stepper from.

    Attributes:
        field: the field, counted.
        y0: initial states (B, ...), for shapes and dtypes.
        norm: the error norm; None where steps are not controlled.
        dense: whether steps will be interpolated.
        measure: of a field `du = N dmu`; None for `dy = field dt`.
        grid: times of the fixed steps, break points among them; None where steps are controlled.
    """

    field: Evaluator
    y0: Tensor
    norm: ErrorNorm | None
    dense: bool
    measure: Measure | None = None
    grid: Array | None = None


Make = Callable[[Problem], Stepper]
_METHODS: dict[str, tuple[MethodInfo, Make | None]] = {}


def register(info: MethodInfo, make: Make | None = None) -> None:
    """Add a method; `make` builds its stepper, None where a backend integrates by itself."""
    if info.name in _METHODS:
        raise ValueError(f"name={info.name!r} is registered already")
    _METHODS[info.name] = (info, make)


def methods() -> list[MethodInfo]:
    """All methods of `odeint` and `sdeint`: ODE before SDE, our own before those of backends."""
    infos = [info for info, _ in _METHODS.values()]
    return sorted(infos, key=lambda info: (info.kind, info.source != "solvers", info.source))


def find(name: str, kind: Literal["ode", "sde"]) -> tuple[MethodInfo, Make | None]:
    """The method of that name and kind.

    Raises:
        ValueError: if there is none; names the nearest ones.
    """
    entry = _METHODS.get(name)
    if entry is not None and entry[0].kind == kind:
        return entry
    known = [info.name for info in methods() if info.kind == kind]
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    if entry is not None:
        hint = f"it is of kind {entry[0].kind}, for {entry[0].kind}int"
    elif not near:
        hint = "choose from " + ", ".join(known)
    raise ValueError(f"method={name!r} is not a method of {kind}int: {hint}")
