r"""The same functions by faster kernels: how any network is run on a CPU while it trains in bf16.

Attention, softmax(q k^T / sqrt(d)) v, is written out as two products and a softmax. The fused
kernel saves memory by computing in blocks, but its backward pass in bf16 takes 3.5 times as long
(64 samples, 49 tokens, 8 heads: 9 ms written out, 23 by PyTorch's own MATH kernel, 68 fused).

On CPUs that multiply tiles (AMX), convolutions are fastest on channels-last maps, which are slow
for bf16 group norms: weights become channels-last, and group norms get contiguous maps. Elsewhere
contiguous maps are as fast for the convolutions and faster for the rest.

A network changes nothing but rounding by this, and needs no changes itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..networks import MLP, UNet

__all__ = ["Kernels", "kernels"]

Kernels = Callable[[], AbstractContextManager[object]]

MOST_SCORES = 2**27  # of one call; beyond, the fused kernel's smaller memory counts for more


def kernels(network: nn.Module, device: torch.device, precision: str) -> Kernels:
    """What to enter around a network's forward pass; may lay out the network's weights anew.

    Args:
        network: any module.
        device: where it is.
        precision: bf16, fp16 or fp32.

    Returns:
        A function that gives a context manager.
    """
    # Our own networks are written for contiguous maps, with attention written out.
    own = isinstance(network, (UNet, MLP))
    if device.type != "cpu" or precision != "bf16" or own:
        return nullcontext
    tiles = _has_tiles()
    if tiles:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda: _Kernels(tiles)


def _has_tiles() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


class _Kernels(TorchFunctionMode):
    """Replaces what networks call by functions with the same value.

    Args:
        contiguous_norms: give group norms contiguous maps.
    """

    def __init__(self, contiguous_norms: bool) -> None:
        super().__init__()
        self.contiguous_norms = contiguous_norms

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is functional.group_norm and self.contiguous_norms:
            return func(args[0].contiguous(), *args[1:], **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention`, written out where it is the plain one."""
    scores = query.shape[:-1].numel() * key.shape[-2]
    if attn_mask is not None or dropout_p or is_causal or enable_gqa or scores > MOST_SCORES:
        grouped = {"enable_gqa": True} if enable_gqa else {}  # PyTorch 2.4 knows no such argument
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **grouped
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = torch.softmax((query * scale) @ key.mT, dim=-1)
    return weights.to(value.dtype) @ value
