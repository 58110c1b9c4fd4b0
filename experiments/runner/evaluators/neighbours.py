r"""How neighbouring solutions of the flow separate or merge, in both directions of time.

Two solutions start a distance h apart, h small, and end a distance h' apart:

    backward   from t = 1 down to t_min, starts x and x + h n
    forward    from t_min up to 1, starts at data x_0 + sigma eps and the same + h n

log(h'/h) is the separation. Solutions are unique where the field is Lipschitz in x with a constant
that can be integrated over time; its integral bounds |log(h'/h)|. Where data lie on a manifold
or are finitely many, the field pulls to them at the rate 1/t, and neighbours merge going backward
without ever crossing; forward, they separate.

Exact models are solved tightly. A network is too rough for that to end: it is solved on one grid
for both of a pair, equal steps in log-SNR, so that the error of the steps moves the two alike and
the separation is that of the discrete flow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdeflow.instruments.probe import draw_data
from sdeflow.precision import in_float64
from sdeflow.sampling import encode, sample

from .measured import Measured

__all__ = ["neighbours", "solver_of"]

ENDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
STEPS = 100  # of the grid for networks
DISTANCE = 1e-5  # of neighbours, relative to the norm of x: so near that only the field counts


def neighbours(
    of: Measured, *, count: int, tolerance: float = 1e-7, ends: tuple[float, ...] = ENDS
) -> dict[str, Any]:
    """Separations, for several end times; everything in float64.

    Returns:
        t_min; backward and forward: mean over pairs of log(h'/h) for each; the same as single
        numbers "backward T_MIN" and "forward T_MIN", and failed, the share of failed solutions.
    """
    model = in_float64(of.model)
    seed = of.subject.seed
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *of.shape)
    noise, direction, eps = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    direction = direction / _size(direction, direction)
    probes = of.probes()
    x_0 = draw_data(model, count, seed) if probes is None else probes[:count]
    found: dict[str, Any] = {"t_min": list(ends), "backward": [], "forward": []}
    failed = []
    common = solver_of(model, tolerance)
    for end in ends:
        near = noise + DISTANCE * _size(noise, direction) * direction
        pair = torch.cat([noise, near])
        down = sample(model, noise=pair, t_min=end, dtype=torch.float64, **common)
        start = model.sde.perturb(x_0.double(), end, eps)
        other = start + DISTANCE * _size(start, direction) * direction
        up = encode(model, torch.cat([start, other]), t_min=end, **common)
        for name, solved, before in (
            ("backward", down.x.cpu(), pair * model.sde.prior_scale(down.settings["t_max"])),
            ("forward", up.x.cpu(), torch.cat([start, other])),
        ):
            value = float((_gap(solved) / _gap(before)).log().mean())
            found[name].append(value)
            found[f"{name} {end:g}"] = value
        failed += [1 - float(run.ok.mean()) for run in (down, up)]
    return {**found, "failed": sum(failed) / len(failed)}


def solver_of(model: Any, tolerance: float) -> dict[str, Any]:
    """How to solve a model: settings of `sample` and `encode`."""
    if isinstance(model, nn.Module):
        return {"solver": "abm-3", "grid": "log-snr", "steps": STEPS, "on_failure": "return"}
    return {
        "solver": "dopri8",
        "rtol": tolerance,
        "atol": tolerance * 1e-2,
        "on_failure": "return",
        "max_evaluations": 20_000,
    }


def _gap(x: Tensor) -> Tensor:
    """Distance between the two halves of a batch, pair by pair."""
    half = len(x) // 2
    return torch.linalg.vector_norm((x[:half] - x[half:]).flatten(1), dim=1)


def _size(x: Tensor, like: Tensor) -> Tensor:
    """Norm of each sample, in a shape that multiplies `like`."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *[1] * (like.dim() - 1))
