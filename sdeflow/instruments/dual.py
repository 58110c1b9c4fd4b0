r"""Dual numbers p + q e, e^2 = 0: a network's value and one directional derivative in one pass.

A `Dual` holds a value p and its tangent q, and every operation on it does both:

    linear layer      A p + b,  A q           A applied once, to p and q as one batch
    product           p r,  q r + p s
    normalisation     y = (p - m) w,  q' = w (q - mean(q) - y mean(y q))
    silu, softmax     their Jacobians are symmetric, so the backward kernels are the forward ones

Tensors without a tangent stay plain tensors, so whatever comes before the first use of the
condition costs what it always did. (`torch.func.jvp` applies every layer three times: to the
value, and for the tangents of input and weight.) Operations without a rule here are refused,
never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Dual"]

aten = torch.ops.aten


class Dual(Tensor):
    """A value with a tangent; a tensor to whoever computes with it.

    Attributes:
        value: the value.
        tangent: its derivative, like the value.
        both: value and tangent as the two halves of one batch, where they lie so in memory.
    """

    value: Tensor
    tangent: Tensor
    both: Tensor | None

    @staticmethod
    def of(value: Tensor, tangent: Tensor, both: Tensor | None = None) -> Dual:
        """The dual number value + tangent e.

        Raises:
            ValueError: the two differ in shape.
        """
        if value.shape != tangent.shape:
            raise ValueError(
                f"tangent of shape {tuple(tangent.shape)}: must have the value's shape, "
                f"{tuple(value.shape)}"
            )
        dual: Dual = Tensor._make_wrapper_subclass(
            Dual, value.shape, dtype=value.dtype, device=value.device
        )
        dual.value, dual.tangent, dual.both = value, tangent, both
        return dual

    @staticmethod
    def halves(both: Tensor) -> Dual:
        """The dual number whose value and tangent are the halves of a batch."""
        value, tangent = both.chunk(2)
        return Dual.of(value, tangent, both)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        with torch._C.DisableTorchFunctionSubclass():
            if name in RULES:
                return RULES[name](*args, **kwargs)
            if name in LINEAR or name == "__get__":
                return _each(func, *args, **kwargs)
            if name in FACTS:
                return func(args[0].value, *args[1:], **kwargs)
        raise NotImplementedError(f"dual numbers have no rule for {name}")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError(f"dual numbers have no rule for {func}")


# Answered for the value: nothing that moves with it.
FACTS = ("__len__", "detach", "dim", "is_contiguous", "is_floating_point", "numel", "size")
# Linear in the first argument, the others being no tensors.
LINEAR = (
    "__getitem__", "chunk", "contiguous", "double", "expand", "flatten", "float", "fold",
    "interpolate", "mean", "neg", "permute", "reshape", "squeeze", "sum", "to", "transpose",
    "unbind", "unsqueeze", "view",
)  # fmt: skip


def _each(func: Callable[..., Any], x: Dual, *args: Any, **kwargs: Any) -> Any:
    """A linear map of value and tangent; attributes that are no tensors, of the value."""
    value = func(x.value, *args, **kwargs)
    if isinstance(value, Tensor):
        return Dual.of(value, func(x.tangent, *args, **kwargs))
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        pairs = zip(value, func(x.tangent, *args, **kwargs), strict=True)
        return tuple(Dual.of(a, b) for a, b in pairs)
    return value


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Dual) else x


def _stacked(x: Dual) -> Tensor:
    return torch.cat((x.value, x.tangent)) if x.both is None else x.both


def _plain(weight: Tensor) -> None:
    if isinstance(weight, Dual):
        raise NotImplementedError("dual numbers have no rule for weights with a tangent")


def _with_bias(both: Tensor, bias: Tensor | None, axes: int) -> Dual:
    out = Dual.halves(both)
    if bias is not None:
        out.value.add_(bias.reshape(-1, *([1] * axes)))
    return out


def _conv2d(x: Dual, weight: Tensor, bias: Tensor | None = None, *args: Any) -> Dual:
    _plain(weight)
    return _with_bias(torch.conv2d(_stacked(x), weight, None, *args), bias, 2)


def _linear(x: Dual, weight: Tensor, bias: Tensor | None = None) -> Dual:
    _plain(weight)
    return _with_bias(functional.linear(_stacked(x), weight), bias, 0)


def _add(x: Any, y: Any) -> Dual:
    value = _value(x) + _value(y)
    if isinstance(x, Dual) and isinstance(y, Dual):
        tangent = x.tangent + y.tangent
    else:
        tangent = x.tangent if isinstance(x, Dual) else y.tangent
    return Dual.of(value, tangent.expand_as(value))


def _product(multiply: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Dual]:
    """The rule of a bilinear operation."""

    def rule(x: Any, y: Any) -> Dual:
        value = multiply(_value(x), _value(y))
        if not isinstance(y, Dual):
            return Dual.of(value, multiply(x.tangent, y))
        tangent = multiply(_value(x), y.tangent)
        if isinstance(x, Dual):
            tangent += multiply(x.tangent, y.value)
        return Dual.of(value, tangent)

    return rule


_mul, _matmul = _product(torch.mul), _product(torch.matmul)


def _addcmul(start: Any, x: Any, y: Any) -> Dual:
    out = torch.addcmul(_value(start), _value(x), _value(y))
    tangent = start.tangent if isinstance(start, Dual) else torch.zeros_like(out)
    if isinstance(x, Dual):
        tangent = torch.addcmul(tangent, x.tangent, _value(y))
    if isinstance(y, Dual):
        tangent = torch.addcmul(tangent, _value(x), y.tangent)
    return Dual.of(out, tangent)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Dual:
    tangents = [x.tangent if isinstance(x, Dual) else torch.zeros_like(x) for x in tensors]
    return Dual.of(torch.cat([_value(x) for x in tensors], dim), torch.cat(tangents, dim))


def _room(x: Dual) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for a result and its halves, so that the next layer need not join them."""
    both = x.value.new_empty((2 * len(x.value), *x.value.shape[1:]))
    value, tangent = both.chunk(2)
    return both, value, tangent


def _silu(x: Dual, inplace: bool = False) -> Dual:
    both, value, tangent = _room(x)
    aten.silu.out(x.value, out=value)
    aten.silu_backward.grad_input(x.tangent, x.value, grad_input=tangent)
    return Dual.of(value, tangent, both)


def _softmax(x: Dual, dim: int) -> Dual:
    value = torch.softmax(x.value, dim)
    return Dual.of(value, aten._softmax_backward_data(x.tangent, value, dim, value.dtype))


def _attention(q: Any, k: Any, v: Any) -> Dual:
    scores = _matmul(_mul(q, q.shape[-1] ** -0.5), Dual.of(k.value.mT, k.tangent.mT))
    return _matmul(_softmax(scores, -1), v)


def _group_norm(
    x: Any,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Dual:
    p = _value(x).contiguous()
    n, channels = p.shape[:2]
    pixels = p.numel() // (n * channels)
    value, m, w = torch.native_group_norm(
        p, _value(weight), _value(bias), n, channels, pixels, groups, eps
    )
    m, w = m.reshape(n, groups, 1), w.reshape(n, groups, 1)
    # The tangent is q on_q + p on_p + rest, with coefficients per sample and channel.
    on_p, rest, shape = torch.zeros_like(w), torch.zeros_like(w), (n, channels, pixels)
    if isinstance(x, Dual):
        q = x.tangent.reshape(n * groups, -1, 1)
        mean_q = q.mean(1).reshape(n, groups, 1)
        mean_pq = torch.bmm(p.reshape(n * groups, 1, -1), q).reshape(n, groups, 1) / q.shape[1]
        on_p = -w * w * w * (mean_pq - m * mean_q)
        rest = -w * mean_q - m * on_p
    gain = torch.ones(channels).to(p) if weight is None else _value(weight)
    gain = gain.reshape(1, groups, -1)
    on_q, on_p, rest = w * gain, on_p * gain, rest * gain
    if isinstance(weight, Dual):
        change = w * weight.tangent.reshape(1, groups, -1)
        on_p, rest = on_p + change, rest - m * change
    if isinstance(bias, Dual):
        rest = rest + bias.tangent.reshape(1, groups, -1)
    on_q, on_p, rest = (a.reshape(n, channels, 1) for a in (on_q, on_p, rest))
    tangent = torch.addcmul(rest, p.reshape(shape), on_p)
    if isinstance(x, Dual):
        tangent.addcmul_(x.tangent.reshape(shape), on_q)
    return Dual.of(value, tangent.reshape(value.shape))


def _layer_norm(
    x: Dual,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Dual:
    value, m, w = torch.native_layer_norm(x.value, shape, weight, bias, eps)
    axes = tuple(range(-len(shape), 0))
    y, q = (x.value - m) * w, x.tangent
    q = w * (q - q.mean(axes, keepdim=True) - y * (y * q).mean(axes, keepdim=True))
    return Dual.of(value, q if weight is None else q * weight)


def _dropout(x: Dual, p: float = 0.5, training: bool = True, inplace: bool = False) -> Dual:
    if training and p:
        raise NotImplementedError("dual numbers have no rule for dropout: call eval() first")
    return x


RULES: dict[str, Callable[..., Any]] = {
    "__radd__": _add,
    "__rmul__": _mul,
    "add": _add,
    "addcmul": _addcmul,
    "bmm": _product(torch.bmm),
    "cat": _cat,
    "conv2d": _conv2d,
    "cos": lambda x: Dual.of(x.value.cos(), -x.value.sin() * x.tangent),
    "dropout": _dropout,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _matmul,
    "mul": _mul,
    "scaled_dot_product_attention": _attention,
    "silu": _silu,
    "sin": lambda x: Dual.of(x.value.sin(), x.value.cos() * x.tangent),
    "softmax": _softmax,
}
