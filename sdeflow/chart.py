r"""Charts: the coordinates a flow is integrated in, u = s(t) x (the scale) and tau(t) (the clock).

With the Wronskian W = alpha sigma' - alpha' sigma every clock that is a function of sigma/alpha
has d tau/dt = W k(t), so that W, which carries the singularity at t = 0, cancels from the flow:

    scale x/alpha   du/d tau =  noise / (alpha^2 k)          = noise d rho/d tau
    scale x/sigma   du/d tau = -data / (sigma^2 k)           = data d kappa/d tau
    scale x/std     du/d tau =  N / (n^2 k)                  = N d mu / d tau
                    n^2 = v alpha^2 + sigma^2,  mu = atan(rho / sqrt v) / sqrt v,
                    N = (v alpha noise - sigma data) / n
    scale x         du/d tau = (alpha'/W data + sigma'/W noise) / k

    clock           tau                       k
    time            t                         1 / W
    log-time        log t                     1 / (t W)
    log-snr         lambda = log(alpha/sigma) -1 / (alpha sigma)
    noise-ratio     rho = sigma/alpha         1 / alpha^2
    signal-ratio    kappa = alpha/sigma       -1 / sigma^2
    angle           phi = atan rho            1 / (alpha^2 + sigma^2)
    log-angle       log phi                   1 / (phi (alpha^2 + sigma^2))
    mixed           log(rho/(1 + rho))        1 / (sigma (alpha + sigma))
    banded          log((rho + r)/(1 + rho))  (1 - r) / ((sigma + r alpha) (alpha + sigma))
    log-linear      log(rho + r) + rho/R      1 / (alpha (sigma + r alpha)) + 1 / (R alpha^2)

For VP the flow of x in the angle is the velocity itself. Euler in (x/alpha, noise-ratio) is DDIM.
x/std is x in units of the size it would have if the data were Gaussian of variance v, for which
N = 0: between x/sigma (v = 0) and x/alpha (v infinite), and bounded at both ends. Its N is, up to
sign, the network output of Karras et al. 2022 (arXiv 2206.00364) with sigma_data^2 = v. The
banded clock is logarithmic in rho between r and 1 only: below the data's width predictions are
smooth in rho, not in log rho. The log-linear clock does the same below r and, unlike the banded
one, is linear in rho again above R: there a network's data prediction is the data plus rho times
the error of its noise prediction, which polynomials in that clock contain.
A chart is only coordinates: tolerances mean an error in x, so a solver is handed the weight
x / u = 1 / s(t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .elementary import angle, length, softplus
from .sde import SDE

__all__ = ["CLOCKS", "SCALES", "Chart", "parse_chart"]

SCALES = ("x", "x/alpha", "x/sigma", "x/std")
CLOCKS = (
    "time",
    "log-time",
    "log-snr",
    "noise-ratio",
    "signal-ratio",
    "angle",
    "log-angle",
    "mixed",
    "banded",
    "log-linear",
)

_KNEE = 0.03


@dataclass(frozen=True)
class Chart:
    """A state scale and a clock for one process.

    All functions take and give float64 host tensors of any shape.

    Args:
        sde: the forward process.
        scale: one of `SCALES`.
        clock: one of `CLOCKS`.
        variance: v of the scale x/std, the variance that the data is taken to have.
        knee: r of the clocks banded and log-linear, the noise-to-signal ratio below which they
            are linear.
        elbow: R of the clock log-linear, the noise-to-signal ratio above which it is linear.

    Raises:
        ValueError: unknown scale or clock.
    """

    sde: SDE
    scale: str = "x"
    clock: str = "time"
    variance: float = 0.4
    knee: float = _KNEE
    elbow: float = 13.0

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale={self.scale!r}: choose one of {', '.join(SCALES)}")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock={self.clock!r}: choose one of {', '.join(CLOCKS)}")
        if not 0 < self.knee < 1:
            raise ValueError(f"knee={self.knee}: must be inside (0, 1), for example 0.03")

    @property
    def name(self) -> str:
        """SCALE/CLOCK as the command line writes it, for example x/alpha/log-snr."""
        knee = "" if self.knee == _KNEE else f":{self.knee:g}"
        return f"{self.scale}/{self.clock}{knee}"

    def tau(self, t: Tensor) -> Tensor:
        """The clock at times t."""
        sde = self.sde
        if self.clock == "time":
            return t
        if self.clock == "log-time":
            return torch.log(t)
        if self.clock == "angle":
            return angle(sde.sigma(t), sde.alpha(t))
        if self.clock == "log-angle":
            return torch.log(angle(sde.sigma(t), sde.alpha(t)))
        log_snr = sde.log_snr(t)
        if self.clock == "log-snr":
            return log_snr
        if self.clock == "noise-ratio":
            return torch.exp(-log_snr)
        if self.clock == "signal-ratio":
            return torch.exp(log_snr)
        if self.clock == "banded":
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            return torch.log((sigma + self.knee * alpha) / (alpha + sigma))
        if self.clock == "log-linear":
            rho = torch.exp(-log_snr)
            return torch.log(rho + self.knee) + rho / self.elbow
        return -softplus(log_snr)

    def time(self, tau: Tensor) -> Tensor:
        """Inverse of `tau`."""
        if self.clock == "time":
            return tau
        if self.clock == "log-time":
            return torch.exp(tau)
        return self.sde.time_of_log_snr(self.log_snr(tau))

    def log_snr(self, tau: Tensor) -> Tensor:
        """lambda where the clock is at tau; all clocks but two know it without the process."""
        if self.clock in ("time", "log-time"):
            return self.sde.log_snr(self.time(tau))
        if self.clock == "log-snr":
            return tau
        if self.clock == "noise-ratio":
            return -torch.log(tau)
        if self.clock == "signal-ratio":
            return torch.log(tau)
        if self.clock == "banded":
            share = torch.exp(tau)
            return torch.log(-torch.expm1(tau)) - torch.log(share - self.knee)
        if self.clock == "log-linear":
            # y + log y = tau + r/R - log R for y = (rho + r)/R: the Wright omega function. Its
            # module takes longer to import than all of the rest of the package.
            from scipy.special import wrightomega

            z = tau + (self.knee / self.elbow - math.log(self.elbow))
            return -torch.log(self.elbow * torch.as_tensor(wrightomega(z.numpy())) - self.knee)
        if self.clock == "mixed":
            # softplus(lambda) = -tau.
            return -tau + torch.log(-torch.expm1(tau))
        phi = tau if self.clock == "angle" else torch.exp(tau)
        return -torch.log(torch.tan(phi))

    def rate(self, t: Tensor) -> Tensor:
        """k(t) = (d tau/dt) / W; the table in the module's docstring."""
        sde, clock = self.sde, self.clock
        if clock == "time":
            return 1 / sde.wronskian(t)
        if clock == "log-time":
            return 1 / (t * sde.wronskian(t))
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        if clock == "log-snr":
            return -1 / (alpha * sigma)
        if clock == "noise-ratio":
            return 1 / (alpha * alpha)
        if clock == "signal-ratio":
            return -1 / (sigma * sigma)
        if clock == "mixed":
            return 1 / (sigma * (alpha + sigma))
        if clock == "banded":
            return (1 - self.knee) / ((sigma + self.knee * alpha) * (alpha + sigma))
        if clock == "log-linear":
            near = 1 / (alpha * (sigma + self.knee * alpha))
            return near + 1 / (self.elbow * alpha * alpha)
        turn = 1 / (alpha * alpha + sigma * sigma)
        return turn if clock == "angle" else turn / angle(sigma, alpha)

    def weight(self, t: Tensor) -> Tensor:
        """x / u: turns an error in u into an error in x."""
        if self.scale == "x":
            return torch.ones_like(t)
        if self.scale == "x/alpha":
            return self.sde.alpha(t)
        sigma = self.sde.sigma(t)
        if self.scale == "x/sigma":
            return sigma
        return length(math.sqrt(self.variance) * self.sde.alpha(t), sigma)

    def state_scale(self, t: Tensor) -> Tensor:
        """s(t) = u / x."""
        return 1 / self.weight(t)

    def scale_rate(self, t: Tensor) -> Tensor:
        """d log s / d tau: with s = 1/n, n' = (v alpha alpha' + sigma sigma') / n for x/std."""
        if self.scale == "x":
            return torch.zeros_like(t)
        alpha_rate, sigma_rate = self.sde.flow_coefficients(t)
        if self.scale == "x/alpha":
            rate = alpha_rate / self.sde.alpha(t)
        elif self.scale == "x/sigma":
            rate = sigma_rate / self.sde.sigma(t)
        else:
            alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
            growth = self.variance * alpha * alpha_rate + sigma * sigma_rate
            rate = growth / self.weight(t) ** 2
        return -rate / self.rate(t)

    def measure(self, t: Tensor) -> Tensor:
        """mu(t) of du = N d mu: rho for x/alpha, kappa for x/sigma, an angle for x/std.

        Raises:
            ValueError: the scale is x, whose flow has two terms.
        """
        self.refuse_two_terms()
        if self.scale == "x/std":
            root = math.sqrt(self.variance)
            return angle(self.sde.sigma(t), root * self.sde.alpha(t)) / root
        log_snr = self.sde.log_snr(t)
        return torch.exp(-log_snr if self.scale == "x/alpha" else log_snr)

    def measure_rate(self, t: Tensor) -> Tensor:
        """d mu / d tau."""
        self.refuse_two_terms()
        rate = 1 / (self.weight(t) ** 2 * self.rate(t))
        return -rate if self.scale == "x/sigma" else rate

    def refuse_two_terms(self) -> None:
        """Refuse the scale x, whose flow is not N d mu (ValueError)."""
        if self.scale == "x":
            raise ValueError(
                "scale='x': the flow of x is no single prediction against a measure; "
                "use x/alpha, x/sigma or x/std"
            )

    def check(self, t_min: float, t_max: float) -> None:
        """Refuse an interval on which the chart is infinite.

        Raises:
            ValueError: the clock or the scale is infinite at an end, with the remedy.
        """
        ends = torch.tensor([t_min, t_max], dtype=torch.float64)
        finite = torch.isfinite(self.tau(ends)) & torch.isfinite(self.state_scale(ends))
        if not bool(finite.all()):
            bad = float(ends[~finite][0])
            raise ValueError(
                f"chart={self.name!r}: infinite at t = {bad:g} for {self.sde.name}; use t_max "
                "below 1, or another chart such as x/sigma/angle"
            )


def parse_chart(text: str, sde: SDE) -> Chart:
    """A chart from SCALE/CLOCK: x/log-snr, x/alpha/noise-ratio, x/sigma/log-snr.

    The clocks banded and log-linear may bring their knee: x/std/log-linear:0.3.

    Raises:
        ValueError: not of that form, or an unknown scale or clock.
    """
    text, _, knee = text.partition(":")
    scale, _, clock = text.rpartition("/")
    if knee and clock not in ("banded", "log-linear"):
        raise ValueError(f"chart={text}:{knee}: only banded and log-linear have a knee; drop it")
    if not scale:
        raise ValueError(
            f"chart={text!r}: write SCALE/CLOCK, with SCALE one of {', '.join(SCALES)} and CLOCK "
            f"one of {', '.join(CLOCKS)}; for example x/alpha/log-snr"
        )
    try:
        return Chart(sde, scale, clock, knee=float(knee) if knee else _KNEE)
    except ValueError as error:
        if "could not convert" not in str(error):
            raise
        raise ValueError(f"chart={text}:{knee}: the knee is a number, such as 0.3") from None
