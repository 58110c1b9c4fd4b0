r"""Error budget: what the solver, the model and the cut at t_min each add to a sample, and where.

From the same start noise, with Phi^m and Phi^e the tight flows of the model and of the exact
model, x~ the sampler's own path and R the last operation (identity, or the denoiser: `final`), the
error of a sample against x_0, where the exact flow arrives at t = 0, is a sum of three vectors:

    R_m x~(t_min) - x_0  =  R_m x~(t_min) - R_m Phi^m      solver
                          + R_m Phi^m     - R_e Phi^e      model
                          + R_e Phi^e     - x_0            cut

Each is split over intervals t_max = b_0 > b_1 > ... > b_m = t_min by changing from one path to the
other at b_k: with Phi(b_k) the flow from b_k to t_min,

    solver, k-th part   R_m [Phi^m(b_k) x~(b_k)]   - R_m [Phi^m(b_{k-1}) x~(b_{k-1})]
    model, k-th part    R_e [Phi^e(b_k) Phi^m ...] - R_e [Phi^e(b_{k-1}) Phi^m ...]

so that a part is what happens in its interval, as it shows in the finished sample, and the parts
of a cause sum to it exactly (to the tolerance of the tight flows). The cut is split along the
exact flow below t_min, down to `floor`, where the denoised state stands for x_0. Without an exact
model there is no second line, and the model's own flow takes the place of Phi^e.

All these are in units of x: root mean squares over samples and numbers. They do not add up,
vectors do; the share of a part p in a whole w is <p, w> / |w|^2, and shares sum to 1.

Apart from them, in units of the noise, stands the error of the noise prediction itself, against
the exact one with x drawn at times in the interval; for a run on data without an exact model see
`sdeflow.instruments.noise_error`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from solvers.noise import NoiseSource, sample_seeds

from ..batches import Progress, device_of
from ..denoiser import Predictor
from ..grids import time_grid
from ..guidance import innermost
from ..modes import evaluated
from ..plan import make_plan
from ..precision import check_float64, in_float64
from ..samplers import DEFAULT_SOLVER
from ..sampling import sample
from .probe import Probe
from .space import norms_of
from .step_sizes import tight_solver

__all__ = ["Budget", "error_budget"]

FLOOR = 1e-8  # where the exact flow ends, by default; the noise left there is removed
DRAWS = 4  # times an interval at which noise predictions are compared


@dataclass(frozen=True)
class Budget:
    """Where the errors of samples come from.

    Attributes:
        causes: a row per cause (solver, model, cut, total), with keys cause, rms, error (its
            standard error), share (of the total).
        parts: a row per cause and interval, with keys cause, t_high, t_low (0 for what the last
            operation does), sigma_high, sigma_low, log_snr_high, log_snr_low, rms, error, share
            (of the cause).
        endings: a row per last operation (none, denoise), with keys final, rms, error: the cut
            with the one and with the other.
        predictions: a row per interval with keys t_high, t_low and so on, rms and error of the
            noise prediction against the exact one, and size, its own root mean square; empty
            without an exact model.
        settings: of the sampler, the tight flows and the samples.
    """

    causes: list[dict[str, Any]]
    parts: list[dict[str, Any]]
    endings: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


@evaluated
def error_budget(
    model: Predictor,
    shape: tuple[int, ...] | None = None,
    *,
    exact: Predictor | None = None,
    solver: str = DEFAULT_SOLVER,
    steps: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    controller: str = "pi",
    chart: str | None = None,
    grid: str | None = None,
    breaks: bool | None = None,
    final: Literal["none", "denoise"] = "none",
    t_min: float = 1e-3,
    t_max: float | None = None,
    label: int | Tensor | None = None,
    guidance: float = 1.0,
    bins: int = 8,
    floor: float = FLOOR,
    reference_tolerance: float | None = None,
    count: int = 64,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Budget:
    """Measure where the errors of a sampler's samples come from.

    Tight flows run in float64, a network with the same weights; the sampler runs as it would, a
    network in float32. The states between which the solver's error is split are those of the
    sampler's own steps where they are fixed, and of its dense output where it chooses them.

    Args:
        model: a model or an oracle.
        shape: shape of one sample; oracles bring their own.
        exact: the exact model, of the same process; None where there is none.
        solver, steps, rtol, atol, controller, chart, grid, breaks, t_min, t_max, label, guidance,
            count, seed, batch_size: of the sampler, as in `sdeflow.sampling.sample`.
        final: none, or denoise.
        bins: number of intervals, equal in log-SNR; where steps are fixed, between times of the
            grid.
        floor: time that stands for 0, inside (0, t_min).
        reference_tolerance: rtol and atol of the tight flows; by default a thousandth of the
            sampler's, and at most 1e-6.
        progress: called with the share of the work done.

    Raises:
        ValueError: an argument out of range, a solver that does not follow the flow, or an exact
            model of another shape.
        solvers.SolverError: a sample failed.
    """
    if final not in ("none", "denoise"):
        raise ValueError(f"final={final!r}: choose none or denoise")
    if bins < 1 or count < 2:
        raise ValueError(f"bins={bins}, count={count}: need 1 interval and 2 samples at least")
    if not 0 < floor < t_min:
        raise ValueError(f"floor={floor}: must be inside (0, t_min={t_min:g})")
    common: dict[str, Any] = {"t_min": t_min, "t_max": t_max, "eta": None}
    own: dict[str, Any] = {
        "solver": solver, "steps": steps, "rtol": rtol, "atol": atol, "controller": controller,
        "chart": chart, "grid": grid, "breaks": breaks,
    }  # fmt: skip
    plan = make_plan(model, **own, **common, max_evaluations=1)
    if plan.eta != 0 or plan.sampler.churn != 0 or plan.sampler.kind == "sde":
        raise ValueError(
            f"solver={solver!r}: adds noise; a budget needs one that follows the flow"
        )
    if reference_tolerance is None:
        tight = [t for t in (plan.rtol, plan.atol) if t > 0]
        reference_tolerance = min(1e-6, 1e-3 * min(tight, default=1.0))
    start = plan.t_start
    if not model.sde.has_signal_at(start):  # the tight flow needs a finite log-SNR
        if t_max is not None:
            raise ValueError(f"t_max={t_max:g}: no signal is left there; use a smaller t_max")
        start = make_plan(
            model,
            **{**own, "solver": tight_solver(model), "chart": None, "grid": None, "steps": None},
            **common, max_evaluations=1,
        ).t_start  # fmt: skip
        plan = make_plan(model, **own, **{**common, "t_max": start}, max_evaluations=1)
    if shape is None:
        shape = getattr(innermost(model), "data_shape", None)
    if shape is None:
        raise ValueError("shape=None: say the shape of one sample, for example (1, 28, 28)")
    if exact is not None and tuple(getattr(exact, "data_shape", shape)) != tuple(shape):
        raise ValueError(
            f"the exact model has samples of shape {getattr(exact, 'data_shape', None)}, the "
            f"model {tuple(shape)}"
        )
    bounds = _bounds(plan.times, start, t_min, bins, model)
    network = isinstance(innermost(model), nn.Module)
    flow = _Flow(label, guidance, batch_size, reference_tolerance)
    precise = in_float64(model)
    check_float64(precise, shape, label)
    truth = precise if exact is None else in_float64(exact)
    solves = itertools.count(1)
    below = _decades(t_min, floor)
    expected = (len(bounds) - 1) * (2 if exact is None else 3) + len(below) + 1

    def tell() -> None:
        if progress:
            progress(min(1.0, next(solves) / expected))

    dtype = torch.float32 if network else torch.float64
    source = NoiseSource(sample_seeds(seed, count), tuple(shape), dtype=dtype)
    noise = source.normal(0)
    inner = torch.tensor(bounds[1:-1], dtype=torch.float64)
    run = sample(
        model, shape, noise=noise, dtype=dtype, label=label, guidance=guidance,
        batch_size=batch_size, trajectory=inner if len(inner) else None, **own,
        t_min=t_min, t_max=start,
    )  # fmt: skip
    tell()
    host = [noise.double() * model.sde.prior_scale(start)]
    between = () if run.trajectory is None else run.trajectory
    states = [*host, *(x.cpu().double() for x in between), run.x.cpu().double()]
    # The model's own tight path, through all bounds.
    path = [states[0]]
    for high, low in itertools.pairwise(bounds):
        path.append(flow(precise, path[-1], high, low))
        tell()

    def finish(of: Predictor, x: Tensor) -> Tensor:
        return x if final == "none" else flow.data(of, x, t_min)

    ends = [path[-1]]
    for x, high in zip(states[1:-1], bounds[1:-1], strict=True):
        ends.append(flow(precise, x, high, t_min))
        tell()
    ends = [finish(precise, x) for x in (*ends, states[-1])]
    parts = {"solver": [(*ab, q - p) for ab, (p, q) in _steps(bounds, ends)]}
    kept = path[-1]
    if exact is not None:
        crossed = []
        for x, high in zip(path[:-1], bounds[:-1], strict=True):
            crossed.append(flow(truth, x, high, t_min))
            tell()
        kept = crossed[0]
        seen = [finish(truth, x) for x in (*crossed, path[-1])]
        parts["model"] = [(*ab, q - p) for ab, (p, q) in _steps(bounds, seen)]
        if final == "denoise":
            parts["model"].append((t_min, 0.0, ends[0] - seen[-1]))
    early = [kept]
    for high, low in itertools.pairwise(below):
        early.append(flow(truth, early[-1], high, low))
        tell()
    x_0 = flow.data(truth, early[-1], floor)
    if final == "none":
        parts["cut"] = [(*ab, p - q) for ab, (p, q) in _steps(below, early)]
        parts["cut"].append((floor, 0.0, early[-1] - x_0))
    else:
        parts["cut"] = [(t_min, 0.0, finish(truth, kept) - x_0)]
    wholes = {cause: sum(part for _, _, part in rows) for cause, rows in parts.items()}
    total = ends[-1] - x_0
    denoised = flow.data(truth, kept, t_min)
    settings = {
        **run.settings, "label": flow.named, "guidance": guidance, "final": final, "count": count,
        "seed": seed, "bounds": bounds, "floor": floor,
        "floor_sigma": float(model.sde.sigma(floor)),
        "floor_log_snr": float(model.sde.log_snr(floor)),
        "evaluations": float(run.log.evaluations.mean()),
        "reference": tight_solver(model), "reference_tolerance": reference_tolerance,
        "exact": exact is not None,
        "reference_of_exact": None if exact is None else tight_solver(exact),
    }  # fmt: skip
    return Budget(
        [
            {"cause": cause, **_size(whole), "share": _share(whole, total)}
            for cause, whole in {**wholes, "total": total}.items()
        ],
        [
            {
                "cause": cause,
                **_interval(model, high, low),
                **_size(part),
                "share": _share(part, wholes[cause]),
            }
            for cause, rows in parts.items()
            for high, low, part in rows
        ],
        [
            {"final": "none", **_size(kept - x_0)},
            {"final": "denoise", **_size(denoised - x_0)},
        ],
        [] if exact is None else _predictions(precise, truth, bounds, floor, count, seed),
        settings,
    )


def _steps(bounds: list[float], states: list[Tensor]) -> Any:
    """Consecutive bounds with consecutive states."""
    return zip(itertools.pairwise(bounds), itertools.pairwise(states), strict=True)


class _Flow:
    """Tight solutions of the probability flow in float64, on the host or the model's device."""

    def __init__(
        self, label: int | Tensor | None, guidance: float, batch_size: int | None, tolerance: float
    ) -> None:
        self.label, self.guidance = label, guidance
        self.batch_size, self.tolerance = batch_size, tolerance

    @property
    def named(self) -> Any:
        """The label, ready for JSON."""
        return self.label.tolist() if isinstance(self.label, Tensor) else self.label

    def __call__(self, model: Predictor, x: Tensor, high: float, low: float) -> Tensor:
        """x at time `low` on the flow through x at time `high`."""
        found = sample(
            model,
            solver=tight_solver(model),
            rtol=self.tolerance,
            atol=self.tolerance,
            t_max=high,
            t_min=low,
            noise=x / model.sde.prior_scale(high),
            dtype=torch.float64,
            label=self.label,
            guidance=self.guidance,
            batch_size=self.batch_size,
            max_evaluations=1_000_000,
        )
        return found.x.cpu()

    def data(self, model: Predictor, x: Tensor, t: float) -> Tensor:
        """E[x_0 | x] at time t."""
        device = device_of(model)
        if self.label is not None or self.guidance != 1:
            model = model.given(self.label, self.guidance)
        with torch.no_grad():
            return model.data(x.to(device), t).cpu()


def _bounds(
    times: Tensor | None, t_max: float, t_min: float, bins: int, model: Predictor
) -> list[float]:
    """Times between the intervals, falling."""
    even = time_grid("log-snr", model.sde, bins, t_max, t_min)
    if times is None:
        return [float(t) for t in even]
    there, wanted = model.sde.log_snr(times), model.sde.log_snr(even)
    nearest = (there[None] - wanted[:, None]).abs().argmin(1)
    return [float(times[i]) for i in sorted({0, *nearest.tolist(), len(times) - 1})]


def _decades(t_min: float, floor: float) -> list[float]:
    """Times from t_min down to the floor, at most a factor of 10 apart."""
    steps = math.ceil(math.log10(t_min / floor) * (1 - 1e-12))
    return [t_min, *(t_min * (floor / t_min) ** (k / steps) for k in range(1, steps)), floor]


def _size(x: Tensor) -> dict[str, float]:
    """Root mean square over samples and numbers, with its standard error over samples."""
    squares = x.flatten(1).square().mean(1)
    rms = math.sqrt(float(squares.mean()))
    spread = float(squares.std()) / math.sqrt(len(squares))
    return {"rms": rms, "error": spread / (2 * rms) if rms else 0.0}


def _share(part: Tensor, whole: Tensor) -> float | None:
    """<part, whole> / |whole|^2."""
    square = float(whole.square().sum())
    return float((part * whole).sum()) / square if square else None


def _interval(model: Predictor, high: float, low: float) -> dict[str, float | None]:
    """An interval in t, sigma and log-SNR; None for the log-SNR at 0."""
    sde = model.sde
    return {
        "t_high": high,
        "t_low": low,
        "sigma_high": float(sde.sigma(high)),
        "sigma_low": float(sde.sigma(low)),
        "log_snr_high": float(sde.log_snr(low)) if low else None,
        "log_snr_low": float(sde.log_snr(high)),
    }


def _predictions(
    model: Predictor, exact: Predictor, bounds: list[float], floor: float, count: int, seed: int
) -> list[dict[str, Any]]:
    """The noise prediction against the exact one, x drawn at times stratified in log t."""
    probe = Probe(exact, None, None, count, count, seed)
    rows = []

    def ask(of: Predictor, x: Tensor, t: Tensor) -> Tensor:
        return of.noise(x.to(device_of(of)), t).cpu()

    for high, low in itertools.pairwise([*bounds, floor]):
        shares = (np.arange(DRAWS) + 0.5) / DRAWS
        gaps, sizes = [], []
        for t in np.exp(np.log(low) + shares * (np.log(high) - np.log(low))).tolist():
            (x, at, _), *_ = probe.batches(t)
            with torch.no_grad():
                known = ask(exact, x, at)
                gaps.append(norms_of(ask(model, x, at) - known).square())
                sizes.append(known.square().mean())
        squares = torch.stack(gaps).mean(0)[:, None] / known[0].numel()
        row = {**_interval(model, high, low), **_size(squares.sqrt())}
        rows.append({**row, "size": math.sqrt(float(torch.stack(sizes).mean()))})
    return rows
