"""Data sets: named ones, files of images or arrays, 2-D toys; all as tensors x_0, (N, ...).

Images go affinely from their integer range to [-1, 1]; floats (latents, say) stay as they are.
"""

from .dataset import Dataset, from_tensors, load_data
from .readers import read_folder, read_idx, read_npz
from .resize import resize_images
from .toys import TOYS, draw_toy

__all__ = [
    "TOYS",
    "Dataset",
    "draw_toy",
    "from_tensors",
    "load_data",
    "read_folder",
    "read_idx",
    "read_npz",
    "resize_images",
]
