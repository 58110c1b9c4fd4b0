r"""Exact denoisers: data distributions whose noise prediction has a closed form.

For data sum_k w_k N(mu_k, S_k) the marginal of x_t is sum_k w_k N(alpha mu_k, C_k) with
C_k = alpha^2 S_k + sigma^2 I, and with the posterior r_k(x) over components

    eps(x, t)  = sum_k r_k sigma C_k^-1 (x - alpha mu_k)            no division by sigma
    x_0(x, t)  = sum_k r_k [mu_k + alpha S_k C_k^-1 (x - alpha mu_k)]

A finite data set is the case S_k = 0. For a single Gaussian the probability flow is linear: in
the eigenbasis of S, with eigenvalues l,

    x_s = alpha_s mu + sqrt(c_s / c_t) (x_t - alpha_t mu),     c_t = alpha_t^2 l + sigma_t^2
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .denoiser import Predictor
from .sde import SDE, like

__all__ = [
    "FiniteData",
    "Gaussian",
    "LabelledOracle",
    "Mixture",
    "Oracle",
    "make_oracle",
]


class Oracle(Predictor):
    """A predictor that knows its data distribution.

    Attributes:
        data_shape: shape of one sample.
    """

    data_shape: tuple[int, ...]
    # Known of all four without a conversion, and the one that every other follows from without a
    # division by alpha, which may be 0 at t = 1.
    prediction = "velocity"

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """log p_t(x), (B,), in nats."""
        raise ValueError(f"{type(self).__name__} has no closed-form density")


class Mixture(Oracle):
    """Exact denoiser of a mixture of Gaussians (any covariances, widths may be 0).

    Args:
        sde: the forward process.
        means: (K, ...) component means; the trailing shape is the shape of a sample, of size D.
        weights: (K,) positive weights, normalised here; equal by default.
        width: standard deviation of isotropic components, a number or (K,).
        covariance: (K, D, D) full covariances instead of `width`.

    Raises:
        ValueError: shapes that do not fit, both or neither of width and covariance.
    """

    def __init__(
        self,
        sde: SDE,
        means: Tensor,
        weights: Tensor | None = None,
        width: float | Tensor | None = None,
        covariance: Tensor | None = None,
    ) -> None:
        if (width is None) == (covariance is None):
            raise ValueError("width, covariance: give exactly one of the two")
        self.sde, self.breaks = sde, sde.breaks
        self.data_shape = tuple(means.shape[1:])
        self.means = means.to(torch.float64).flatten(1)
        k, d = self.means.shape
        weights = torch.ones(k) if weights is None else weights
        if weights.shape != (k,) or not bool((weights > 0).all()):
            raise ValueError(f"weights: need {k} positive numbers, got shape {weights.shape}")
        self.log_weights = torch.log(weights.double() / weights.double().sum())
        self.basis: Tensor | None = None
        if covariance is None:
            spread = torch.as_tensor(width, dtype=torch.float64).expand(k) ** 2
            self.variances = spread[:, None].expand(k, d)
        else:
            if covariance.shape != (k, d, d):
                raise ValueError(f"covariance: need shape {(k, d, d)}, got {covariance.shape}")
            values, self.basis = torch.linalg.eigh(covariance.double())
            self.variances = values.clamp_min(0)

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior r (B, K), centred x in each eigenbasis (B, K, D), log joint (B, K)."""
        flat = x.reshape(len(x), 1, -1)
        alpha = like(self.sde.alpha(t), flat)
        y = flat - alpha * self.means.to(flat)
        if self.basis is not None:
            y = torch.einsum("bkd,kde->bke", y, self.basis.to(flat))
        spread = self._spread(t, flat)
        joint = self.log_weights.to(flat) - 0.5 * ((y * y / spread) + spread.log()).sum(-1)
        return torch.softmax(joint, dim=1), y, joint

    def _spread(self, t: Tensor, like_x: Tensor) -> Tensor:
        """Eigenvalues of C_k, alpha^2 l + sigma^2: (B, K, D)."""
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        return like(alpha * alpha, like_x) * self.variances.to(like_x) + like(
            sigma * sigma, like_x
        )

    def _back(self, y: Tensor) -> Tensor:
        """From the eigenbases to the space of x."""
        return y if self.basis is None else torch.einsum("bkd,ked->bke", y, self.basis.to(y))

    def _noise(self, x: Tensor, t: Tensor) -> Tensor:
        r, y, _ = self._components(x, t)
        scaled = like(self.sde.sigma(t), y) / self._spread(t, y) * y
        return (r[..., None] * self._back(scaled)).sum(1).reshape(x.shape)

    def _data(self, x: Tensor, t: Tensor) -> Tensor:
        r, y, _ = self._components(x, t)
        gain = like(self.sde.alpha(t), y) * self.variances.to(y) / self._spread(t, y)
        each = self.means.to(y) + self._back(gain * y)
        return (r[..., None] * each).sum(1).reshape(x.shape)

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """alpha noise - sigma data, in one pass."""
        r, y, _ = self._components(x, t)
        alpha, sigma = like(self.sde.alpha(t), y), like(self.sde.sigma(t), y)
        scaled = alpha * sigma * (1 - self.variances.to(y)) / self._spread(t, y) * y
        each = self._back(scaled) - sigma * self.means.to(y)
        return (r[..., None] * each).sum(1).reshape(x.shape)

    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        if wanted == "data":
            return self._data(x, t)
        if wanted == "velocity":
            return self._velocity(x, t)
        noise = self._noise(x, t)
        if wanted == "noise":
            return noise
        if wanted == "score":
            return -noise / like(self.sde.sigma(t), x)
        raise ValueError(f"wanted={wanted!r}: no such prediction")

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        joint = self._components(x, t)[2]
        return torch.logsumexp(joint, 1) - 0.5 * self.means.shape[1] * math.log(2 * math.pi)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws x_0, (count, ...), float64."""
        k = torch.multinomial(self.log_weights.exp(), count, True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], dtype=torch.float64, generator=generator)
        y = (self.variances[k].sqrt() * noise)[:, None]
        if self.basis is not None:
            y = torch.einsum("bkd,bed->bke", y, self.basis[k])
        return (self.means[k] + y[:, 0]).reshape(count, *self.data_shape)


class Gaussian(Mixture):
    """Exact denoiser of one Gaussian, with the closed-form solution of its probability flow.

    Args:
        sde: the forward process.
        mean: mean, shape of a sample.
        width: standard deviation of an isotropic Gaussian, or
        covariance: (D, D) covariance.
    """

    def __init__(
        self,
        sde: SDE,
        mean: Tensor,
        width: float | None = None,
        covariance: Tensor | None = None,
    ) -> None:
        full = None if covariance is None else covariance[None]
        super().__init__(sde, mean[None], width=width, covariance=full)

    def flow(self, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """The probability flow's x at time s through x at time t, exactly."""
        flat = x.reshape(len(x), 1, -1)
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        s = torch.as_tensor(s, dtype=torch.float64).expand(len(x))
        _, y, _ = self._components(x, t)
        y = self._back(y * (self._spread(s, flat) / self._spread(t, flat)).sqrt())
        return (like(self.sde.alpha(s), flat) * self.means.to(flat) + y).reshape(x.shape)

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of x_t, float64."""
        spread = self._spread(torch.tensor([t], dtype=torch.float64), self.means[None])[0, 0]
        basis = torch.eye(len(spread), dtype=torch.float64) if self.basis is None else self.basis
        basis = basis.reshape(len(spread), len(spread))
        return float(self.sde.alpha(t)) * self.means[0], basis * spread @ basis.T


class _SquaredDistance(torch.autograd.Function):
    """|x_i - p_j|^2, (B, N), by differences; unlike cdist's, it has forward derivatives too."""

    @staticmethod
    def forward(x: Tensor, points: Tensor) -> Tensor:
        gap: Tensor = torch.cdist(x, points, compute_mode="donot_use_mm_for_euclid_dist")
        return gap * gap

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, points = ctx.saved_tensors
        return 2 * (x * grad.sum(1, keepdim=True) - grad @ points), None

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        x, points = ctx.saved_tensors
        moved: Tensor = 2 * ((x * dx).sum(1, keepdim=True) - dx @ points.mT)
        return moved


class FiniteData(Oracle):
    """Exact denoiser of a finite data set: the minimiser of the training loss itself.

    Args:
        sde: the forward process.
        points: (N, ...) the data.
        chunk: samples handled at once, to bound the (chunk, N) distance table.
    """

    def __init__(self, sde: SDE, points: Tensor, chunk: int = 256) -> None:
        self.sde, self.breaks, self.chunk = sde, sde.breaks, chunk
        self.data_shape = tuple(points.shape[1:])
        self.points = points.flatten(1)

    def _logits(self, flat: Tensor, t: Tensor) -> Tensor:
        points = self.points.to(flat)
        alpha, sigma = like(self.sde.alpha(t), flat), like(self.sde.sigma(t), flat)
        # Distances by differences: by matrix products they cancel when sigma is tiny. x / alpha
        # is compared, so that the points are not scaled for every sample; where alpha is 0 all
        # points are equally far, and so they are at 1e-12.
        alpha = alpha.clamp_min(1e-12)
        gap2: Tensor = _SquaredDistance.apply(flat / alpha, points)  # type: ignore[no-untyped-call]
        return -0.5 * gap2 * (alpha / sigma) ** 2

    def _data(self, x: Tensor, t: Tensor) -> Tensor:
        flat = x.reshape(len(x), -1)
        parts = []
        for i in range(0, len(x), self.chunk):
            weights = torch.softmax(
                self._logits(flat[i : i + self.chunk], t[i : i + self.chunk]), 1
            )
            parts.append(weights @ self.points.to(flat))
        return torch.cat(parts).reshape(x.shape)

    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        data = self._data(x, t)
        alpha, sigma = like(self.sde.alpha(t), x), like(self.sde.sigma(t), x)
        if wanted == "data":
            return data
        noise = (x - alpha * data) / sigma
        if wanted == "noise":
            return noise
        return -noise / sigma if wanted == "score" else alpha * noise - sigma * data

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        flat = x.reshape(len(x), -1)
        d = flat.shape[1]
        logits = self._logits(flat, t)
        sigma = self.sde.sigma(t).to(flat)
        level = math.log(len(self.points)) + 0.5 * d * math.log(2 * math.pi) + d * sigma.log()
        return torch.logsumexp(logits, 1) - level

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws x_0 from the data set, (count, ...)."""
        index = torch.randint(len(self.points), (count,), generator=generator)
        return self.points[index].reshape(count, *self.data_shape)


class LabelledOracle(Oracle):
    """One oracle per class, and one for all: exact class-conditional prediction and guidance.

    Args:
        classes: the oracle of each label, in order.
        everything: the oracle of the null label, `len(classes)`.
    """

    def __init__(self, classes: Sequence[Oracle], everything: Oracle) -> None:
        self.members = [*classes, everything]
        self.sde, self.data_shape = everything.sde, everything.data_shape
        self.breaks = everything.breaks
        self.num_classes = len(classes)

    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        if label is None:
            return self.members[-1].predict(x, t, wanted)
        out = torch.empty_like(x)
        for k, member in enumerate(self.members):
            rows = (label == k).nonzero()[:, 0]
            if len(rows):
                out[rows] = member.predict(x[rows], t[rows.cpu()], wanted)
        return out


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: must be 0 or more, and finite")


def _eight_modes(
    sde: SDE, width: float = 0.1, modes: int = 8, dim: int = 2, radius: float = 1.0
) -> Mixture:
    """Modes on a circle of the first two axes, weights proportional to exp(linspace(0, 1))."""
    _at_least(1, modes=modes, dim=dim)
    _not_negative(width=width)
    angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    means = torch.zeros(modes, dim, dtype=torch.float64)
    circle = torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
    means[:, :2] = radius * circle[:, :dim]
    weights = torch.exp(torch.linspace(0, 1, modes, dtype=torch.float64))
    return Mixture(sde, means, weights, width=width)


def _gaussian(sde: SDE, width: float = 0.5, mean: float = 0.5, dim: int = 2) -> Gaussian:
    _at_least(1, dim=dim)
    _not_negative(width=width)
    return Gaussian(sde, torch.full((dim,), mean, dtype=torch.float64), width=width)


def _finite(sde: SDE, data: str = "digits", count: int = 0, image_size: int = 0) -> FiniteData:
    from .data import load_data

    _at_least(0, count=count)
    points = load_data(data, image_size=image_size or None).train
    return FiniteData(sde, points[: count or None].double())


def _classes(
    sde: SDE, data: str = "digits", ridge: float = 1e-4, image_size: int = 0
) -> LabelledOracle:
    """One Gaussian of full covariance per class of a labelled data set, plus ridge I."""
    from .data import load_data

    found = load_data(data, image_size=image_size or None)
    if found.train_labels is None or found.heldout_labels is None:
        raise ValueError(f"data={data!r}: has no labels; use finite:data={data}")
    points = torch.cat([found.train, found.heldout]).double()
    labels = torch.cat([found.train_labels, found.heldout_labels])
    each = [points[labels == k] for k in range(found.num_classes)]
    means = torch.stack([group.mean(0) for group in each])
    eye = torch.eye(means[0].numel(), dtype=torch.float64)
    covs = torch.stack([torch.cov(group.flatten(1).T) + ridge * eye for group in each])
    counts = torch.tensor([float(len(group)) for group in each], dtype=torch.float64)
    classes = [Gaussian(sde, m, covariance=c) for m, c in zip(means, covs, strict=True)]
    return LabelledOracle(classes, Mixture(sde, means, counts, covariance=covs))


ORACLES: dict[str, Callable[..., Oracle]] = {
    "gaussian": _gaussian,
    "mixture": _eight_modes,
    "finite": _finite,
    "classes": _classes,
}


def make_oracle(spec: str, sde: SDE) -> Oracle:
    """An oracle from a short text, NAME or NAME:key=value,key=value.

    * gaussian: width=0.5, mean=0.5, dim=2
    * mixture: width=0.1, modes=8, dim=2, radius=1
    * finite: data=digits, count=all, image_size: the training images as a finite set
    * classes: data=digits, ridge=1e-4, image_size: a Gaussian of full covariance per class

    Raises:
        ValueError: unknown name or key, or a value that the key cannot have.
    """
    name, _, rest = spec.partition(":")
    if name not in ORACLES:
        raise ValueError(f"oracle={spec!r}: choose one of {', '.join(ORACLES)}")
    build = ORACLES[name]
    known = {
        key: parameter.default
        for key, parameter in inspect.signature(build).parameters.items()
        if key != "sde"
    }
    settings: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            raise ValueError(f"oracle={spec!r}: {name} takes {', '.join(known)}, not {key!r}")
        try:
            settings[key] = type(known[key])(value)
        except ValueError:
            raise ValueError(f"oracle={spec!r}: {key} cannot be {value!r}") from None
    return build(sde, **settings)
