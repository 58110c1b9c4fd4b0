"""Spaces to compare samples in: x -> phi(x), (N, ...) to float64 vectors (N, F), with a name.

pixels       x itself, flattened
classifier   the last hidden layer of a small classifier of the data (`metrics.classifier`)
inception    the 2048 features of Inception-v3 that FID is defined with (Heusel et al. 2017,
             arXiv 1706.08500), from a weights file that the user brings
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Features", "InceptionFeatures", "Pixels"]


class Features(Protocol):
    """A feature extractor.

    Attributes:
        name: What is reported beside every number measured in this space.
    """

    name: str

    def __call__(self, x: Tensor) -> NDArray[np.float64]:
        """Features (N, F) of samples (N, ...)."""
        ...


class Pixels:
    """The samples as they are.

    Args:
        shape: Shape of one sample, for the name.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        kind = "pixels" if len(shape) == 3 else "values"
        self.name = f"{kind} ({'x'.join(str(side) for side in shape)})"

    def __call__(self, x: Tensor) -> NDArray[np.float64]:
        flat: NDArray[np.float64] = x.detach().cpu().double().flatten(1).numpy()
        return flat


class InceptionFeatures:
    """Inception-v3 as torch-fidelity builds it (`pip install torch-fidelity`); downloads nothing.

    Grey images are taken as three equal channels, [-1, 1] as bytes.

    Args:
        weights: File of the weights in torch-fidelity's format, tensors only.
        device: Where to run it.
        batch_size: Images at once.

    Raises:
        ValueError: The package is missing, or the file is missing, damaged, not of this network,
            or holds anything but tensors.
    """

    def __init__(
        self, weights: str | Path, device: torch.device | str = "cpu", batch_size: int = 64
    ) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ValueError(
                "Inception features need torch-fidelity: pip install 'sdeflow[inception]', or "
                "choose the pixels or classifier space"
            ) from None
        copy = io.BytesIO()
        try:
            # Read here, without pickled code; the extractor itself would run any.
            torch.save(torch.load(weights, map_location="cpu", weights_only=True), copy)
            copy.seek(0)
            network = FeatureExtractorInceptionV3(
                "inception-v3", ["2048"], feature_extractor_weights_path=copy
            )
        except Exception as error:  # what unpickling raises depends on where the damage is
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:150]
            raise ValueError(f"inception weights {weights}: {reason}") from None
        self.network: Any = network.to(device).eval()
        self.device, self.batch_size = torch.device(device), batch_size
        self.name = f"inception-v3 (2048 features, {Path(weights).name})"

    @torch.no_grad()
    def __call__(self, x: Tensor) -> NDArray[np.float64]:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"Inception takes images (N, 1 or 3, H, W), not {tuple(x.shape)}")
        parts = []
        for low in range(0, len(x), self.batch_size):
            part = x[low : low + self.batch_size].detach()
            bytes_ = ((part.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            (found,) = self.network(bytes_.to(self.device).expand(-1, 3, -1, -1))
            parts.append(found.cpu().double().flatten(1))
        features: NDArray[np.float64] = torch.cat(parts).numpy()
        return features
