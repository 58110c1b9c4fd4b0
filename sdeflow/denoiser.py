r"""One object that answers what the noise, the data, the score and the velocity are at (x, t).

For x = alpha x_0 + sigma eps and n2 = alpha^2 + sigma^2 the four predictions are one function in
four scales, each an affine combination of x and any other:

    score     = -eps / sigma
    velocity  = alpha eps - sigma x_0
    x_0       = (x - sigma eps) / alpha     = (alpha x - sigma velocity) / n2
    eps       = (x - alpha x_0) / sigma     = (alpha velocity + sigma x) / n2

The coefficients are computed in float64 on the host, in the form that does not divide by what
vanishes, and cast to the state's dtype last. A network that predicts the velocity is asked for
velocity / sqrt(n2), which has unit variance for unit-variance data whatever the process; with
`scale_input` this is the preconditioning of Karras et al. 2022 (arXiv 2206.00364) for
sigma_data = 1.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .conditioning import Conditioning, Time
from .elementary import length
from .sde import SDE, like, times

__all__ = [
    "PREDICTIONS",
    "Denoiser",
    "Predictor",
    "convert",
]

PREDICTIONS = ("noise", "data", "score", "velocity")


def convert(sde: SDE, t: Tensor, given: str, wanted: str) -> tuple[Tensor, Tensor]:
    """Coefficients (a, b) with wanted = a x + b given, at times t, in t's dtype.

    Args:
        sde: the process.
        t: times, any shape.
        given: the prediction at hand, one of `PREDICTIONS`.
        wanted: the prediction asked for, one of `PREDICTIONS`.
    """
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    if given == wanted:
        return zero, one
    n2 = one if sde.variance_preserving else alpha * alpha + sigma * sigma
    # Score in, score out: by way of the noise, exactly -sigma apart.
    if given == "score":
        a, b = convert(sde, t, "noise", wanted)
        return a, -sigma * b
    if wanted == "score":
        if given == "data":
            return -1 / (sigma * sigma), alpha / (sigma * sigma)
        a, b = convert(sde, t, given, "noise")
        return -a / sigma, -b / sigma
    table = {
        ("noise", "data"): lambda: (1 / alpha, -sigma / alpha),
        ("noise", "velocity"): lambda: (-sigma / alpha, n2 / alpha),
        ("data", "noise"): lambda: (1 / sigma, -alpha / sigma),
        ("data", "velocity"): lambda: (alpha / sigma, -n2 / sigma),
        ("velocity", "noise"): lambda: (sigma / n2, alpha / n2),
        ("velocity", "data"): lambda: (alpha / n2, -sigma / n2),
    }
    return table[given, wanted]()


class Predictor(ABC):
    """Base of `Denoiser` and of every oracle: four predictions at (x, t).

    x is (B, ...); t is (B,) float64 on the host, or a number in (0, 1] for all samples; the answer
    has x's shape, dtype and device. `label`, where the model takes one, is a (B,) integer tensor.

    Attributes:
        sde: the forward process.
        breaks: times at which the prediction jumps in t, ascending.
        prediction: the native one of the four; the others are conversions of it.
        quantised: whether the model knows some noise levels only, those of `visited`.
    """

    sde: SDE
    breaks: tuple[float, ...] = ()
    prediction: str = "noise"
    quantised: bool = False

    def visited(self, t: Tensor) -> Tensor:
        """The times at which the process is to be instead of t (float64, on the host)."""
        return t

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        """The prediction `wanted`, one of `PREDICTIONS`; t is (B,) float64 on the host."""

    def noise(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """E[eps | x_t = x]."""
        return self.predict(x, _host_times(t, x), "noise", label)

    def data(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t = x]."""
        return self.predict(x, _host_times(t, x), "data", label)

    def score(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """grad_x log p_t(x)."""
        return self.predict(x, _host_times(t, x), "score", label)

    def velocity(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """E[alpha eps - sigma x_0 | x_t = x]."""
        return self.predict(x, _host_times(t, x), "velocity", label)

    def given(
        self, label: Tensor | int | None = None, guidance: float = 1.0, null: int | None = None
    ) -> Predictor:
        """The same model for one label (or one per sample), with classifier-free guidance."""
        from .guidance import Guided

        return Guided(self, label, guidance, null)


def _host_times(t: Tensor | float, x: Tensor) -> Tensor:
    """t as (B,) float64 on the host, where all scalar work is done; a number is checked."""
    if isinstance(t, (int, float)) and not 0 < t <= 1:
        raise ValueError(
            f"t={t}: times run from 0 (data) to 1 (noise); give t in (0, 1], such as n / 1000 for "
            "step n of 1000"
        )
    t = times(t).detach().to(device="cpu").to(torch.float64)
    return t.expand(x.shape[0]) if t.dim() == 0 else t


def _check_prediction(name: str) -> None:
    if name not in PREDICTIONS:
        raise ValueError(f"predict={name!r}: choose one of {', '.join(PREDICTIONS)}")


def _first_weight(network: nn.Module) -> tuple[tuple[nn.Module, str], ...]:
    """Where the first floating-point parameter is, or nothing.

    Found once: looking for it costs as much as the rest of an evaluation's `inputs`. The place
    and not the parameter, since moving a module may put another one there.
    """
    found = (
        (module, name)
        for module in network.modules()
        for name, weight in module.named_parameters(recurse=False)
        if weight.is_floating_point()
    )
    return tuple(itertools.islice(found, 1))


class Denoiser(nn.Module, Predictor):
    """A network, a process and a conditioning: any torch module F(x, c) becomes a model.

    Args:
        network: module called as F(x, c), or F(x, c, label) where a label is given; x is
            (B, ...) in the dtype of the module's parameters, c is (B,) in x's dtype and device,
            unless the module has an attribute `condition_dtype = torch.float64`: then c stays
            float64 on the host. One with an attribute `image_channels` above 0 is called as
            F(x, c, label, image).
        sde: the forward process.
        conditioning: what the network is told about time; `Time()` by default.
        predict: what F answers: noise, data, score or velocity (divided by sqrt(n2)).
        scale_input: feed x / sqrt(alpha^2 + sigma^2) instead of x, as VE needs; VP does not
            change.

    Raises:
        ValueError: unknown `predict`, or an `sde` that is no process.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        conditioning: Conditioning | None = None,
        predict: str = "noise",
        scale_input: bool = False,
    ) -> None:
        _check_prediction(predict)
        if not isinstance(sde, SDE):
            raise ValueError(f"sde={sde!r}: give a process, for example make_sde('vp')")
        super().__init__()
        self.network = network
        self.sde = sde
        self.conditioning = Time() if conditioning is None else conditioning
        self.prediction = predict
        self.scale_input = scale_input
        self._first = _first_weight(network)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Refused: a model has four answers.

        Raises:
            TypeError: always.
        """
        raise TypeError("a Denoiser has four answers: call .noise, .data, .score or .velocity")

    @property
    def breaks(self) -> tuple[float, ...]:  # type: ignore[override]
        """Times at which the condition jumps, or the process has a kink."""
        return tuple(sorted({*self.conditioning.breaks, *self.sde.breaks}))

    @property
    def quantised(self) -> bool:  # type: ignore[override]
        """Whether the noise level is shared, too."""
        return self.conditioning.quantised

    def visited(self, t: Tensor) -> Tensor:
        return self.conditioning.visited(t)

    def told(self, conditioning: Conditioning) -> Denoiser:
        """The same network told something else of time; weights are shared, not copied.

        With E-TSDM on a network trained without it this is sharing only while sampling; with
        `Time()` on one trained with it, sharing only while training. The network's embedding
        expects the kind of condition it was trained on.
        """
        model = Denoiser(self.network, self.sde, conditioning, self.prediction, self.scale_input)
        return model.train(self.training)

    def raw(
        self,
        x: Tensor,
        t: Tensor | float,
        label: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """The network's own output, what the training loss compares.

        Raises:
            ValueError: an image for a network that takes none, or none for one that does; an
            answer that is no tensor of x's shape.
        """
        if bool(getattr(self.network, "image_channels", 0)) == (image is None):
            raise ValueError(
                "image: this model was trained for super-resolution and needs an image per sample"
                if image is None
                else "image: this model was not trained for super-resolution; leave it out"
            )
        x, c = self.inputs(x, t)
        given = () if label is None else (label,)
        out: Tensor = (
            self.network(x, c, *given)
            if image is None
            else self.network(x, c, label, image.to(x.dtype))
        )
        if not isinstance(out, Tensor):
            raise ValueError(
                f"network={type(self.network).__name__}: answers a {type(out).__name__}; return "
                "the tensor itself, such as its first entry, or its .sample"
            )
        if out.shape != x.shape:
            raise ValueError(
                f"network={type(self.network).__name__}: answers shape {tuple(out.shape)} to x of "
                f"shape {tuple(x.shape)}; "
                + (
                    "give x a batch dimension, x[None]"
                    if out.dim() > x.dim()
                    else "return one prediction of x's shape"
                )
            )
        return out

    def inputs(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """What the network is given: x, scaled where it is to be, and the condition c, (B,)."""
        t = _host_times(t, x)
        if self.scale_input and not self.sde.variance_preserving:
            x = x * like(1 / self._size(t), x)
        # A state in float64 may be integrated with a network in float32.
        for module, name in self._first:
            weight = module._parameters.get(name)
            x = x if weight is None else x.to(weight.dtype)
        c = self.conditioning(t)
        if getattr(self.network, "condition_dtype", None) is not torch.float64:
            c = c.to(dtype=x.dtype).to(device=x.device)
        return x, c

    def _size(self, t: Tensor) -> Tensor:
        """sqrt(alpha^2 + sigma^2), the size of x for unit-variance data."""
        return length(self.sde.alpha(t), self.sde.sigma(t))

    def output_scale(self, t: Tensor) -> Tensor:
        """What the network's output is multiplied by to be the prediction; (B,) float64."""
        if self.prediction == "velocity" and not self.sde.variance_preserving:
            return self._size(t)
        return torch.ones_like(t)

    def predict(
        self,
        x: Tensor,
        t: Tensor,
        wanted: str,
        label: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        _check_prediction(wanted)
        out = self.raw(x, t, label, image).to(x.dtype)
        a, b = convert(self.sde, t, self.prediction, wanted)
        b = b * self.output_scale(t)
        if wanted == self.prediction and self.sde.variance_preserving:
            return out
        return torch.addcmul(like(b, x) * out, like(a, x), x)
