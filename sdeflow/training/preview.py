"""Pictures of a run while it trains: a few samples, cheap enough not to be noticed.

While training, `TILES` samples in `STEPS` fixed steps, at `TIMES` points of the run; at its end
the same number with an adaptive solver, whose step sizes are drawn too. The seed never changes, so
the pictures of a run show the same samples getting better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ..config import settled
from ..denoiser import Denoiser
from .plan import Plan

__all__ = ["Preview"]

TILES, POINTS = 16, 256  # images, or points of a vector data set
STEPS = 20
TIMES = 4
MAX_EVALUATIONS = 500
NAMES = {"samples": "grid", "step sizes": "steps"}  # of the pictures -> of the files


class Preview:
    """Draws samples of a run into a directory.

    Args:
        plan: the run.
        directory: where the pictures go.
        warn: told once if samples cannot be drawn; training goes on.
    """

    def __init__(self, plan: Plan, directory: Path, warn: Callable[[str], None]) -> None:
        self.plan, self.directory, self.warn = plan, directory, warn
        self._drawn = 0

    def draw(self, denoiser: Denoiser, step: int, last: bool) -> Iterator[tuple[str, Path]]:
        """Name and file of each picture made at this step; most steps make none.

        Args:
            denoiser: the model, in evaluation mode.
            step: optimiser steps taken.
            last: whether the run ends here.
        """
        due = step * TIMES // settled(self.plan.config.steps)
        if self._drawn < 0 or (due <= self._drawn and not last):
            return
        try:
            yield from self._draw(denoiser, step, last)
            self._drawn = due
        except (ValueError, RuntimeError) as error:  # a picture is not worth a run
            self._drawn = -1
            self.warn(f"no pictures of samples: {' '.join(str(error).split())[:200]}")

    def _draw(self, denoiser: Denoiser, step: int, last: bool) -> Iterator[tuple[str, Path]]:
        from .. import plots
        from ..report import describe, write_samples
        from ..sampling import sample
        from ..super_resolution import first_images

        config, shape = self.plan.config, self.plan.data_shape
        count = TILES if len(shape) == 3 else POINTS
        adaptive = last and not denoiser.quantised
        label = None
        if config.class_condition:
            label = torch.arange(count) % self.plan.dataset.num_classes
        image, factor = None, config.super_resolution
        if factor:
            image = first_images(self.plan.dataset.heldout, factor, count)
        out = sample(
            denoiser,
            shape,
            solver="dopri5" if adaptive else "ddim",
            steps=None if adaptive else STEPS,
            label=label,
            image=image,
            count=count,
            max_evaluations=MAX_EVALUATIONS,
            on_failure="return",
        )
        place = self.directory / f"step-{step:08d}"
        about = f"{describe(config)}; step {step}"
        if last:
            files = write_samples(out, place, about, denoiser.breaks)
            yield from ((name, files[key]) for name, key in NAMES.items() if key in files)
        elif out.ok.any():
            x = out.x[out.ok].detach().float().cpu().numpy()
            figure = plots.sample_grid(x, caption=f"{about}; {out.caption()}")
            yield "samples", plots.save(figure, place)
