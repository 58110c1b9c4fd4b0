"""Models are asked as they are used: dropout off, running statistics left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import nn

from .denoiser import Predictor
from .guidance import innermost

__all__ = ["evaluated", "evaluating"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def evaluating(models: Iterable[Predictor]) -> Iterator[None]:
    """Inside: the networks of the models are in evaluation mode; after it, as they were."""
    changed = [part for model in models for part in _modules(model) if part.training]
    for part in changed:
        part.training = False
    try:
        yield
    finally:
        for part in changed:
            part.training = True


def _modules(model: Predictor) -> Iterator[nn.Module]:
    """Every module of a model, or of what it goes around; exact ones have none."""
    asked = innermost(model)
    if isinstance(asked, nn.Module):
        yield from asked.modules()


def evaluated(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator: models among the arguments are in evaluation mode while the function runs."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given = (*args, *kwargs.values())
        with evaluating(value for value in given if isinstance(value, Predictor)):
            return function(*args, **kwargs)

    return call
