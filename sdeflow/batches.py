"""Running a model over many samples: batches with their progress, the device, the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .denoiser import Predictor
from .guidance import Guided, classes_of, innermost
from .super_resolution import Paired

__all__ = ["Progress", "batches", "device_of", "generator_of", "labels_of"]

Progress = Callable[[float], None]

NUMBERS = 2**18  # in the states of a batch, unless that is fewer than `LEAST` samples
LEAST = 16


def batches(
    count: int, batch_size: int | None, progress: Progress | None, shape: Sequence[int]
) -> Iterator[tuple[slice, Progress]]:
    """Slices of at most batch_size samples, each with a function for its own share of progress.

    Args:
        count: number of samples.
        batch_size: samples at once; if None, as many as have 2^18 numbers in all, at least 16.
        progress: called with the share of the whole work that is done, in [0, 1].
        shape: of one sample.

    Raises:
        ValueError: batch_size below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: need at least 1")
    size = min(count, batch_size or max(LEAST, NUMBERS // max(1, math.prod(shape))))
    for low in range(0, count, size):
        rows = slice(low, min(low + size, count))
        done, share = low / count, (rows.stop - low) / count

        def report(within: float, done: float = done, share: float = share) -> None:
            if progress is not None:
                progress(done + share * min(1.0, max(0.0, within)))

        yield rows, report
    if progress is not None:
        progress(1.0)


def device_of(denoiser: Predictor) -> torch.device:
    """Where the model's parameters are; the host for oracles."""
    model = innermost(denoiser)
    if isinstance(model, nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")


def generator_of(seed: int) -> torch.Generator:
    """A generator on the host, seeded.

    Raises:
        ValueError: a seed of more than 64 bits.
    """
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed={seed}: need a whole number from -2^63 to 2^64 - 1")
    return torch.Generator().manual_seed(seed)


def labels_of(label: int | Tensor | None, count: int, denoiser: Predictor) -> Tensor | None:
    """(N,) labels on the model's device, checked against its number of classes.

    Those of a `Paired` model are the numbers of its pairs, by default all in order. A label that
    a `Guided` model binds to each sample is given out here, to stay with its sample in a batch.

    Raises:
        ValueError: a model without labels, a label out of range, or not one per sample.
    """
    pairs = len(denoiser.image) if isinstance(denoiser, Paired) else None
    if label is None and pairs is not None:
        if pairs != count:
            raise ValueError(f"image: {pairs} images for {count} samples; say which, as labels")
        label = torch.arange(count)
    if label is None and isinstance(denoiser, Guided) and denoiser.num_classes:
        label = denoiser.label
    if label is None:
        return None
    labels = torch.as_tensor(label, dtype=torch.int64)
    classes = classes_of(denoiser) if pairs is None else pairs
    if not classes:
        raise ValueError(f"label={label}: this model was not trained with labels; leave it out")
    # One label more than there are classes stands for "no class"; there is no such pair.
    largest = classes if pairs is None else classes - 1
    if int(labels.min()) < 0 or int(labels.max()) > largest:
        raise ValueError(f"label={label}: labels run from 0 to {classes - 1}")
    if labels.dim() and len(labels) != count:
        raise ValueError(f"label: {len(labels)} labels for {count} samples")
    return labels.expand(count).to(device_of(denoiser))
