"""Networks F(x, c, label) to train: a U-Net for images, a residual perceptron for vectors.

| size  | U-Net made for                 | channels per level      | blocks | attention | MLP     |
|-------|--------------------------------|-------------------------|--------|-----------|---------|
| tiny  | 8x8                            | 32 64                   | 1      | middle    | 64 x 2  |
| small | 16x16 to 28x28, 1 M parameters | 24 48 96                | 1      | middle    | 128 x 3 |
| base  | 32x32                          | 64 128 192              | 2      | 1, 2      | 256 x 4 |
| paper | 256x256, the size of DDPM's    | 128 128 256 384 512 512 | 2      | 4, 5      | 512 x 6 |

`make_network` picks by the data's shape unless told. Every network takes its condition in float64
on the host (`condition_dtype`), and label `num_classes` as "no class told".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from .embedding import CONDITION_BANDS, ConditionEmbedding, Fourier, Sinusoidal, Table
from .mlp import MLP
from .unet import UNet

__all__ = [
    "CONDITION_BANDS",
    "MLP",
    "NETWORKS",
    "SIZES",
    "ConditionEmbedding",
    "Fourier",
    "Sinusoidal",
    "Table",
    "UNet",
    "make_network",
]

NETWORKS = ("auto", "unet", "mlp")
SIZES = ("auto", "tiny", "small", "base", "paper")


@dataclass(frozen=True)
class Preset:
    """One size of both networks."""

    channels: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    width: int
    layers: int


PRESETS = {
    "tiny": Preset((32, 64), 1, (), width=64, layers=2),
    "small": Preset((24, 48, 96), 1, (), width=128, layers=3),
    "base": Preset((64, 128, 192), 2, (1, 2), width=256, layers=4),
    "paper": Preset((128, 128, 256, 384, 512, 512), 2, (4, 5), width=512, layers=6),
}


def make_network(
    network: str = "auto",
    size: str = "auto",
    *,
    data_shape: Sequence[int],
    num_classes: int = 0,
    condition: str = "time",
    embedding: str = "sinusoidal",
    embedding_scale: float = 1.0,
    dropout: float = 0.0,
    x_features: int = 64,
    checkpointing: bool = False,
    image_channels: int = 0,
) -> nn.Module:
    """Build a network for data of one shape.

    Args:
        network: "unet" (data of shape (channels, height, width)), "mlp" (any shape), or "auto": a
            U-Net for images, a perceptron for the rest.
        size: One of `SIZES`; "auto" takes tiny up to 12 pixels a side, small up to 28, base up to
            64 and paper beyond; small for a perceptron.
        data_shape: Shape of one sample, e.g. (1, 8, 8) or (2,).
        num_classes: Number of classes; 0 for an unconditional network.
        condition: What the network is told, a key of `CONDITION_BANDS`: sets the frequencies.
        embedding: "sinusoidal", "fourier" or "table".
        embedding_scale: Factor of the highest frequency of the waves.
        dropout: Dropout inside the residual blocks, in [0, 1).
        x_features: Fourier features of x in a perceptron; 0 for none.
        checkpointing: Recompute the U-Net's blocks in the backward pass, for memory.
        image_channels: Channels of an image given beside x, which a U-Net can take; 0 for none.

    Returns:
        A module with `forward(x, c, label=None)`, `condition_dtype` and `num_classes`.

    Raises:
        ValueError: For an unknown name, or a shape the network cannot take.
    """
    shape = tuple(int(n) for n in data_shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"data_shape = {shape}: must be positive sizes, e.g. (1, 28, 28) or (2,)")
    for argument, value, allowed in (
        ("network", network, NETWORKS),
        ("size", size, SIZES),
        ("condition", condition, tuple(CONDITION_BANDS)),
    ):
        if value not in allowed:
            raise ValueError(f"{argument} = {value!r}: must be one of {', '.join(allowed)}")
    low, high = CONDITION_BANDS[condition]
    band = (low, high * embedding_scale)
    if network == "mlp" or (network == "auto" and len(shape) != 3):
        if checkpointing:
            raise ValueError("checkpointing: only the U-Net has it; leave it out for a perceptron")
        if image_channels:
            raise ValueError("network = 'mlp' takes no image beside x: use 'unet'")
        preset = PRESETS["small" if size == "auto" else size]
        return MLP(
            shape,
            width=preset.width,
            blocks=preset.layers,
            x_features=x_features,
            num_classes=num_classes,
            dropout=dropout,
            embedding=embedding,
            band=band,
        )
    if len(shape) != 3:
        raise ValueError(
            f"network = 'unet' needs (channels, height, width), not data of {shape}: use 'mlp'"
        )
    preset = PRESETS[_size_for(max(shape[1:])) if size == "auto" else size]
    return UNet(
        shape[0],
        channels=preset.channels,
        blocks=preset.blocks,
        attention=preset.attention,
        num_classes=num_classes,
        dropout=dropout,
        embedding=embedding,
        band=band,
        checkpointing=checkpointing,
        image_channels=image_channels,
    )


def _size_for(pixels: int) -> str:
    for size, limit in (("tiny", 12), ("small", 28), ("base", 64)):
        if pixels <= limit:
            return size
    return "paper"
