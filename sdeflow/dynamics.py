r"""A denoiser in a chart, as the drift and diffusion that a solver integrates.

Probability flow (Song et al. 2021, arXiv 2011.13456), in any chart of `sdeflow.chart`:

    x/alpha: du = noise d rho      x/sigma: du = data d kappa      x/std: du = N d mu
    x:       dx/dt = alpha' data + sigma' noise

Reverse SDE with noise level eta (0 is the flow, 1 the usual reverse SDE), u = s x:

    du = [flow + s eta^2 eps / (alpha k)] d tau + s eta sqrt(2 sigma / (alpha |k|)) dW_tau

The solver runs in tau. Time t is recovered here, in float64 on the host, and clamped: into
[t_min, t_max], and between breaks into the half-open segment the solver is in, so that rounding
in another clock cannot ask the network for the wrong side of a jump. A clock that lies on a break
exactly is still on the side the solver comes from; the next representable number is beyond it.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .chart import Chart
from .denoiser import Predictor, convert
from .sde import like

__all__ = ["ProbabilityFlow", "ReverseSDE"]


class _Place:
    """What the chart is at times t (B,), each worked out when it is first asked for."""

    def __init__(self, chart: Chart, t: Tensor) -> None:
        self.chart, self.t = chart, t

    @cached_property
    def weight(self) -> Tensor:
        """n = x / u."""
        return self.chart.weight(self.t)

    @cached_property
    def mix(self) -> tuple[Tensor, Tensor]:
        """(a, b) of N = a x + b velocity, in the scale x/std."""
        # v alpha noise - sigma data by way of the velocity, which both follow from without a
        # division by alpha or sigma.
        sde, n = self.chart.sde, self.weight
        alpha, sigma = sde.alpha(self.t), sde.sigma(self.t)
        n2 = 1.0 if sde.variance_preserving else alpha * alpha + sigma * sigma
        return (self.chart.variance - 1) * alpha * sigma / (n2 * n), n / n2


class _InChart:
    """What the flow and the SDE share: the chart's clock on one interval, and its breaks.

    Attributes:
        tau0, tau1: the interval in the solver's variable, from t_start to t_end.
        breaks: the denoiser's jumps inside it, in the solver's variable, in the order met.
    """

    def __init__(
        self, denoiser: Predictor, chart: Chart, t_start: float, t_end: float, breaks: bool = True
    ) -> None:
        if t_start == t_end:
            raise ValueError(f"t_start={t_start}, t_end={t_end}: the interval is empty")
        chart.check(min(t_start, t_end), max(t_start, t_end))
        self.denoiser, self.chart = denoiser, chart
        self.t_start, self.t_end = t_start, t_end
        low, high = min(t_start, t_end), max(t_start, t_end)
        inside = [b for b in denoiser.breaks if low < b < high] if breaks else []
        if t_end < t_start:
            inside.reverse()
        ends = chart.tau(torch.tensor([t_start, *inside, t_end], dtype=torch.float64)).tolist()
        self.tau0, self.tau1 = ends[0], ends[-1]
        self.breaks: tuple[float, ...] = tuple(ends[1:-1])
        self._forward = self.tau1 > self.tau0
        # Times allowed in the segment after i breaks: the sharing is constant on [t_i, t_{i+1}).
        met = [t_start, *inside, t_end]
        pairs = [sorted(pair) for pair in itertools.pairwise(met)]
        self._low = torch.tensor([a for a, _ in pairs], dtype=torch.float64)
        closed = {low, high}
        self._high = torch.tensor(
            [b if b in closed else math.nextafter(b, -math.inf) for _, b in pairs],
            dtype=torch.float64,
        )
        signed = np.asarray(self.breaks) * (1 if self._forward else -1)
        self._signed_breaks = torch.from_numpy(signed.astype(np.float64))
        self._last: tuple[bytes, _Place] | None = None

    def _at(self, tau: Tensor) -> _Place:
        """The place at solver times tau (B,); errors are weighed where the field was evaluated."""
        key = tau.detach().numpy().tobytes()
        if self._last is None or self._last[0] != key:
            self._last = key, _Place(self.chart, self.time(tau))
        return self._last[1]

    def time(self, tau: Tensor) -> Tensor:
        """t at solver times tau (B,), on the right side of every break."""
        t = self.chart.time(tau)
        if not self.breaks:
            return t.clamp(self._low[0], self._high[0])
        signed = tau if self._forward else -tau
        passed = torch.bucketize(signed, self._signed_breaks, right=False)
        return torch.minimum(torch.maximum(t, self._low[passed]), self._high[passed])

    def weight(self, tau: np.ndarray) -> np.ndarray:
        """x / u at solver times tau (B,): tolerances are errors in x."""
        weight: np.ndarray = self._at(torch.from_numpy(tau)).weight.numpy()
        return weight

    def to_chart(self, x: Tensor, t: float) -> Tensor:
        """u = s(t) x."""
        return x * float(self.chart.state_scale(torch.tensor(t, dtype=torch.float64)))

    def from_chart(self, u: Tensor, t: Tensor | float) -> Tensor:
        """x = u / s(t); t a number or (B,)."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return u * like(self.chart.weight(t), u)

    def _prediction(self, x: Tensor, at: _Place, label: Tensor | None) -> Tensor:
        """N of du = N d mu."""
        scale = self.chart.scale
        if scale == "x/alpha":
            return self.denoiser.noise(x, at.t, label)
        if scale == "x/sigma":
            return self.denoiser.data(x, at.t, label)
        a, b = at.mix
        return like(a, x) * x + like(b, x) * self.denoiser.velocity(x, at.t, label)

    def _flow(self, x: Tensor, at: _Place, label: Tensor | None) -> Tensor:
        """du/d tau of the probability flow."""
        chart = self.chart
        if chart.scale != "x":
            return self._prediction(x, at, label) * like(chart.measure_rate(at.t), x)
        if chart.sde.variance_preserving:
            return self.denoiser.velocity(x, at.t, label) * like(1 / chart.rate(at.t), x)
        a, b, out = self._linear(x, at.t, label)
        return like(a, x) * x + like(b, x) * out

    def _linear(self, x: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The flow as du/d tau = a x + b out, with out the one native answer of the denoiser."""
        out = self.denoiser.predict(x, t, self.denoiser.prediction, label)
        to_data = convert(self.chart.sde, t, self.denoiser.prediction, "data")
        to_noise = convert(self.chart.sde, t, self.denoiser.prediction, "noise")
        data, noise = self.chart.sde.flow_coefficients(t)
        per_tau = self.chart.state_scale(t) / self.chart.rate(t)
        a = per_tau * (data * to_data[0] + noise * to_noise[0])
        b = per_tau * (data * to_data[1] + noise * to_noise[1])
        # d(s x) = s dx + x ds.
        a = a + self.chart.state_scale(t) * self.chart.scale_rate(t)
        return a, b, out


class ProbabilityFlow(_InChart):
    """The probability-flow ODE of a denoiser in a chart: a field for `solvers.odeint`.

    Args:
        denoiser: the model or an oracle.
        chart: the coordinates.
        t_start: time at which the integration begins (t_max to sample, t_min to encode).
        t_end: time at which it ends.
        breaks: tell the solver the denoiser's jumps, and keep to their right side.

    Raises:
        ValueError: an empty interval, or one on which the chart is infinite.
    """

    def __call__(self, tau: Tensor, u: Tensor, label: Tensor | None = None) -> Tensor:
        """du/d tau at tau (B,) float64 on the host, u (B, ...)."""
        at = self._at(tau)
        return self._flow(u * like(at.weight, u), at, label)

    def prediction(self, tau: Tensor, u: Tensor, label: Tensor | None = None) -> Tensor:
        """N of du = N d mu: the noise (x/alpha), the data (x/sigma) or both (x/std)."""
        at = self._at(tau)
        return self._prediction(u * like(at.weight, u), at, label)


class ReverseSDE(_InChart):
    """The reverse-time SDE of a denoiser in a chart: drift and diffusion for `solvers.sdeint`.

    Args:
        denoiser, chart, t_start, t_end, breaks: as in `ProbabilityFlow`; t_start > t_end.
        eta: noise level; 1 is the reverse of the forward SDE, 0 the probability flow.

    Raises:
        ValueError: as `ProbabilityFlow`, a negative eta, or t_start below t_end.
    """

    def __init__(
        self,
        denoiser: Predictor,
        chart: Chart,
        t_start: float,
        t_end: float,
        breaks: bool = True,
        eta: float = 1.0,
    ) -> None:
        if not (eta >= 0 and math.isfinite(eta)):
            raise ValueError(f"eta={eta}: the noise level must be 0 or more")
        if t_start < t_end:
            raise ValueError(f"t_start={t_start}, t_end={t_end}: the reverse SDE runs towards 0")
        super().__init__(denoiser, chart, t_start, t_end, breaks)
        if not denoiser.sde.has_signal_at(t_start):
            raise ValueError(
                f"t_max={t_start}: alpha is 0 there and the reverse SDE's drift infinite; use a "
                "t_max below 1, for example 0.99"
            )
        self.eta = eta

    def drift(self, tau: Tensor, u: Tensor, label: Tensor | None = None) -> Tensor:
        """Drift per unit of tau: tau (B,), u (B, ...)."""
        at = self._at(tau)
        t, x = at.t, u * like(at.weight, u)
        if self.eta == 0:
            return self._flow(x, at, label)
        chart, sde = self.chart, self.chart.sde
        a, b, out = self._linear(x, t, label)
        extra = self.eta**2 * chart.state_scale(t) / (sde.alpha(t) * chart.rate(t))
        noise_x, noise_out = convert(sde, t, self.denoiser.prediction, "noise")
        return like(a + extra * noise_x, x) * x + like(b + extra * noise_out, x) * out

    def diffusion(self, tau: Tensor) -> Tensor:
        """Diffusion coefficient per root unit of tau: (B,) to (B,), float64 on the host."""
        t = self._at(tau).t
        sde = self.chart.sde
        spread = torch.sqrt(2 * sde.sigma(t) / (sde.alpha(t) * self.chart.rate(t).abs()))
        return self.eta * self.chart.state_scale(t) * spread
