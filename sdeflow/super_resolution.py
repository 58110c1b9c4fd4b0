r"""Super-resolution: samples of p(x_0 | y), y = the means of x_0 over blocks of s x s pixels.

The network is given y beside x_t, as further channels at x's size (each low pixel repeated s
times), and learns E[eps | x_t, y] by the same loss; the process is unchanged. Saharia et al. 2021
(arXiv 2104.07636) for the set-up; the low-resolution image itself is not noised.

Every sample has an image of its own, which has to stay with it when a solver drops finished
samples from the batch. Solvers carry one integer per sample, the label: `Paired` makes that the
number of the pair (image and class) that a sample belongs to.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import reduce
from torch import Tensor

from .denoiser import Predictor
from .guidance import Around, Guided

__all__ = ["Paired", "check_images", "first_images", "low_resolution"]


def low_resolution(x: Tensor, factor: int) -> Tensor:
    """Means over blocks of factor x factor pixels: (..., H, W) -> (..., H/factor, W/factor).

    Raises:
        ValueError: the sides are not multiples of the factor.
    """
    if x.shape[-1] % factor or x.shape[-2] % factor:
        raise ValueError(
            f"super_resolution={factor}: sides of {x.shape[-2]} and {x.shape[-1]} pixels are no "
            "multiples of it; choose another factor or image_size"
        )
    return reduce(x, "... (h a) (w b) -> ... h w", "mean", a=factor, b=factor)


def check_images(shape: tuple[int, ...], factor: int) -> None:
    """Refuse data that have no smaller version.

    Raises:
        ValueError: no images, or sides that are not multiples of the factor.
    """
    if len(shape) != 3:
        raise ValueError(f"super_resolution={factor}: the data have shape {shape}, not images")
    low_resolution(torch.empty(shape, device="meta"), factor)


def first_images(x_0: Tensor, factor: int, count: int) -> Tensor:
    """The low-resolution versions of the first `count` of x_0, in turn where there are fewer."""
    return low_resolution(x_0[torch.arange(count) % len(x_0)], factor)


class Paired(Around):
    """A model with one image (and class) per sample; its "label" is the number of the pair.

    Args:
        of: a `Denoiser` whose network takes images, guided or not.
        image: low-resolution images, (N, C, h, w).
        label: their classes (N,), or None.

    Raises:
        ValueError: labels that are not one per image.
    """

    def __init__(self, of: Predictor, image: Tensor, label: Tensor | None = None) -> None:
        if label is not None and len(label) != len(image):
            raise ValueError(f"label: {len(label)} labels for {len(image)} images")
        super().__init__(of)
        self.image, self.label = image, label

    def predict(self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None) -> Tensor:
        of: Any = self.of
        answer: Tensor = of.predict(x, t, wanted, *self.given_to(x, label))
        return answer

    def given(
        self, label: Tensor | int | None = None, guidance: float = 1.0, null: int | None = None
    ) -> Paired:
        """The same pairs with these classes, one for all or (N,), guided.

        Raises:
            ValueError: the model is guided already.
        """
        if guidance != 1 and isinstance(self.of, Guided) and self.of.guidance != 1:
            raise ValueError(
                f"guidance={guidance}: this model is guided by {self.of.guidance} already; leave "
                "it at 1"
            )
        classes = self.label
        if label is not None:
            classes = torch.as_tensor(label, device=self.image.device).expand(len(self.image))
        return Paired(self.of.given(None, guidance, null), self.image, classes)

    def given_to(self, x: Tensor, label: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Classes and images of x (B, ...), whose pairs have the numbers `label`.

        Raises:
            ValueError: no numbers, and not one pair per sample.
        """
        if label is None:
            if len(x) != len(self.image):
                raise ValueError(
                    f"image: {len(self.image)} images for {len(x)} samples; say which, as labels"
                )
            label = torch.arange(len(x))
        image = self.image[label.to(self.image.device)].to(x)
        known = (
            None if self.label is None else self.label[label.to(self.label.device)].to(x.device)
        )
        return known, image
