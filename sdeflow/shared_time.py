r"""E-TSDM's exact predictors: the ideal one and the plug-in, built on any oracle.

Told only that t lies in I = [t_{i-1}, t_i), the least-squares noise predictor is the posterior
mean over t, with t uniform in training,

    E[eps | x, t in I] = int_I eps(x, t) p_t(x) dt / int_I p_t(x) dt,

which is not eps(x, t_{i-1}): that one is the plug-in, what sharing only while sampling gives.
The integrals are Gauss-Legendre sums in log-SNR.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .conditioning import ETSDM, Conditioning
from .denoiser import convert
from .oracle import Oracle
from .sde import SDE, like

__all__ = ["SharedTime", "Told"]


class Told(Oracle):
    """An oracle asked at the condition instead of the time: eps(x, c(t)).

    With `ETSDM` this is the plug-in at the shared time, what sharing only while sampling gives.

    Raises:
        ValueError: a shared time at which the oracle has no noise prediction.
    """

    def __init__(self, of: Oracle, conditioning: Conditioning) -> None:
        if isinstance(conditioning, ETSDM):
            told = conditioning(torch.zeros(1, dtype=torch.float64))
            x = torch.zeros(1, *of.data_shape, dtype=torch.float64)
            if not bool(of.predict(x, told, "noise").isfinite().all()):
                raise ValueError(
                    f"at={conditioning.at!r}: the time told first is {float(told):g}, where "
                    f"{type(of).__name__} has no noise prediction; use at='middle' or at='right'"
                )
        self.of, self.conditioning = of, conditioning
        self.sde, self.data_shape = of.sde, of.data_shape
        self.breaks = tuple(sorted({*conditioning.breaks, *of.breaks}))

    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        c = self.conditioning(t)
        if wanted == "noise":
            return self.of.predict(x, c, wanted, label)

        def ask(rows: Tensor, given: str) -> Tensor:
            return self.of.predict(x[rows], c[rows], given, None if label is None else label[rows])

        def shared(rows: Tensor) -> Tensor:
            return _from_noise(self.sde, x[rows], t[rows], ask(rows, "noise"), wanted)

        # Told the time itself, the oracle's own answer has no alpha(1) = 0 to divide by.
        return _by_rows(x, c != t, shared, lambda rows: ask(rows, wanted))


class SharedTime(Oracle):
    """The ideal E-TSDM noise predictor of a mixture: the posterior mean over the shared time.

    Args:
        of: an oracle with `log_prob`.
        conditioning: the sharing; below its threshold the answer depends on x and the
            sub-interval alone.
        t_min: where training times begin.
        nodes: Gauss-Legendre nodes per sub-interval, taken in log-SNR.
    """

    def __init__(
        self, of: Oracle, conditioning: ETSDM, t_min: float = 1e-5, nodes: int = 64
    ) -> None:
        if not 0 < t_min < conditioning.edges[0]:
            raise ValueError(
                f"t_min={t_min}: must lie inside the first sub-interval, "
                f"below {conditioning.edges[0]:g}"
            )
        self.of, self.conditioning = of, conditioning
        self.sde, self.data_shape = of.sde, of.data_shape
        self.breaks = tuple(sorted({*conditioning.breaks, *of.breaks}))
        nodes_z, weights_z = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
        bounds = torch.tensor([t_min, *conditioning.edges], dtype=torch.float64)
        log_snr = self.sde.log_snr(bounds)
        middle, half = (log_snr[1:] + log_snr[:-1]) / 2, (log_snr[:-1] - log_snr[1:]) / 2
        at = self.sde.time_of_log_snr(middle[:, None] + half[:, None] * nodes_z)
        self.times = at  # (n, nodes)
        # Uniform in t: dt = d lambda / |lambda'|.
        self.log_density = torch.log(half[:, None] * weights_z / -self.sde.log_snr_dot(at))

    def _shared(self, x: Tensor, interval: Tensor) -> Tensor:
        """E[eps | x, t in interval], with interval (B,)."""
        b, q = len(x), self.times.shape[1]
        t = self.times[interval].reshape(-1)  # (B q,)
        copies = x.repeat_interleave(q, 0)
        noise = self.of.predict(copies, t, "noise").reshape(b, q, -1)
        likely = self.of.log_prob(copies, t).reshape(b, q) + self.log_density[interval].to(x)
        weights = torch.softmax(likely, 1)
        return (weights[..., None] * noise).sum(1).reshape(x.shape)

    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        interval = self.conditioning.interval(t)

        def shared(rows: Tensor) -> Tensor:
            noise = self._shared(x[rows], interval[rows])
            return _from_noise(self.sde, x[rows], t[rows], noise, wanted)

        def alone(rows: Tensor) -> Tensor:
            return self.of.predict(x[rows], t[rows], wanted)

        return _by_rows(x, interval < len(self.conditioning.edges), shared, alone)


def _by_rows(
    x: Tensor, rows: Tensor, one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]
) -> Tensor:
    """The answer of `one` where `rows` (B,) holds, of `other` elsewhere; like x."""
    out = torch.empty_like(x)
    for chosen, answer in ((rows, one), (~rows, other)):
        if bool(chosen.any()):
            out[chosen] = answer(chosen)
    return out


def _from_noise(sde: SDE, x: Tensor, t: Tensor, noise: Tensor, wanted: str) -> Tensor:
    """Any prediction from the noise prediction, by the conversions of `sdeflow.denoiser`."""
    if wanted == "noise":
        return noise
    a, b = convert(sde, t, "noise", wanted)
    return like(a, x) * x + like(b, x) * noise
