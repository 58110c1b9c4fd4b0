"""Figures of samples, step sizes and losses, in one style that survives a black-and-white printer.

Figures are built with `matplotlib.figure.Figure`, never with pyplot. Every function takes NumPy
arrays (or anything `numpy.asarray` takes, so CPU tensors too) and returns a `Figure`, which `save`
writes as PNG, and as SVG when asked.
"""

from .causes import step_causes
from .diagnostics import training_diagnostics
from .losses import binned_loss, loss_curves
from .samples import sample_grid
from .steps import StepPanel, step_sizes
from .style import (
    AXES_OF_NOISE,
    CAPTION_INCHES,
    LINES,
    PIXELS,
    STYLE,
    captioned,
    panel_rows,
    save,
    scale_axis,
    write_csv,
)

__all__ = [
    "AXES_OF_NOISE",
    "CAPTION_INCHES",
    "LINES",
    "PIXELS",
    "STYLE",
    "StepPanel",
    "binned_loss",
    "captioned",
    "loss_curves",
    "panel_rows",
    "sample_grid",
    "save",
    "scale_axis",
    "step_causes",
    "step_sizes",
    "training_diagnostics",
    "write_csv",
]
