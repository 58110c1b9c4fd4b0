"""Readers of data files: IDX, NPZ, folders of images. Whatever is wrong with a file: a ValueError.

Nothing read here can run code (no pickles), and what a file claims about its size is checked, not
believed. Integers v in 0..255 become v / 127.5 - 1; floats are taken as they are.
"""

import gzip
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .resize import resize_images

__all__ = ["read_array", "read_folder", "read_idx", "read_npz"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
CHANNELS = (1, 3, 4)
MOST_CLASSES = 2**20
UNPACKED, RATIO = 2**30, 100  # bytes; more than both, and a packed file is taken for a bomb
DAMAGE = (
    OSError, EOFError, KeyError, IndexError, MemoryError, ValueError, NotImplementedError,
    RuntimeError, OverflowError, SyntaxError, TypeError, struct.error, zlib.error,
    zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip
"""What NumPy raises on a damaged array or archive; which one depends on where the damage is."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, gzipped or not (the format of MNIST).

    Args:
        path: The file.

    Returns:
        The array, uint8, in the shape that the file's header states.

    Raises:
        ValueError: If the file is missing, not IDX, not of unsigned bytes, truncated or too long.
    """
    try:
        with path.open("rb") as probe:
            packed = probe.read(2) == b"\x1f\x8b"
        with cast("IO[bytes]", gzip.open(path) if packed else path.open("rb")) as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or not head[3]:
                raise ValueError(f"{path}: not an IDX file")
            if head[2] != 0x08:
                raise ValueError(f"{path}: IDX type 0x{head[2]:02x}; only unsigned bytes (0x08)")
            sizes = file.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise ValueError(f"{path}: truncated IDX file (in its header)")
            shape = struct.unpack(f">{head[3]}I", sizes)
            wanted = math.prod(shape)
            _believe(path, wanted, path.stat().st_size, packed)
            # One byte more than promised, to see that the file ends there.
            content = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    if len(content) < wanted:
        raise ValueError(f"{path}: truncated IDX file ({len(content)} of {wanted} bytes)")
    if len(content) > wanted:
        raise ValueError(f"{path}: longer than its IDX header says ({wanted} bytes)")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_npz(path: Path) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Read samples, and labels if there are any, from an NPZ file; or samples from an NPY file.

    Args:
        path: The file. Samples under `x`, `images` or `arr_0`; labels under `y` or `labels`.

    Returns:
        Samples (N, ...), of the file's dtype; labels, int64, shape (N,), or None.

    Raises:
        ValueError: If the file is missing, damaged, holds objects, or lacks those names.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            if head == b"\x93NUM":
                return _samples(path, "the array", read_array(path)), None
            if head != b"PK\x03\x04":
                raise ValueError("not an NPZ file, or a truncated one")
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            name = next((key for key in ("x", "images", "arr_0") if key in names), None)
            if name is None:
                raise ValueError(f"holds {names}: name the samples x, images or arr_0")
            x = _member(archive, name)
            label = next((key for key in ("y", "labels") if key in names), None)
            y = None if label is None else _member(archive, label)
    except DAMAGE as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    x = _samples(path, name, x)
    if y is None:
        return x, None
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or (len(y) and y.min() < 0):
        raise ValueError(f"{path}: {label} must hold {len(x)} integers from 0 on")
    if len(y) and y.max() >= MOST_CLASSES:
        raise ValueError(f"{path}: {label} goes up to {y.max()}; number the classes from 0 on")
    return x, y.astype(np.int64)


def _samples(path: Path, name: str, x: NDArray[Any]) -> NDArray[Any]:
    if x.ndim < 2:
        raise ValueError(f"{path}: {name} has shape {x.shape}, must be (samples, ...)")
    return x


def read_array(path: Path) -> NDArray[Any]:
    """Read the array of an NPY file, or the first one of an NPZ file.

    Raises:
        ValueError: If the file is missing, damaged, or holds objects or no array.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return np.asarray(loaded)
        with loaded as archive:
            return _member(archive, archive.files[0])
    except DAMAGE as error:
        raise ValueError(f"{path}: {_reason(error)}") from error


def _member(archive: Any, name: str) -> NDArray[Any]:
    """An array of an NPZ file, after a look at how large it says it is."""
    for info in archive.zip.infolist():
        if info.filename in (name, f"{name}.npy"):
            _believe(name, info.file_size, info.compress_size, packed=True)
    array = archive[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is no array")
    return array


def _believe(what: object, claimed: int, stored: int, packed: bool) -> None:
    """Refuse a size that what is stored cannot reasonably hold."""
    if claimed > 2**48:
        raise ValueError(f"{what}: claims {claimed} bytes")
    if packed and claimed > max(UNPACKED, RATIO * stored):
        raise ValueError(f"{what}: {claimed} bytes packed into {stored}; store it unpacked")
    if not packed and claimed > stored:
        raise ValueError(f"{what}: truncated IDX file ({stored} of {claimed} bytes)")


def read_folder(
    path: Path, image_size: int | None = None
) -> tuple[Tensor, NDArray[np.int64] | None]:
    """Read a folder of images; with sub-folders, each is a class (in order of name).

    Args:
        path: The folder. Grey images give one channel; if any is in colour, all are read as RGB
            (transparency is dropped).
        image_size: Side to resize each image to as it is read (`resize_images`); None keeps it.

    Returns:
        Images in [-1, 1], float32, shape (N, C, H, W); labels, int64, shape (N,), or None.

    Raises:
        ValueError: If the folder is missing or has no image, a file is damaged or of a size
            beyond `PIL.Image.MAX_IMAGE_PIXELS`, or sizes differ without `image_size`.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES]
    classes = sorted(folder for folder in path.iterdir() if folder.is_dir())
    inside = [
        (file, k)
        for k, folder in enumerate(classes)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if files and inside:
        raise ValueError(f"{path}: images beside sub-folders of images; keep one of the two")
    if not files and not inside:
        raise ValueError(f"{path}: no images ({' '.join(SUFFIXES)}) in the folder")
    labels = None if files else np.array([k for _, k in inside], dtype=np.int64)
    files = files or [file for file, _ in inside]
    images: list[Tensor] = []
    size = None
    for file in files:
        pixels = _read_image(file)
        if size is None:
            size = pixels.shape[:2]
        elif pixels.shape[:2] != size and image_size is None:
            raise ValueError(
                f"{path}: images of mixed sizes, {_size(size)} in {files[0].name} and "
                f"{_size(pixels.shape)} in {file.name}; give image_size, or bring them to one size"
            )
        x = images_from_bytes(pixels[None])[0]
        images.append(x if image_size is None else resize_images(x, image_size))
    channels = max(len(x) for x in images)
    return torch.stack([x.expand(channels, *x.shape[1:]) for x in images]), labels


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged notes beside the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                grey = image.mode in ("1", "L", "LA")
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ValueError(f"{path}: more than {limit} pixels; shrink the image first") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image") from error
    except DAMAGE as error:
        raise ValueError(f"{path}: damaged image ({_reason(error)})") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def images_from_bytes(values: NDArray[np.uint8]) -> Tensor:
    """Bytes 0..255 to images in [-1, 1].

    Args:
        values: Shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C in {1, 3, 4}; where both
            ends of a sample could be channels, the last one is taken.

    Returns:
        Images, float32, shape (N, C, H, W).

    Raises:
        ValueError: For any other shape.
    """
    x = torch.from_numpy(np.array(values))
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in CHANNELS:
        x = x.permute(0, 3, 1, 2).contiguous()
    elif x.ndim != 4 or x.shape[1] not in CHANNELS:
        raise ValueError(
            f"bytes of shape {tuple(values.shape)}: images are (N, H, W), (N, H, W, C) or "
            f"(N, C, H, W) with 1, 3 or 4 channels; for anything else, store floats"
        )
    return x.float() / 127.5 - 1


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _reason(error: BaseException) -> str:
    """The error in one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error.args[0] if error.args else error) or type(error).__name__
    return text.splitlines()[0]
