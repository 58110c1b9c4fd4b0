"""Pictures of a run while it trains: a few samples, cheap enough not to be noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..denoiser import Denoiser
from .plan import Plan

__all__ = ["Preview"]


class Preview:
    """Draws sample grids of a run into a directory."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan, self.directory = plan, directory

    def draw(self, denoiser: Denoiser, step: int, last: bool) -> Iterator[tuple[str, Path]]:
        return iter(())
