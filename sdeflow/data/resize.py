"""Bringing images to a square size: padding, then averages over equal blocks (area resize).

A side of s pixels becomes n pixels by padding it to k n, k = ceil(s / n), and averaging blocks of
k pixels: 28 -> 32 -> 16. Every output pixel is the mean of whole input pixels: nothing is
interpolated, sharpened or enlarged (28 -> 32 only pads).
"""

from einops import reduce
from torch import Tensor
from torch.nn import functional

__all__ = ["resize_images"]


def resize_images(x: Tensor, size: int, fill: float = -1.0) -> Tensor:
    """Pad and average images to `size` x `size`.

    Args:
        x: Images, float, shape (..., H, W).
        size: Side wanted, pixels, at least 1.
        fill: Value of the padding; -1 is black. Where padding is odd, the extra row or column
            is the last one.

    Returns:
        Images, shape (..., size, size).

    Raises:
        ValueError: If `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"image_size = {size}: must be at least 1 pixel")
    height, width = x.shape[-2:]
    block = -(-max(height, width) // size)
    rows, columns = block * size - height, block * size - width
    if rows or columns:
        sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        x = functional.pad(x, sides, value=fill)
    if block == 1:
        return x
    return reduce(x, "... (h a) (w b) -> ... h w", "mean", a=block, b=block)
