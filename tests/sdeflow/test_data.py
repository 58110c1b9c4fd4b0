"""Every reader on good and on bad input; the split; the range; the resizing."""

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdeflow.data import TOYS, Dataset, draw_toy, load_data, read_idx, resize_images


def idx(values: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


def mnist(folder: Path, train: int = 20, test: int = 5, side: int = 28) -> Path:
    """A folder with the four files; every pixel of image i has the value i."""
    folder.mkdir(exist_ok=True)
    for part, n in (("train", train), ("t10k", test)):
        images = np.broadcast_to(np.arange(n)[:, None, None], (n, side, side))
        for kind, values in (("images-idx3", images), ("labels-idx1", np.arange(n) % 4)):
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(idx(values))
    return folder


def save_image(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def same(a: Dataset, b: Dataset) -> bool:
    labels = (a.train_labels, b.train_labels)
    return (
        torch.equal(a.train, b.train)
        and torch.equal(a.heldout, b.heldout)
        and (labels == (None, None) or torch.equal(*labels))  # type: ignore[arg-type]
    )


def test_digits() -> None:
    data = load_data("digits")
    assert data.train.shape == (1297, 1, 8, 8)
    assert data.heldout.shape == (500, 1, 8, 8)
    assert data.data_shape == (1, 8, 8)
    assert (data.train.dtype, data.num_classes) == (torch.float32, 10)
    assert data.is_image
    assert not data.flips
    assert (data.train.min(), data.train.max()) == (-1, 1)
    # 17 grey levels, all exact in binary.
    assert torch.equal((data.train + 1) * 8, ((data.train + 1) * 8).round())
    assert same(data, load_data("digits"))


def test_digits_split_is_a_partition_and_nested() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = load_data("digits")
    whole = torch.cat((data.heldout, data.train)).flatten(1).numpy()
    stored = bunch.images.reshape(len(whole), -1) / 8 - 1
    order = lambda x: x[np.lexsort(x.T)]  # noqa: E731
    np.testing.assert_array_equal(order(whole), order(stored))
    # Each image kept its label.
    stored_pairs = sorted(zip(map(bytes, stored.astype("f4")), bunch.target, strict=True))
    assert data.train_labels is not None
    assert data.heldout_labels is not None
    labels = torch.cat((data.heldout_labels, data.train_labels)).numpy()
    assert sorted(zip(map(bytes, whole), labels, strict=True)) == stored_pairs
    assert torch.equal(load_data("digits", heldout=200).heldout, data.heldout[:200])


@pytest.mark.parametrize("name", TOYS)
def test_toys(name: str) -> None:
    data = load_data(name)
    assert (data.train.shape, data.heldout.shape) == ((20_000, 2), (2_000, 2))
    assert data.train.dtype == torch.float32
    assert 0.7 < data.train.abs().max() < 1.7
    assert not data.is_image
    assert same(data, load_data(name))
    if data.num_classes:
        assert data.train_labels is not None
        assert set(data.train_labels.tolist()) == set(range(data.num_classes))


def test_mixture_has_the_weights_and_the_width_it_says() -> None:
    points, mode = draw_toy("mixture", 100_000, seed=3)
    assert mode is not None
    weights = np.exp(np.linspace(0, 1, 8))
    weights /= weights.sum()
    # Five standard errors of a frequency and of a standard deviation.
    counts = np.bincount(mode, minlength=8) / len(mode)
    np.testing.assert_array_less(np.abs(counts - weights), 5 * np.sqrt(weights / len(mode)))
    angle = 2 * np.pi * mode / 8
    noise = points - np.stack((np.cos(angle), np.sin(angle)), axis=1)
    assert abs(noise.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * noise.size)


def test_checkerboard_fills_the_dark_squares_only() -> None:
    points, _ = draw_toy("checkerboard", 20_000, seed=0)
    assert (np.abs(points) <= 1).all()
    square = np.floor((points + 1) * 2).astype(int)
    assert (square.sum(axis=1) % 2 == 0).all()
    # 8 squares, equally likely: five standard errors.
    counts = np.unique(square, axis=0, return_counts=True)[1] / len(points)
    assert len(counts) == 8
    assert (np.abs(counts - 1 / 8) < 5 * np.sqrt(1 / 8 / len(points))).all()


@pytest.mark.parametrize(
    ("before", "size", "after"),
    [((28, 28), 16, 2), ((28, 28), 14, 2), ((28, 28), 32, 1), ((8, 8), 8, 1), ((30, 20), 16, 2)],
)
def test_resize_pads_to_a_multiple_then_averages(
    before: tuple[int, int], size: int, after: int
) -> None:
    x = torch.rand(3, 1, *before) * 2 - 1
    y = resize_images(x, size)
    assert y.shape == (3, 1, size, size)
    # The sum over black = -1 is kept: padding adds nothing, blocks are averaged.
    torch.testing.assert_close((y + 1).sum() * after**2, (x + 1).sum(), rtol=1e-5, atol=0)


def test_resize_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    assert resize_images(x, 1).tolist() == [[4.0]]
    assert resize_images(x, 3, fill=0.0).tolist() == [[1, 3, 0], [5, 7, 0], [0, 0, 0]]


def test_fashion_mnist_from_a_folder(tmp_path: Path) -> None:
    data = load_data("fashion-mnist", data_dir=mnist(tmp_path / "fashion-mnist").parent)
    assert data.train.shape == (20, 1, 28, 28)
    assert data.heldout.shape == (5, 1, 28, 28)
    assert data.num_classes == 4
    assert not data.flips
    assert torch.equal(data.train[:, 0, 0, 0], torch.arange(20).float() / 127.5 - 1)
    assert data.train_labels is not None
    assert data.train_labels.tolist() == [i % 4 for i in range(20)]
    small = load_data("fashion-mnist", data_dir=tmp_path, image_size=16, heldout=3)
    assert small.train.shape == (20, 1, 16, 16)
    assert small.heldout.shape == (3, 1, 16, 16)
    # 28 -> 32 adds two black pixels on each side, hence one after averaging.
    assert (small.train[:, :, 0] == -1).all()
    assert torch.equal(small.train[:, 0, 1, 1], data.train[:, 0, 0, 0])


def test_idx_file_and_folder(tmp_path: Path) -> None:
    assert load_data(f"idx:{mnist(tmp_path)}").train.shape == (20, 1, 28, 28)
    path = tmp_path / "images"
    path.write_bytes(idx(np.arange(4 * 6).reshape(4, 2, 3)))
    data = load_data(f"idx:{path}", heldout=1)
    assert data.train.shape == (3, 1, 2, 3)
    np.testing.assert_array_equal(read_idx(path), np.arange(24).reshape(4, 2, 3))


@pytest.mark.parametrize(
    "missing", [["t10k-labels-idx1-ubyte.gz"], ["train-labels-idx1-ubyte.gz"]]
)
def test_idx_folder_with_a_file_missing(tmp_path: Path, missing: list[str]) -> None:
    mnist(tmp_path)
    for name in missing:
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=missing[0].removesuffix(".gz")):
        load_data(f"idx:{tmp_path}")


def test_labels_of_another_length(tmp_path: Path) -> None:
    mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(4))))
    with pytest.raises(ValueError, match="4 labels for 5 images"):
        load_data(f"idx:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"PNG here", "not an IDX file"),
        (idx(np.zeros((4, 3, 3)))[:-1], "truncated"),
        (idx(np.zeros((4, 3, 3)))[:7], "truncated"),
        (idx(np.zeros((4, 3, 3))) + b"\0", "longer than"),
        # Without a time in the header: the ids of parallel runs must agree.
        (gzip.compress(idx(np.ones((40, 3, 3))), mtime=0)[:-12], "end"),
        (gzip.compress(idx(np.zeros((4, 3, 3))), mtime=0)[:14] + b"\xff" * 30, "images: "),
        (b"\0\0\x0d\x01\0\0\0\x01abcd", "0x0d"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "claims"),
    ],
)
def test_bad_idx(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_data(f"idx:{path}")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["x", "images", "arr_0"])
@pytest.mark.parametrize("shape", [(10, 5, 7), (10, 5, 7, 3), (10, 3, 5, 7)])
def test_npz_of_bytes_is_images(tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    np.savez(tmp_path / "a.npz", **{key: values, "y": np.arange(10) % 2})
    data = load_data(f"npz:{tmp_path / 'a.npz'}", heldout=4)
    channels = 1 if len(shape) == 3 else 3
    assert data.train.shape == (6, channels, 5, 7)
    assert data.is_image
    assert data.flips == (channels == 3)
    assert data.num_classes == 2
    whole = torch.cat((data.train, data.heldout))
    np.testing.assert_array_equal(
        np.sort(((whole + 1) * 127.5).round().numpy(), axis=None), np.sort(values, axis=None)
    )


def test_npz_of_floats_passes_as_it_is(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(0, 5, (20, 4, 3, 2)).astype(np.float16)
    np.savez_compressed(tmp_path / "latents.npz", x=latents)
    data = load_data(f"npz:{tmp_path / 'latents.npz'}")
    assert data.train.shape == (18, 4, 3, 2)
    assert (data.num_classes, data.is_image, data.train_labels) == (0, False, None)
    whole = torch.cat((data.train, data.heldout)).numpy()
    np.testing.assert_array_equal(np.sort(whole, axis=None), np.sort(latents, axis=None))


def test_npz_of_images_in_another_range(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4)).astype(np.float32)
    path = tmp_path / "pixels.npz"
    np.savez(path, x=pixels)
    with pytest.raises(ValueError, match=r"floats of size 255 .* x / 127\.5 - 1"):
        load_data(f"npz:{path}")
    np.savez(path, x=pixels / 255)
    remark = load_data(f"npz:{path}").remark
    assert remark is not None
    assert "store 2 x - 1" in remark
    np.savez(path, x=pixels / 127.5 - 1)
    assert load_data(f"npz:{path}").remark is None
    assert load_data("moons").remark is None


def test_npy_and_hints_for_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((20, 3), np.float32))
    data = load_data("npz:x.npy")
    assert (data.data_shape, data.train_labels) == ((3,), None)
    np.save("flat.npy", np.zeros(20))
    with pytest.raises(ValueError, match="must be"):
        load_data("npz:flat.npy")
    Path("imgs").mkdir()
    with pytest.raises(ValueError, match="write folder:imgs"):
        load_data("imgs")
    assert repr(data) == "Dataset('npz:x.npy', 18 + 2 samples of shape (3,), 0 classes)"


def test_a_folder_of_mixed_sizes_is_brought_to_one(tmp_path: Path) -> None:
    for side in (8, 9, 20):
        Image.new("L", (side, side)).save(tmp_path / f"{side}.png")
    with pytest.raises(ValueError, match="give image_size"):
        load_data(f"folder:{tmp_path}")
    assert load_data(f"folder:{tmp_path}", image_size=8).data_shape == (1, 8, 8)


def test_bad_npz(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    np.savez(good, x=np.zeros((10, 3)))
    content = good.read_bytes()

    def fails(path: Path, message: str, **arguments: int) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            load_data(f"npz:{path}", **arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    bad = tmp_path / "bad.npz"
    for cut in (0, 3, 40, len(content) // 2, len(content) - 5):
        bad.write_bytes(content[:cut])
        fails(bad, "bad.npz: ")
    bad.write_bytes(content[:150] + bytes(255 - b for b in content[150:200]) + content[200:])
    fails(bad, "bad.npz: ")
    fails(tmp_path / "none.npz", "no such file")
    fails(tmp_path, "directory")
    fails(good, "not resized", image_size=2)
    fails(good, "heldout = 10", heldout=10)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr(
            "x.npy", b"\x93NUMPY\x01\0\x76\0{'descr': '<f8', 'fortran_order': False, "
        )
    fails(bad, "bad.npz: ")
    for arrays, message in (
        ({"z": np.zeros(3)}, "name the samples"),
        ({"x": np.zeros(3)}, "must be"),
        ({"x": np.array([{}, {}], dtype=object)}, "pickle"),
        ({"x": np.zeros((4, 2), dtype=int)}, "store images as uint8"),
        ({"x": np.zeros((4, 2), dtype=np.uint8)}, "store floats"),
        ({"x": np.full((4, 2), np.nan)}, "not finite"),
        ({"x": np.full((4, 2), 1e300)}, "not finite"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3, dtype=int)}, "4 integers"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(4)}, "4 integers"),
        ({"x": np.zeros((4, 2)), "y": -np.ones(4, dtype=int)}, "4 integers"),
        ({"x": np.zeros((1, 2))}, "at least 2"),
        ({"x": np.zeros((0, 2))}, "at least 2"),
        ({"x": np.zeros((4, 0))}, "empty"),
    ):
        np.savez(bad, **arrays)
        fails(bad, message)


def test_folder(tmp_path: Path) -> None:
    for i in range(6):
        save_image(tmp_path / f"{i}.png", np.full((5, 4), 50 * i))
    (tmp_path / "notes.txt").write_text("not an image")
    data = load_data(f"folder:{tmp_path}", heldout=2)
    assert data.train.shape == (4, 1, 5, 4)
    assert (data.num_classes, data.is_image, data.flips) == (0, True, False)
    values = torch.cat((data.train, data.heldout))[:, 0, 0, 0].sort().values
    assert torch.equal(values, torch.arange(6) * 50 / 127.5 - 1)
    assert load_data(f"folder:{tmp_path}", image_size=3).data_shape == (1, 3, 3)


def test_folder_of_classes_and_colours(tmp_path: Path) -> None:
    for k, kind in enumerate(("cat", "dog")):
        for i in range(3):
            save_image(tmp_path / kind / f"{i}.png", np.full((4, 4), 100 * k + i))
    save_image(tmp_path / "dog" / "colour.png", np.full((4, 4, 3), (10, 20, 30)))
    data = load_data(f"folder:{tmp_path}", heldout=1)
    assert data.data_shape == (3, 4, 4)
    assert data.num_classes == 2
    assert data.flips
    assert data.train_labels is not None
    for x, label in zip(data.train, data.train_labels, strict=True):
        grey = ((x[:, 0, 0] + 1) * 127.5).round().tolist()
        assert grey == [10, 20, 30] or (grey[0] == grey[2] and grey[0] // 100 == label)


def test_bad_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            load_data(f"folder:{tmp_path / 'images'}")
        assert "\n" not in str(caught.value)

    fails("no such folder")
    folder = tmp_path / "images"
    folder.mkdir()
    fails("no images")
    save_image(folder / "a.png", np.zeros((4, 4)))
    fails("at least 2")
    save_image(folder / "b.png", np.zeros((4, 6)))
    fails("mixed sizes, 4x4 in a.png and 6x4 in b.png")
    (folder / "b.png").write_bytes(b"nothing")
    fails("b.png: not an image")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:-25])
    fails("b.png: damaged image")
    (folder / "b.png").unlink()
    save_image(folder / "class" / "c.png", np.zeros((4, 4)))
    fails("images beside sub-folders")
    (folder / "class" / "c.png").unlink()
    for limit in (10, 4):  # beyond the limit, where pillow warns, and beyond twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        fails(f"a.png: more than {limit} pixels")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("digit", "digits"),
        ("fashion_mnist", "fashion-mnist"),
        ("checkboard", "checkerboard"),
        ("npx:/tmp/a", "npz:PATH"),
        ("floder:/tmp/a", "folder:PATH"),
    ],
)
def test_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {near}"):
        load_data(name)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known are digits"):
        load_data("")
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        load_data("fashion-mnist", data_dir=tmp_path)
    with pytest.raises(ValueError, match="data_dir"):
        load_data("digits", data_dir=tmp_path)
    with pytest.raises(ValueError, match="image_size = 0"):
        load_data("digits", image_size=0)
    with pytest.raises(ValueError, match="points, not images"):
        load_data("moons", image_size=8)
    for heldout in (0, -1, 1797):
        with pytest.raises(ValueError, match=f"heldout = {heldout}"):
            load_data("digits", heldout=heldout)
    with pytest.raises(ValueError, match="heldout = 6"):
        load_data(f"idx:{mnist(tmp_path)}", heldout=6)
    with pytest.raises(ValueError, match="toy = 'donut'"):
        draw_toy("donut", 10, seed=0)
