r"""How steep a model is in x, and how bent its probability flow.

    largest singular value of J = d pred/dx:   max over unit v of ||J v||
    curvature                                  ||d eps / d rho|| along the flow, rho = sigma/alpha

With y = x/alpha the flow is dy/d rho = eps, so y moves along a straight line exactly where the
curvature is 0, and one step of DDIM (Euler in these coordinates) is exact there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoiser import Predictor
from ..sde import like
from .derivative import differentiable, predictions, push, time_derivative

__all__ = ["curvature", "largest_singular_value"]


def largest_singular_value(
    model: Predictor,
    x: Tensor,
    t: Tensor,
    wanted: str = "noise",
    label: Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Tensor:
    r"""The largest singular value of d pred/dx for each sample: how steep it is in x.

    Power iteration on J^T J, for all samples at once since J is block-diagonal over the batch.
    Each estimate |J v| is a lower bound that grows; it stops when none has grown by more than
    `tolerance` of itself.

    Args:
        model: the model; must not mix samples of a batch.
        x: samples, (B, ...).
        t: times, (B,) float64 on the host.
        wanted: which prediction.
        label: classes (B,), or None.
        iterations: at most so many, each a product with J and one with J^T.
        tolerance: relative.
        seed: of the first directions.

    Returns:
        (B,) in x's dtype.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: need at least 1")

    def f(x: Tensor) -> Tensor:
        return model.predict(x, t, wanted, label)

    v = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    v = v.to(x.dtype).to(x.device)
    best = x.new_zeros(len(x))
    with differentiable(x.device):
        pull = torch.func.vjp(f, x)[1]
        for _ in range(iterations):
            v = v / like(norms_of(v).clamp_min(torch.finfo(x.dtype).tiny), x)
            u = push(f, (x,), (v,))[1].detach()
            found = norms_of(u)
            if bool((found <= best * (1 + tolerance)).all()):
                return torch.maximum(found, best)
            best = torch.maximum(found, best)
            (v,) = (g.detach() for g in pull(u))
    return best


def curvature(model: Predictor, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """||d^2 (x/alpha) / d rho^2|| of the flow through (x, t), rho = sigma/alpha; (B,).

    Args:
        model: the model.
        x: samples, (B, ...).
        t: times, (B,) float64 on the host.
        label: classes (B,), or None.
    """
    sde = model.sde
    w = sde.wronskian(t)
    with torch.no_grad(), differentiable(x.device):
        guess = predictions(model, x, t, ("data", "noise"), label)
        on_data, on_noise = (like(w * c, x) for c in sde.flow_coefficients(t))
        flow = on_data * guess["data"] + on_noise * guess["noise"]
        moved = push(lambda x: model.predict(x, t, "noise", label), (x,), (flow,))[1]
    rate = moved + time_derivative(model, x, t, ("noise",), label)["noise"].total
    return norms_of(rate) * (sde.alpha(t) ** 2 / w).to(x.dtype).to(x.device)


def norms_of(x: Tensor) -> Tensor:
    """Euclidean norm of each sample, (B,)."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms
