"""Elementary functions whose value does not depend on the number's place in its tensor.

PyTorch computes a tensor in vectors and what is left over one by one, and for torch.atan2, hypot,
logaddexp, sigmoid and powers the two may differ in the last bit (measured with AVX2). A sample
would then depend, by that bit, on its place in the batch. exp, log, log1p, sqrt, atan and
logsigmoid agree, and these are made of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["angle", "cube_root", "length", "sigmoid", "softplus"]


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)), to rounding for z of any size; the shape of `z`."""
    return -F.logsigmoid(-z)


def sigmoid(z: Tensor) -> Tensor:
    """1 / (1 + exp(-z)), to rounding; the shape of `z`."""
    return 1 / (1 + torch.exp(-z))


def cube_root(z: Tensor) -> Tensor:
    """z^(1/3) of z > 0, to |log z| / 3 roundings; the shape of `z`."""
    return torch.exp(torch.log(z) / 3)


def length(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2), where the squares neither overflow nor both vanish; the common shape."""
    return torch.sqrt(a * a + b * b)


def angle(y: Tensor, x: Tensor) -> Tensor:
    """atan2(y, x) of x >= 0 and y, not both 0; the common shape.

    By half the angle, atan(y / (length + x)): finite with its derivatives at x = 0 too.
    """
    return 2 * torch.atan(y / (length(y, x) + x))
