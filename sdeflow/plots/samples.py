"""Pictures of samples: images as tiles, vectors as points."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from .style import PIXELS, STYLE, captioned

__all__ = ["sample_grid"]


def sample_grid(x: ArrayLike, columns: int | None = None, caption: str = "") -> Figure:
    """Samples side by side: images as tiles, vectors as points.

    Args:
        x: images (N, C, H, W) with values in [-1, 1], grey (C = 1) or colour (C = 3; of any other
            number of channels the first is shown in grey); or vectors (N, D), whose first two
            coordinates are drawn as points (D = 1: a histogram).
        columns: tiles in a row; default makes the grid about square.
        caption: text below the picture.

    Raises:
        ValueError: if x has another number of dimensions or no samples.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim not in (2, 4) or x.shape[0] == 0:
        raise ValueError(
            f"x must be images (N, C, H, W) or vectors (N, D) with N > 0, got shape {x.shape}"
        )
    return _tiles(x, columns, caption) if x.ndim == 4 else _points(x, caption)


def _tiles(x: NDArray[np.float64], columns: int | None, caption: str) -> Figure:
    count, channels, height, width = x.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    zoom = max(1, round(48 / max(height, width)))
    shown = 3 if channels == 3 else 1
    gap = 1 if zoom > 1 else 2  # white pixels between tiles, before zooming
    canvas = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap, shown))
    for index, image in enumerate(np.clip(x[:, :shown] / 2 + 0.5, 0, 1)):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    canvas = np.nan_to_num(canvas, nan=0.5)  # a failed sample is a grey tile
    canvas = canvas.repeat(zoom, axis=0).repeat(zoom, axis=1)
    size = (canvas.shape[1] / PIXELS, canvas.shape[0] / PIXELS)
    with rc_context(STYLE):
        figure, bottom = captioned(max(size[0], 2.5), size[1], caption)
        total = figure.get_size_inches()
        area = (
            (total[0] - size[0]) / 2 / total[0],
            bottom,
            size[0] / total[0],
            size[1] / total[1],
        )
        axes = figure.add_axes(area)
        axes.imshow(canvas.squeeze(-1) if shown == 1 else canvas, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    return figure


def _points(x: NDArray[np.float64], caption: str) -> Figure:
    with rc_context(STYLE):
        figure, bottom = captioned(4.0, 4.0, caption)
        axes = figure.add_axes((0.14, bottom + 0.12 * (1 - bottom), 0.82, 0.84 * (1 - bottom)))
        if x.shape[1] == 1:
            axes.hist(x[np.isfinite(x)], bins=60, color="0.4")
            axes.set(xlabel="x", ylabel="samples")
        else:
            axes.plot(x[:, 0], x[:, 1], ".", color="0.15", markersize=2.5, alpha=0.6)
            axes.set(xlabel="x[0]", ylabel="x[1]", aspect="equal")
            axes.set_adjustable("datalim")
    return figure
