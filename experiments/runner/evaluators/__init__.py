"""What can be measured on a model: a function per kind, `(Measured, settings) -> plain values`.

The version of a kind is part of the key of its results: raise it when what a function returns
changes, and the old results are no longer taken for the new.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["KINDS", "evaluate", "version_of"]

KINDS: dict[str, tuple[str, int]] = {
    "samples": ("samples", 1),
    "lipschitz": ("steepness", 1),
    "heldout": ("heldout", 1),
    "likelihood": ("density", 1),
    "steps": ("steps", 4),
    "noise-steps": ("steps", 5),
    "sensitivity": ("sensitivity", 1),
    "history": ("history", 1),
    "neighbours": ("neighbours", 1),
}
"""Kind -> module here, and version."""


def version_of(kind: str) -> int:
    """The version of a kind.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown: choose from {', '.join(KINDS)}")
    return KINDS[kind][1]


def evaluate(kind: str, measured: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Measure; the module is imported only now, since some are slow to load."""
    module = importlib.import_module(f".{KINDS[kind][0]}", __package__)
    function: Callable[..., dict[str, Any]] = getattr(module, kind.replace("-", "_"))
    return function(measured, **settings)
