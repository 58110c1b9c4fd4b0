"""Residual perceptron F(x, c, label) for vectors, or for anything flattened to one.

    h = A [x, cos(2 pi M x), sin(2 pi M x)]
    h = h + W_2 silu((1 + s) norm(W_1 silu(norm(h))) + b),  (s, b) = D silu(e(c, label)),  repeated
    F = B silu(norm(h))

M is a fixed Gaussian matrix (`x_features` rows, entries of standard deviation `x_scale`, in cycles
per unit of x). Why M: a perceptron of x alone is smooth on the scale of the data; it cannot follow
a score that varies over sigma << 1, and never shows the singularity it is asked to show.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..precision import own_precision
from .embedding import CONDITION_BANDS, ConditionEmbedding

__all__ = ["MLP"]


class MLPBlock(nn.Module):
    """Residual block of two linear layers, the condition as scale and shift between them."""

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, width)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.norm_2 = nn.LayerNorm(width)
        self.dropout = dropout
        self.linear_2 = nn.Linear(width, width)
        nn.init.zeros_(self.linear_2.weight)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """h (B, width) and silu of the embedding e (B, embedding) -> (B, width)."""
        scale, shift = self.modulation(e).chunk(2, dim=1)
        r = self.linear_1(functional.silu(self.norm_1(h)))
        r = functional.silu(torch.addcmul(shift, self.norm_2(r), 1 + scale))
        r = functional.dropout(r, self.dropout, self.training)
        out: Tensor = h + self.linear_2(r)
        return out


class MLP(nn.Module):
    """Residual perceptron.

    Args:
        shape: Shape of one sample, e.g. (2,); flattened inside.
        width: Width of the layers, even, at least 4.
        blocks: Number of residual blocks.
        x_features: Number of Fourier features of x (rows of M); 0 for a plain perceptron.
        x_scale: Standard deviation of the entries of M, cycles per unit of x.
        num_classes: Number of classes; 0 for none. Label `num_classes` is the null label.
        dropout: Dropout inside the residual blocks, in [0, 1).
        embedding: "sinusoidal", "fourier" or "table".
        band: Lowest and highest angular frequency of the embedding, radians per unit of c.

    Raises:
        ValueError: For an argument outside its range.

    Attributes:
        condition_dtype: float64: the condition is taken in float64 on the host.
    """

    condition_dtype = torch.float64

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 128,
        blocks: int = 3,
        x_features: int = 64,
        x_scale: float = 1.0,
        num_classes: int = 0,
        dropout: float = 0.0,
        embedding: str = "sinusoidal",
        band: tuple[float, float] = CONDITION_BANDS["time"],
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape = {self.shape}: must be positive sizes, e.g. (2,)")
        if blocks < 1:
            raise ValueError(f"blocks = {blocks}: must be at least 1")
        if x_features < 0:
            raise ValueError(f"x_features = {x_features}: must be 0 (none) or more")
        if not 0 < x_scale < math.inf:
            raise ValueError(f"x_scale = {x_scale}: must be positive and finite")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout}: must lie in [0, 1)")
        dimension = math.prod(self.shape)
        self.num_classes = num_classes
        self.embedding = ConditionEmbedding(width, num_classes, embedding, band)
        # A seed of its own: the other weights' draws do not depend on it. Saved with the weights.
        draw = np.random.default_rng(0).normal(0.0, x_scale, (x_features, dimension))
        self.register_buffer("directions", torch.tensor(draw, dtype=torch.float32))
        self.inputs = nn.Linear(dimension + 2 * x_features, width)
        self.blocks = nn.ModuleList(MLPBlock(width, width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, dimension)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's value.

        Args:
            x: Samples, shape (B, *shape).
            c: Condition, float64 on the host, shape (B,), or () for one shared by all.
            label: Classes, int64, shape (B,) or (); None is the null label.

        Returns:
            F(x, c, label), like x.

        Raises:
            ValueError: If a shape does not fit.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x of shape {tuple(x.shape)}: must be (batch, {self.shape})")
        e = functional.silu(self.embedding(c, len(x), label))
        flat = x.flatten(1)
        directions = self.get_buffer("directions")
        if len(directions):
            # Not a matmul: autocast would round the phases, of up to tens of cycles, to bfloat16.
            phase = 2 * math.pi * (flat[:, None, :] * directions.to(flat.dtype)).sum(-1)
            flat = torch.cat((flat, phase.cos(), phase.sin()), dim=1)
        # Nor autocast here: x rounded to bfloat16 would lose the noise wherever sigma < 2^-8.
        with own_precision(x.device):
            h = self.inputs(flat)
        for block in self.blocks:
            h = block(h, e)
        out: Tensor = self.out(functional.silu(self.norm(h)))
        return out.to(x.dtype).reshape(x.shape)
