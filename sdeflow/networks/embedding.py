"""Embeddings of a continuous condition c (and of a class label) for the networks.

A condition enters a network as a ladder of waves,

    e(c) = [cos(w_1 c), ..., cos(w_K c), sin(w_1 c), ..., sin(w_K c)],

with angular frequencies w_k in radians per unit of c. Two ladders:

    sinusoidal   geometric from `low` to `high`:  w_k = low (high / low)^((k - 1) / (K - 1))
    Fourier      evenly spread quantiles of a half-normal law whose largest value is `high`

Since |de/dc| = (sum w_k^2)^(1/2), **the highest frequency of the ladder caps how steep a network
with given weights can be in its condition**, and so what its Lipschitz constant K in time can be;
a structure in c much finer than 1/high is invisible to it. The default for time, high = 1000, is
what a network has that is told the index 1000 t (DDPM: highest frequency 1 per index); the lowest,
0.1, turns by 0.1 rad over the whole of [0, 1].

Or the network learns its own e(c): a table with a row for each thousandth of [0, 1], as networks
with 1000 discrete steps have, linear between the rows. Nothing makes neighbouring rows alike but
training, and a row is trained by the times next to it alone.

The phases w_k c are formed in float64 on the host, and only the waves are rounded to the type and
device of the parameters: in float32 a phase of 1000 is known to 3e-5 only.
"""

import math
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["CONDITION_BANDS", "ConditionEmbedding", "Fourier", "Sinusoidal", "Table"]

CONDITION_BANDS: dict[str, tuple[float, float]] = {
    "time": (0.1, 1000.0),
    "smooth": (0.1, 1000.0),
    "log-snr": (0.01, 50.0),
    "sigma": (0.01, 1000.0),
    "edm": (0.04, 200.0),
    "none": (0.1, 1000.0),
}
"""Lowest and highest angular frequency for each kind of condition.

Units: radians per unit of the condition. Time in [0, 1] has DDPM's 1000. log-SNR spans about
[-10, 10] and predictions change over distances of order 1 in it, so 50 resolves it with a margin;
`edm`, ln(sigma/alpha)/4, is -1/4 of it, hence 4 times the frequencies. sigma lies in [0, 1] for VP
and goes up to 80 for VE: 1000 resolves small ones, 0.01 puts large ones in order.
"""


class Waves(nn.Module):
    """cos and sin of c times fixed angular frequencies: no parameters, nothing saved.

    Args:
        frequencies: Angular frequencies, float64, shape (K,), radians per unit of c.
    """

    def __init__(self, frequencies: np.ndarray) -> None:
        super().__init__()
        # Not a buffer: it stays float64 on the host when the module changes device or dtype.
        self.frequencies = np.asarray(frequencies, dtype=np.float64)

    @property
    def features(self) -> int:
        """Number of features, 2 K."""
        return 2 * len(self.frequencies)

    def forward(self, c: Tensor) -> Tensor:
        """Waves of c, shape (B,) -> float64 on the host, shape (B, 2 K)."""
        phase = c.to("cpu").double()[:, None] * torch.from_numpy(self.frequencies)
        return torch.cat((phase.cos(), phase.sin()), dim=1)


class Sinusoidal(Waves):
    """Geometric ladder of angular frequencies from `low` to `high` (Vaswani et al. 2017).

    Args:
        features: Number of features, even, at least 4.
        low: Lowest angular frequency, radians per unit of c.
        high: Highest angular frequency, radians per unit of c.

    Raises:
        ValueError: If `features` is odd or below 4, or not 0 < low < high < inf.
    """

    def __init__(self, features: int, low: float = 0.1, high: float = 1000.0) -> None:
        _check(features, high)
        if not 0 < low < high:
            raise ValueError(f"low = {low}: must lie in (0, high = {high})")
        super().__init__(np.geomspace(low, high, features // 2))


class Fourier(Waves):
    """Frequencies at the quantiles (k - 1/2)/K of a half-normal law, scaled to end at `high`.

    Random Fourier features (Tancik et al. 2020, arXiv 2006.10739) draw them; quantiles cover the
    same law without gaps, and leave nothing random to save. Denser than a sinusoidal ladder in
    the upper frequencies.

    Args:
        features: Number of features, even, at least 4.
        high: Highest angular frequency, radians per unit of c.

    Raises:
        ValueError: If `features` is odd or below 4, or `high` is not positive and finite.
    """

    def __init__(self, features: int, high: float = 100.0) -> None:
        _check(features, high)
        half = features // 2
        law = NormalDist()
        ladder = np.array([law.inv_cdf(0.5 + (k + 0.5) / (2 * half)) for k in range(half)])
        super().__init__(ladder * (high / ladder[-1]))


class Table(nn.Module):
    """Learned features of c in [0, 1]: a row for c = k/1000, k = 0..1000, linear between rows.

    Times told as k/1000 get a row exactly. Rows start independent and normal with the size of
    waves: |e|^2 = features / 2 on average.

    Args:
        features: Number of features.
        steps: Number of intervals between rows.
    """

    def __init__(self, features: int, steps: int = 1000) -> None:
        super().__init__()
        self.steps, self.features = steps, features
        self.rows = nn.Parameter(torch.randn(steps + 1, features) * math.sqrt(0.5))

    def forward(self, c: Tensor) -> Tensor:
        """Features of c, shape (B,) float64 -> shape (B, features), like the rows.

        Outside [0, 1] the nearest interval is continued.
        """
        place = c.to("cpu").double() * self.steps
        low = place.detach().floor().clamp(0, self.steps - 1)
        share = (place + (-low))[:, None].to(self.rows)
        index = low.long().to(self.rows.device)
        below = self.rows[index]
        return below + share * (self.rows[index + 1] - below)


def _check(features: int, high: float) -> None:
    if features < 4 or features % 2:
        raise ValueError(f"features = {features}: must be even and at least 4")
    if not 0 < high < math.inf:
        raise ValueError(f"high = {high}: must be positive and finite (radians per unit of c)")


class ConditionEmbedding(nn.Module):
    """Waves of c through a two-layer perceptron, plus a learned vector for each class.

    Label `num_classes` is the null label: "no class told", for classifier-free guidance.

    Args:
        features: Size of the embedding, even, at least 4.
        num_classes: Number of classes; 0 for an unconditional network.
        kind: "sinusoidal", "fourier" or "table".
        band: Lowest and highest angular frequency in radians per unit of c (`CONDITION_BANDS`).
        waves: Number of waves fed to the perceptron; `features` unless given.

    Raises:
        ValueError: For a size, kind, band or number of classes that cannot be.
    """

    def __init__(
        self,
        features: int,
        num_classes: int = 0,
        kind: str = "sinusoidal",
        band: tuple[float, float] = CONDITION_BANDS["time"],
        waves: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes = {num_classes}: must be 0 (no classes) or more")
        waves = features if waves is None else waves
        if kind == "sinusoidal":
            self.waves: Waves | Table = Sinusoidal(waves, *band)
        elif kind == "fourier":
            self.waves = Fourier(waves, band[1])
        elif kind == "table":
            self.waves = Table(waves)
        else:
            raise ValueError(f"embedding = {kind!r}: must be sinusoidal, fourier or table")
        self.num_classes = num_classes
        self.first = nn.Linear(waves, features)
        self.second = nn.Linear(features, features)
        self.classes = nn.Embedding(num_classes + 1, features) if num_classes else None

    def forward(self, c: Tensor, batch: int, label: Tensor | None = None) -> Tensor:
        """Embed a condition and a label.

        Args:
            c: Condition, shape (B,), (1,) or (), float64 on the host.
            batch: B, to which a single condition is broadcast.
            label: Class of each sample, int64, shape (B,) or (); None is the null label.

        Returns:
            Embedding, shape (B, features), in the parameters' dtype and on their device.

        Raises:
            ValueError: If a shape does not fit or the network knows no classes.
        """
        if c.ndim > 1 or c.numel() not in (1, batch):
            raise ValueError(f"condition of shape {tuple(c.shape)}: must be () or ({batch},)")
        weight = self.first.weight
        waves = self.waves(c.reshape(-1)).to(device=weight.device, dtype=weight.dtype)
        h: Tensor = self.second(nn.functional.silu(self.first(waves))).expand(batch, -1)
        if self.classes is None:
            if label is not None:
                raise ValueError("label was given, but the network was built with num_classes = 0")
            return h
        if label is None:
            label = torch.full((batch,), self.num_classes, device=weight.device)
        elif label.ndim > 1 or label.numel() not in (1, batch):
            raise ValueError(f"label of shape {tuple(label.shape)}: must be () or ({batch},)")
        out: Tensor = h + self.classes(label.to(weight.device).reshape(-1))
        return out
