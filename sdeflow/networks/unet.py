"""U-Net F(x, c, label) for images of any size and number of channels.

    h = conv(x)
    down    h = block(h), kept as a skip; then halved (odd sizes round up: 7 -> 4)
    middle  h = attention(block(h))
    up      h enlarged to the size of the skip it meets; h = block(concatenation of both)
    F = conv(silu(norm(h)))

A residual block told of the condition by the embedding e(c, label):

    h + W_2 silu((1 + s) norm(W_1 silu(norm(h))) + b),    (s, b) = A silu(e)

(Dhariwal & Nichol 2021, arXiv 2105.05233). W_2 and the last convolution start at zero, so that
the blocks start as the identity and the network at F = 0.

Made to be fast on a CPU as well: feature maps stay contiguous (in bfloat16 channels-last a CPU
takes about 8 to 15 times as long for a group norm), the width changes on the way up before the
enlargement, the presets put few channels where there are many pixels, scale and shift are part of
the norm's own affine map, and the last convolution is a product of matrices (`thin_convolution`).

Under autocast the first and the last convolution stay in the parameters' own precision: x rounded
to bfloat16 would lose the noise wherever sigma < 2^-8, and F would be known to three digits.
"""

import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..precision import own_precision
from .embedding import CONDITION_BANDS, ConditionEmbedding

__all__ = ["Attention", "ResidualBlock", "UNet"]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 8 groups, 32 from 128 channels on, or as many as divide the channels."""
    return nn.GroupNorm(math.gcd(channels, 32 if channels >= 128 else 8), channels)


def zeroed(module: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with weight and bias at zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def modulated_norm(norm: nn.GroupNorm, h: Tensor, modulation: Tensor) -> Tensor:
    """(1 + s) norm(h) + b in one pass over h.

    norm(h) = gamma n + beta with n the normalised map, so that the whole is a group norm with the
    affine map (1 + s) gamma, (1 + s) beta + b of its own for each sample: the one of a single
    sample with B times the channels and B times the groups.

    Args:
        norm: The group norm.
        h: Feature map, shape (B, channels, H, W).
        modulation: s and b side by side, shape (B, 2 channels).

    Returns:
        The modulated map, shape and dtype of h.
    """
    batch, channels = h.shape[:2]
    scale, shift = modulation.to(norm.weight.dtype).chunk(2, dim=1)
    weight = torch.addcmul(norm.weight, norm.weight, scale)
    bias = torch.addcmul(norm.bias + shift, norm.bias, scale)
    one = h.reshape(1, batch * channels, *h.shape[2:])
    groups = batch * norm.num_groups
    return torch.group_norm(one, groups, weight.view(-1), bias.view(-1), norm.eps).view(h.shape)


def thin_convolution(conv: nn.Conv2d, h: Tensor) -> Tensor:
    """The 3x3 convolution `conv` to few channels, as one product of matrices and a sum of shifts.

    A CPU's convolution computes 16 output channels at a time; with one or three of them, most of
    its work is thrown away. Here the channels are contracted for each of the 9 taps, and the 9
    maps are added where they belong: a third of the time.

    Args:
        conv: The convolution: 3x3, stride 1, padding 1.
        h: Feature map, shape (B, inputs, H, W), in the parameters' dtype.

    Returns:
        conv(h), shape (B, outputs, H, W).
    """
    if h.device.type != "cpu":
        out: Tensor = conv(h)
        return out
    taps = conv.weight.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, h.shape[1])
    maps = torch.bmm(taps.expand(len(h), -1, -1), h.flatten(2))
    summed = functional.fold(maps, h.shape[-2:], 3, padding=1)
    assert conv.bias is not None
    return summed + conv.bias[:, None, None]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the condition as scale and shift between them, and a shortcut.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        embedding: Size of the embedding.
        dropout: Probability that a feature is dropped before the second convolution.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_1 = group_norm(inputs)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm_2 = group_norm(outputs)
        self.dropout = dropout
        self.conv_2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """h (B, inputs, H, W) and silu of the embedding e (B, embedding) -> (B, outputs, H, W)."""
        r = self.conv_1(functional.silu(self.norm_1(h)))
        r = functional.silu(modulated_norm(self.norm_2, r, self.modulation(e)))
        if self.dropout:
            r = functional.dropout(r, self.dropout, self.training)
        out: Tensor = self.shortcut(h) + self.conv_2(r)
        return out


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, added to it.

    On a CPU the softmax is written out: the fused kernel there has no forward-mode derivative and
    a slow backward pass in bfloat16. Elsewhere it is `scaled_dot_product_attention`; for a
    forward-mode derivative on an accelerator, enter
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` first.

    Args:
        channels: Channels in and out.
        heads: Number of heads; must divide the channels.

    Raises:
        ValueError: If `heads` does not divide `channels`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads = {heads}: must divide the {channels} channels")
        self.heads = heads
        self.norm = group_norm(channels)
        self.inputs = nn.Conv2d(channels, 3 * channels, 1)
        self.output = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        """h (B, channels, H, W) -> the same shape."""
        q, k, v = rearrange(
            self.inputs(self.norm(h)), "b (n m d) h w -> n b m (h w) d", n=3, m=self.heads
        )
        if h.device.type == "cpu":
            weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1)
            a = weights.to(v.dtype) @ v
        else:
            a = functional.scaled_dot_product_attention(q, k, v)
        a = rearrange(a, "b m (h w) d -> b (m d) h w", h=h.shape[-2])
        out: Tensor = h + self.output(a)
        return out


class Level(nn.Module):
    """A residual block, and attention after it when `heads` is not 0."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, dropout: float, heads: int
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, embedding, dropout)
        self.attention = Attention(outputs, heads) if heads else nn.Identity()

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """h (B, inputs, H, W), e (B, embedding) -> (B, outputs, H, W)."""
        out: Tensor = self.attention(self.block(h, e))
        return out


class UNet(nn.Module):
    """U-Net on images.

    Args:
        in_channels: Channels of x and of F.
        image_channels: Channels of an image given beside x; 0 for none.
        channels: Channels per level; level i works at 1/2^i of the image's height and width.
        blocks: Residual blocks per level on the way down, and again on the way up.
        attention: Levels with self-attention after each block (the middle always has it).
        head_channels: Channels of an attention head (at least one head).
        num_classes: Number of classes; 0 for none. Label `num_classes` is the null label.
        dropout: Dropout inside the residual blocks, in [0, 1).
        embedding: "sinusoidal", "fourier" or "table".
        band: Lowest and highest angular frequency of the embedding, radians per unit of c.
        embedding_size: Size of the embedding; 4 times the first level's channels, at least 128,
            unless given.
        checkpointing: Recompute the blocks in the backward pass: less memory, a third more time.

    Raises:
        ValueError: For an argument outside its range.

    Attributes:
        condition_dtype: float64: the condition is taken in float64 on the host.
    """

    condition_dtype = torch.float64

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (32, 64, 96),
        blocks: int = 2,
        attention: Sequence[int] = (),
        head_channels: int = 32,
        num_classes: int = 0,
        dropout: float = 0.0,
        embedding: str = "sinusoidal",
        band: tuple[float, float] = CONDITION_BANDS["time"],
        embedding_size: int | None = None,
        checkpointing: bool = False,
        image_channels: int = 0,
    ) -> None:
        super().__init__()
        channels = tuple(channels)
        if in_channels < 1:
            raise ValueError(f"in_channels = {in_channels}: must be at least 1")
        if not channels or min(channels) < 1:
            raise ValueError(f"channels = {channels}: give one positive number per level")
        if blocks < 1:
            raise ValueError(f"blocks = {blocks}: must be at least 1")
        if not set(attention) <= set(range(len(channels))):
            raise ValueError(f"attention = {tuple(attention)}: levels are 0..{len(channels) - 1}")
        if head_channels < 1:
            raise ValueError(f"head_channels = {head_channels}: must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout}: must lie in [0, 1)")
        if image_channels < 0:
            raise ValueError(f"image_channels = {image_channels}: must be 0 (no image) or more")
        self.in_channels, self.image_channels = in_channels, image_channels
        self.num_classes = num_classes
        self.checkpointing = checkpointing
        size = max(128, 4 * channels[0]) if embedding_size is None else embedding_size
        self.embedding = ConditionEmbedding(size, num_classes, embedding, band)

        def heads(width: int) -> int:
            return next(n for n in range(max(1, width // head_channels), 0, -1) if not width % n)

        def level(i: int, inputs: int) -> Level:
            n = heads(channels[i]) if i in attention else 0
            return Level(inputs, channels[i], size, dropout, n)

        self.stem = nn.Conv2d(in_channels + image_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.halve = nn.ModuleList()
        for i, width in enumerate(channels):
            self.down.append(nn.ModuleList(level(i, width) for _ in range(blocks)))
            if i + 1 < len(channels):
                self.halve.append(nn.Conv2d(width, channels[i + 1], 3, stride=2, padding=1))
        last = channels[-1]
        self.middle = Level(last, last, size, dropout, heads(last))
        self.up = nn.ModuleList()
        self.widen = nn.ModuleList()
        for i in reversed(range(len(channels))):
            self.up.append(nn.ModuleList(level(i, 2 * channels[i]) for _ in range(blocks)))
            if i:
                self.widen.append(nn.Conv2d(channels[i], channels[i - 1], 3, padding=1))
        self.norm = group_norm(channels[0])
        self.out = zeroed(nn.Conv2d(channels[0], in_channels, 3, padding=1))

    def forward(
        self, x: Tensor, c: Tensor, label: Tensor | None = None, image: Tensor | None = None
    ) -> Tensor:
        """The network's value.

        Args:
            x: Images, shape (B, in_channels, H, W), any H and W.
            c: Condition, float64 on the host, shape (B,), or () for one shared by all.
            label: Classes, int64, shape (B,) or (); None is the null label.
            image: Image beside x, shape (B, image_channels, h, w), enlarged to (H, W) by
                repeating its pixels; None for a network that takes none.

        Returns:
            F(x, c, label, image), like x.

        Raises:
            ValueError: If a shape does not fit.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x of shape {tuple(x.shape)}: must be (batch, {self.in_channels}, height, width)"
            )
        channels = 0 if image is None else image.shape[1]
        if channels != self.image_channels:
            raise ValueError(
                f"image of {channels} channels: this network takes {self.image_channels}"
            )
        if image is not None:
            x = torch.cat((x, functional.interpolate(image.to(x.dtype), x.shape[-2:])), dim=1)
        e = functional.silu(self.embedding(c, len(x), label))
        with own_precision(x.device):
            h: Tensor = self.stem(x.contiguous())
        skips = []
        for i, blocks in enumerate(self.down):
            for block in _modules(blocks):
                h = self._run(block, h, e)
                skips.append(h)
            if i < len(self.halve):
                h = self.halve[i](h)
        h = self._run(self.middle, h, e)
        for i, blocks in enumerate(self.up):
            for block in _modules(blocks):
                h = self._run(block, torch.cat((h, skips.pop()), dim=1), e)
            if skips:
                h = functional.interpolate(self.widen[i](h), size=skips[-1].shape[-2:])
        h = functional.silu(self.norm(h))
        with own_precision(x.device):
            out = thin_convolution(self.out, h.to(self.out.weight.dtype))
        return out.to(x.dtype)

    def _run(self, block: Callable[[Tensor, Tensor], Tensor], h: Tensor, e: Tensor) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            out: Tensor = checkpoint(block, h, e, use_reentrant=False)
            return out
        return block(h, e)


def _modules(blocks: nn.Module) -> list[nn.Module]:
    return list(blocks.children())
