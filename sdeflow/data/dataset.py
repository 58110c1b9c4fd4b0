"""`load_data`: from the name of a data set to tensors, split into training and held-out samples.

The split is a fixed permutation of the samples as they are stored, so that every run and every
evaluation of a data set agree on what was held out; sets with a test set of their own keep it.
"""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .readers import images_from_bytes, read_folder, read_idx, read_npz
from .resize import resize_images
from .toys import TOYS, draw_toy

__all__ = ["Dataset", "from_tensors", "load_data"]

NAMES = ("digits", "fashion-mnist", *TOYS)
PREFIXES = ("folder:", "npz:", "idx:")
FASHION = Path("/usr/share/datasets/fashion-mnist")
TOY_SIZES = (20_000, 2_000)
LARGEST = 50.0  # of floats in the shape of images: beyond, they are taken for bytes

Labels = NDArray[np.int64] | NDArray[np.uint8] | None


@dataclass(frozen=True, repr=False)
class Dataset:
    """A data set in memory.

    Attributes:
        name: As given to `load_data`.
        train: Training samples, float32, shape (N, ...).
        heldout: Held-out samples, float32, shape (M, ...).
        train_labels: Classes of the training samples, int64, shape (N,), or None.
        heldout_labels: Classes of the held-out samples, int64, shape (M,), or None.
        num_classes: Number of classes; 0 without labels.
        is_image: Whether a sample is a picture (C, H, W) with values in [-1, 1].
        flips: Whether a mirrored sample is as good a sample (not so for digits).
    """

    name: str
    train: Tensor
    heldout: Tensor
    train_labels: Tensor | None
    heldout_labels: Tensor | None
    num_classes: int
    is_image: bool
    flips: bool

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} + {len(self.heldout)} samples of shape {self.data_shape}"
        return f"Dataset({self.name!r}, {sizes}, {self.num_classes} classes)"

    @property
    def remark(self) -> str | None:
        """What is odd about the values, in a line, or None."""
        stored = self.is_image and self.name.startswith("npz:")  # other images come from bytes
        if not stored or float(self.train.min()) < 0:
            return None
        return (
            f"{self.name}: all values lie in [0, 1], and images are taken to be in [-1, 1]: if "
            "black is 0 there, store 2 x - 1"
        )

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.train.shape[1:])


def load_data(
    name: str,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    heldout: int | None = None,
) -> Dataset:
    """Load a data set.

    Args:
        name: One of

            - `digits`: scikit-learn's 1,797 digits of 8x8 pixels, 500 of them held out;
            - `fashion-mnist`: 60,000 pictures of clothes of 28x28 pixels, its test set held out;
            - `mixture`, `moons`, `rings`, `swissroll`, `checkerboard`: points in the plane;
            - `folder:PATH`: images of one size, or of any with `image_size`; a sub-folder per
              class if there are classes;
            - `npz:PATH`: samples under `x`, `images` or `arr_0`, labels under `y` or `labels`; or
              an NPY file of samples;
              bytes are images, floats of any shape (N, ...) are taken as they are (images
              range in [-1, 1]);
            - `idx:PATH`: a file in MNIST's format, or a folder that has MNIST's four files.
        data_dir: Folder that holds the four files of `fashion-mnist`; where Debian's package
            `dataset-fashion-mnist` puts them unless given.
        image_size: Side of the square to which images are padded and averaged (`resize_images`).
        heldout: Number of samples to hold out; 500 for digits, the test set where there is one,
            2,000 for the toys, else a tenth and at most 10,000.

    Returns:
        The data set; the same arguments always give the same one.

    Raises:
        ValueError: For an unknown name (with the nearest), files that are missing or damaged,
            images of mixed sizes, or an argument that does not suit the data.
    """
    if name == "own":
        raise ValueError(
            "data = 'own': this run was given its data in Python, and they are not kept; give "
            "them again there"
        )
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
    if prefix is None and name not in NAMES:
        known = {n: n for n in NAMES} | {
            prefix.rstrip(":"): f"{prefix}PATH" for prefix in PREFIXES
        }
        near = difflib.get_close_matches(name.split(":")[0], known, 1, 0.5)
        hint = (
            f"did you mean {known[near[0]]}?" if near else f"known are {', '.join(known.values())}"
        )
        if os.path.exists(name):  # Path.exists raises on names that are too long
            kind = (
                "folder"
                if Path(name).is_dir()
                else "npz"
                if name.endswith((".npz", ".npy"))
                else "idx"
            )
            hint = f"write {kind}:{name} for your own data"
        raise ValueError(f"data = {name!r}: no such data set; {hint}")
    if data_dir is not None and name != "fashion-mnist":
        raise ValueError(f"data_dir is for fashion-mnist only; {name} does not look there")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size = {image_size}: must be at least 1 pixel")
    if name in TOYS:
        return _toy(name, image_size, TOY_SIZES[1] if heldout is None else heldout)
    if name == "digits":
        return _digits(image_size, 500 if heldout is None else heldout)
    if name == "fashion-mnist":
        folder = _fashion_folder(None if data_dir is None else Path(data_dir))
        return _mnist(name, folder, image_size, heldout)
    path = Path(name[len(prefix or "") :]).expanduser()
    if prefix == "folder:":
        x, y = read_folder(path, image_size)
        return _split(name, x, y, heldout, is_image=True, flips=x.shape[1] == 3)
    if prefix == "idx:" and path.is_dir():
        return _mnist(name, path, image_size, heldout)
    if prefix == "idx:":
        return _split(name, _images(read_idx(path), image_size), None, heldout, is_image=True)
    values, labels = read_npz(path)
    if values.dtype == np.uint8:
        x = _images(values, image_size)
        return _split(name, x, labels, heldout, is_image=True, flips=x.shape[1] == 3)
    x = _floats(path, values, image_size)
    return _split(name, x, labels, heldout, is_image=_drawable(x, str(path)))


def from_tensors(
    x: Tensor, labels: Tensor | None = None, *, name: str = "own", heldout: int | None = None
) -> Dataset:
    """A data set of samples in memory.

    Args:
        x: Samples, floating point, shape (N, ...); images (N, 1 or 3, H, W) in [-1, 1].
        labels: Their classes from 0 on, integers, shape (N,); None for none.
        name: What runs and captions call it.
        heldout: Number of samples to hold out; a tenth and at most 10,000 by default.

    Raises:
        ValueError: For samples or labels of another kind or shape, or that are not finite.
    """
    if not x.is_floating_point() or x.dim() < 2:
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}: give floats (N, ...); images of bytes are "
            "x / 127.5 - 1"
        )
    samples = x.detach().cpu().float()
    if not torch.isfinite(samples).all():
        raise ValueError("x has values that are not finite in float32")
    if labels is not None and (
        labels.shape != x.shape[:1] or labels.is_floating_point() or bool((labels < 0).any())
    ):
        raise ValueError(
            f"labels is {labels.dtype} of shape {tuple(labels.shape)}: give integers from 0 on, "
            f"shape ({len(x)},)"
        )
    classes = None if labels is None else labels.detach().cpu().numpy().astype(np.int64)
    return _split(name, samples, classes, heldout, is_image=_drawable(samples, "x"))


def _drawable(x: Tensor, where: str) -> bool:
    """Whether floats are pictures with values in [-1, 1].

    Raises:
        ValueError: they have the shape of pictures and the range of bytes.
    """
    if not (x.ndim == 4 and x.shape[1] in (1, 3) and len(x)):
        return False
    largest = float(x.abs().max())
    if largest > LARGEST:
        raise ValueError(
            f"{where}: floats of size {largest:g} in the shape of images, whose range is [-1, 1]; "
            "give bytes (uint8) in a file, or x / 127.5 - 1"
        )
    return largest <= 1


def _digits(image_size: int | None, heldout: int) -> Dataset:
    from sklearn.datasets import load_digits  # a second to import, and only digits need it

    bunch = load_digits()
    x = torch.from_numpy(bunch.images / 8.0 - 1.0).float()[:, None]
    if image_size is not None:
        x = resize_images(x, image_size)
    return _split("digits", x, bunch.target, heldout, is_image=True)


def _toy(name: str, image_size: int | None, heldout: int) -> Dataset:
    if image_size is not None:
        raise ValueError(f"image_size = {image_size}: {name} has points, not images")
    points, classes = draw_toy(name, TOY_SIZES[0] + max(heldout, 0), seed=0)
    return _split(name, torch.from_numpy(points).float(), classes, heldout, is_image=False)


def _fashion_folder(data_dir: Path | None) -> Path:
    candidates = [FASHION] if data_dir is None else [data_dir, data_dir / "fashion-mnist"]
    for folder in candidates:
        if _find(folder, "train-images-idx3-ubyte") is not None:
            return folder
    raise ValueError(
        f"fashion-mnist: no train-images-idx3-ubyte.gz in {candidates[0]}; "
        "apt-get install dataset-fashion-mnist, or name the folder with --data-dir"
    )


def _find(folder: Path, stem: str) -> Path | None:
    files = (folder / stem, folder / f"{stem}.gz")
    return next((file for file in files if file.is_file()), None)


def _mnist(name: str, folder: Path, image_size: int | None, heldout: int | None) -> Dataset:
    """A folder in MNIST's layout. No flips: shoes all point one way, and digits have a left."""
    parts: list[tuple[Tensor, NDArray[np.uint8]]] = []
    for part in ("train", "t10k"):
        files = [_find(folder, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
        if files[0] is None or files[1] is None:
            raise ValueError(
                f"{folder}: needs {part}-images-idx3-ubyte and {part}-labels-idx1-ubyte, "
                "gzipped or not"
            )
        images, labels = read_idx(files[0]), read_idx(files[1])
        if labels.shape != (len(images),):
            raise ValueError(f"{files[1]}: {labels.size} labels for {len(images)} images")
        parts.append((_images(images, image_size), labels))
    (x, y), (x_test, y_test) = parts
    if x.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"{folder}: training and test images differ in size: "
            f"{tuple(x.shape[1:])} and {tuple(x_test.shape[1:])}"
        )
    if heldout is not None:
        if not 1 <= heldout <= len(x_test):
            raise ValueError(f"heldout = {heldout}: the test set has {len(x_test)} samples")
        x_test, y_test = x_test[:heldout], y_test[:heldout]
    return Dataset(
        name,
        train=x,
        heldout=x_test,
        train_labels=torch.from_numpy(y.astype(np.int64)),
        heldout_labels=torch.from_numpy(y_test.astype(np.int64)),
        num_classes=1 + int(max(y.max(), y_test.max())),
        is_image=True,
        flips=False,
    )


def _images(values: NDArray[np.uint8], image_size: int | None, chunk: int = 4096) -> Tensor:
    """Bytes to images, resized chunk by chunk so that the large ones never all exist as floats."""
    if not len(values) or image_size is None:
        return images_from_bytes(values)
    pieces = (values[i : i + chunk] for i in range(0, len(values), chunk))
    return torch.cat([resize_images(images_from_bytes(piece), image_size) for piece in pieces])


def _floats(path: Path, values: NDArray[Any], image_size: int | None) -> Tensor:
    if values.dtype.kind != "f":
        raise ValueError(
            f"{path}: samples of type {values.dtype}; store images as uint8 (0..255) and anything "
            "else as floats of the size the model shall see"
        )
    if image_size is not None:
        raise ValueError(f"image_size = {image_size}: {path} has floats, which are not resized")
    with np.errstate(over="ignore"):
        x = torch.from_numpy(values.astype(np.float32))
    if not torch.isfinite(x).all():
        raise ValueError(f"{path}: samples with values that are not finite in float32")
    return x


def _split(
    name: str,
    x: Tensor,
    labels: Labels,
    heldout: int | None,
    *,
    is_image: bool,
    flips: bool = False,
) -> Dataset:
    """Hold out some samples by a fixed permutation (which does not depend on how many)."""
    if len(x) < 2:
        raise ValueError(
            f"{name}: {len(x)} samples; needs at least 2, to train on and to hold out"
        )
    if x[0].numel() == 0:
        raise ValueError(f"{name}: samples of shape {tuple(x.shape[1:])} are empty")
    held = min(max(len(x) // 10, 1), 10_000) if heldout is None else heldout
    if not 1 <= held < len(x):
        raise ValueError(f"heldout = {held}: must be from 1 to {len(x) - 1} of {len(x)} samples")
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    y = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return Dataset(
        name,
        train=x[order[held:]].contiguous(),
        heldout=x[order[:held]].contiguous(),
        train_labels=None if y is None else y[order[held:]],
        heldout_labels=None if y is None else y[order[:held]],
        num_classes=0 if y is None else 1 + int(y.max()),
        is_image=is_image,
        flips=flips,
    )
