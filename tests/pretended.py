"""An accelerator that is not there: tensors on the host that say, and insist, they are elsewhere.

A pretended tensor holds a tensor on the host and computes with it, but keeps the rules of Apple's
MPS, which are those of any accelerator and one more:

* an operation takes tensors of one device, and of the host's only indices (numbers on the host
  are Python's: a 0-d tensor of the host in a product crashed MPS, pytorch/pytorch#186580);
* NumPy does not see it; `.to`, `.item` and the like bring it back;
* a generator draws on its own device;
* nothing is float64, and nothing becomes it on its way (the host casts before or after).

Inside `pretending()` the device `DEVICE` can be named wherever a device can.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("mps:0")

_aten = torch.ops.aten
_MOVES = (_aten._to_copy.default, _aten.copy_.default)
_INDEXES = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)
_WIDE = (torch.float64, torch.complex128)


class Pretended(Tensor):
    """A tensor that is on `DEVICE` for whoever asks in Python; PyTorch itself sees `meta`."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        if inner.dtype in _WIDE:
            raise TypeError(f"{inner.dtype} tensor {tuple(inner.shape)} on {DEVICE}")
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.inner})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Generator(torch.Generator):
    """A generator of the host that remembers which device it was made for."""

    made: ClassVar[dict[int, str]] = {}

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls)
        # An operation is handed another object for the same generator.
        cls.made[made._cdata] = torch.device(device).type
        return made


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten._fw_primal.default:  # forward mode: the value without its tangent
            return _run(_aten.alias.default, args[:1], {})
        if not (kwargs and kwargs.get("device")) and not _touches(args):
            return func(*args, **(kwargs or {}))
        # Under `torch.func` operations arrive that are made of others.
        with self:
            found = func.decompose(*args, **(kwargs or {}))
        return _run(func, args, kwargs or {}) if found is NotImplemented else found


class _Data(TorchFunctionMode):
    """`torch.tensor` and `as_tensor` reach for the device's memory themselves: they go round."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = (kwargs or {}).get("device")
        if func in (torch.tensor, torch.as_tensor) and named is not None:
            return func(*args, **dict(kwargs, device=None)).to(named)
        return func(*args, **(kwargs or {}))


@contextmanager
def pretending() -> Iterator[torch.device]:
    """Inside, `DEVICE` exists."""
    with mock.patch("torch.Generator", Generator), _Data(), _Mode():
        yield DEVICE


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, Tensor)]
    away = [a for a in tensors if isinstance(a, Pretended)]
    named = kwargs.get("device")
    there = bool(away) if named is None else named.type == DEVICE.type
    if named is not None and named.type == "meta":
        # PyTorch's own code says so when it puts something beside a pretended tensor (`x.to(y)`,
        # an index), but also, naming no dtype, when forward mode asks for the shape of a product.
        dtype, moved = kwargs.get("dtype"), tensors[0] if tensors and not away else None
        index = moved is not None and bool(moved.dim() and not moved.is_floating_point())
        there = dtype not in _WIDE and (dtype is not None or moved is None or index)
    if not away and not there:
        return func(*args, **kwargs)
    if func in _MOVES:
        _check_move(func, args, kwargs, there)
        if func is _aten.copy_.default:
            there = isinstance(args[0], Pretended)
    else:
        _check_same(func, args, tensors)
    generator = kwargs.get("generator")
    if generator is not None and Generator.made.get(generator._cdata) != DEVICE.type:
        raise RuntimeError(f"{func}: a generator of the host for numbers on {DEVICE}")
    known = {id(a.inner): a for a in away}
    plain = dict(kwargs, device=torch.device("cpu")) if named is not None else kwargs
    found = func(
        *tree_map(_unwrap, args), **{key: tree_map(_unwrap, value) for key, value in plain.items()}
    )

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in known:
            return known[id(value)]
        return Pretended(value) if there else value

    return tree_map(wrap, found)


def _touches(args: Any) -> bool:
    return any(
        isinstance(a, Pretended) or (isinstance(a, (list, tuple)) and _touches(a)) for a in args
    )


def _unwrap(value: Any) -> Any:
    return value.inner if isinstance(value, Pretended) else value


def _check_move(func: Any, args: Any, kwargs: dict[str, Any], there: bool) -> None:
    """Towards the host the device casts, and cannot to float64."""
    source = args[1] if func is _aten.copy_.default else args[0]
    if func is _aten.copy_.default:
        there, dtype = isinstance(args[0], Pretended), args[0].dtype
    else:
        dtype = kwargs.get("dtype") or source.dtype
    if isinstance(source, Pretended) and not there and dtype in _WIDE:
        raise TypeError(f"{func}: {DEVICE} cannot cast to {dtype} on the way to the host")


def _check_same(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func is _aten.where.self:  # numbers among its arguments come as tensors of the host
        tensors = [a for a in tensors if a.dim() or a.dtype in _WIDE]
    if func in _INDEXES:
        tensors = [args[0], *(args[2:3] if len(args) > 2 else ())]
    for tensor in tensors:
        if not isinstance(tensor, Pretended):
            what = f"{tensor.dtype} tensor {tuple(tensor.shape)}"
            raise RuntimeError(f"{func}: a {what} of the host among those of {DEVICE}")
