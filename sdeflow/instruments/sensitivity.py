r"""How much a model's answer changes when what it is given is perturbed.

With n standard normal noise and a relative scale h, one of three things is perturbed at time t:

    x           x_t + h rms(x_t) n
    condition   c(t) + h span n           span: the size of the range c covers over a run
    features    e + h rms(e) n            e: the output of a module, by default the embedding

and two answers are compared with what they were without, sample by sample:

    prediction  ||pred' - pred|| / ||pred||
    sample      ||x'_0 - x_0|| / ||x_0||  where the flow is integrated from x_t down to t_min, with
                x perturbed at its start, or with the same n on condition or features all the way

The noise is the same for all times and scales, and for all models of one seed, so comparisons
between them are paired. For a prediction that is linear, eps = a x, perturbing x changes it by
h ||n|| / sqrt(D) exactly, whatever x: about h.

Source: the perturbation test of Yang et al., ICLR 2024, arXiv 2306.11251.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..conditioning import Conditioning
from ..denoiser import PREDICTIONS, Denoiser, Predictor
from ..modes import evaluated
from ..sampling import sample
from ..sde import like
from ..shared_time import Told
from .derivative import differentiable
from .probe import Probe, place, statistics
from .space import norms_of

__all__ = ["PERTURBED", "SensitivityStudy", "sensitivity_study"]

PERTURBED = ("x", "condition", "features")
SOLVER = "ddim"  # of fixed steps, so that all samples stay in one batch with their noise


@dataclass(frozen=True)
class SensitivityStudy:
    """What was measured.

    Attributes:
        rows: a row per perturbed thing, time, scale and answer, with keys perturbed, answer
            (prediction or sample), t, sigma, log_snr, scale, mean, error, median, maximum.
        settings: prediction, samples, seed, dtype, and steps and t_min of the samples.
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]


class _Shifted(Conditioning):
    """Another condition plus a constant of each sample, (B,)."""

    def __init__(self, of: Conditioning, shift: Tensor) -> None:
        self.of, self.shift = of, shift
        self.breaks, self.span = of.breaks, of.span

    def __call__(self, t: Tensor) -> Tensor:
        return self.of(t) + self.shift


@evaluated
def sensitivity_study(
    model: Predictor,
    x_0: Tensor | None = None,
    times: Sequence[float] = (0.001, 0.01, 0.1, 0.5),
    *,
    scales: Sequence[float] = (0.01, 0.1),
    perturb: Sequence[str] = ("x",),
    wanted: str = "noise",
    features: str | None = None,
    samples: bool = False,
    steps: int = 20,
    t_min: float = 1e-3,
    label: Tensor | None = None,
    count: int = 64,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> SensitivityStudy:
    """Perturb a model's input, condition or features, and see how much its answer changes.

    Measured without autocast, in float32 or better whatever the model was trained in. A ratio
    with a prediction of 0 below it is infinite or not a number, and shows as that.

    Args:
        model: a `Denoiser`, on any device, or an oracle.
        x_0: data, (N, ...); an oracle draws its own.
        times: where to perturb, in (0, 1].
        scales: relative sizes of the perturbation.
        perturb: what to perturb, out of `PERTURBED`.
        wanted: which prediction is compared.
        features: name of the module of the network whose output is perturbed, as in
            `network.named_modules()`; "embedding" by default.
        samples: whether to integrate the flow and compare its ends, too; times must then be above
            t_min.
        steps: of each integration (DDIM).
        t_min: where integrations end.
        label: classes of x_0, (N,), or None.
        count: how many x at each time.
        batch_size: how many at once.
        seed: of x and of the perturbation.
        progress: called with the share done.

    Raises:
        ValueError: arguments that cannot be; a model without what is to be perturbed.
    """
    _check(times, scales, perturb, wanted, t_min if samples else 0.0)
    probe = Probe(model, x_0, label, count, batch_size, seed)
    for what in perturb:
        _check_has(probe.model, what, features)
    noise = torch.Generator().manual_seed(seed + 1)
    in_x = torch.randn(probe.x_0.shape, dtype=torch.float64, generator=noise)
    in_c = torch.randn(count, dtype=torch.float64, generator=noise)

    def answers(of: Predictor, x: Tensor, t: Tensor, label: Tensor | None) -> dict[str, Tensor]:
        found = {"prediction": of.predict(x, t, wanted, label)}
        if samples:
            start = float(t[0])
            found["sample"] = sample(
                of,
                solver=SOLVER,
                steps=steps,
                noise=x / of.sde.prior_scale(start),
                t_max=start,
                t_min=t_min,
                label=label,
                dtype=x.dtype,
            ).x
        return found

    rows = []
    for i, t in enumerate(times):
        ratios: dict[tuple[str, float, str], list[Tensor]] = {}
        with torch.no_grad(), differentiable(probe.device):
            for where, (x, time, labels) in zip(probe.rows(), probe.batches(t), strict=True):
                plain = answers(probe.model, x, time, labels)
                for what in perturb:
                    for scale in scales:
                        moved = x
                        if what == "x":
                            size = norms_of(x) / math.sqrt(x[0].numel())
                            moved = x + scale * like(size, x) * in_x[where].to(x)
                        shift = scale * in_c[where]
                        changed = _perturbed(probe, what, shift, scale, features, where, seed)
                        with changed as other:
                            found = answers(other, moved, time, labels)
                        for answer, value in found.items():
                            change = norms_of(value - plain[answer]) / norms_of(plain[answer])
                            ratios.setdefault((what, scale, answer), []).append(change)
        for (what, scale, answer), parts in ratios.items():
            row = {"perturbed": what, "answer": answer, **place(probe.model, t), "scale": scale}
            rows.append({**row, **statistics(torch.cat(parts).cpu().double().numpy())})
        if progress:
            progress((i + 1) / len(times))
    settings = {
        "prediction": wanted,
        "count": count,
        "seed": seed,
        "dtype": str(probe.dtype).removeprefix("torch."),
        "steps": steps if samples else None,
        "t_min": t_min if samples else None,
    }
    return SensitivityStudy(rows, settings)


def _check(
    times: Sequence[float],
    scales: Sequence[float],
    perturb: Sequence[str],
    wanted: str,
    t_min: float,
) -> None:
    if not times or not all(t_min < t <= 1 for t in times):
        raise ValueError(f"times={list(times)}: need times in ({t_min:g}, 1]")
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales={list(scales)}: need positive numbers, e.g. 0.01")
    if not perturb or not set(perturb) <= set(PERTURBED):
        raise ValueError(f"perturb={list(perturb)}: choose from {', '.join(PERTURBED)}")
    if wanted not in PREDICTIONS:
        raise ValueError(f"wanted={wanted!r}: choose one of {', '.join(PREDICTIONS)}")


def _check_has(model: Predictor, what: str, features: str | None) -> None:
    """Refuse to perturb what a model does not have."""
    if what == "condition" and not isinstance(model, (Denoiser, Told)):
        raise ValueError(f"perturb='condition': a {type(model).__name__} is told none")
    if what == "features":
        if not isinstance(model, Denoiser):
            raise ValueError(f"perturb='features': a {type(model).__name__} has no network")
        _module(model, features)


def _module(model: Denoiser, name: str | None) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.network.named_modules())
    name = "embedding" if name is None else name
    if name not in modules:
        near = ", ".join([n for n, _ in model.network.named_children()][:8])
        raise ValueError(f"features={name!r}: the network has no such module; it has {near}, ...")
    return modules[name]


@contextmanager
def _perturbed(
    probe: Probe,
    what: str,
    shift: Tensor,
    scale: float,
    features: str | None,
    where: slice,
    seed: int,
) -> Iterator[Predictor]:
    """The model with its condition or features perturbed; for x, as it is."""
    model = probe.model
    if what == "condition" and isinstance(model, (Denoiser, Told)):
        # A shallow copy shares the weights; the model itself is not touched.
        other = copy.copy(model)
        other.conditioning = _Shifted(model.conditioning, shift * model.conditioning.span)
        yield other
    elif what == "features" and isinstance(model, Denoiser):

        def disturb(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(seed + 2)
            shape = (len(probe.x_0), *out.shape[1:])
            noise = torch.randn(shape, dtype=torch.float64, generator=generator)[where]
            size = norms_of(out) / math.sqrt(out[0].numel())
            return out + scale * like(size, out) * noise.to(out)

        handle = _module(model, features).register_forward_hook(disturb)
        try:
            yield model
        finally:
            handle.remove()
    else:
        yield model
