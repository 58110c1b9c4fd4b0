"""Spaces: pixels, the cached classifier, and Inception without the package, the file or trust."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from sdeflow.data import Dataset
from sdeflow.metrics import InceptionFeatures, Pixels, classifier, classifier_features


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Two classes of 6x6 images: the left or the right half is bright."""
    monkeypatch.setattr(classifier, "STEPS", (30, 30))
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.randn(120, 1, 6, 6, generator=generator)
    y = torch.arange(120) % 2
    x[y == 0, :, :, :3] += 1
    x[y == 1, :, :, 3:] += 1
    return Dataset("blobs", x[:80], x[80:], y[:80], y[80:], 2, is_image=True, flips=False)


def test_pixels() -> None:
    x = torch.randn(3, 1, 2, 2)
    assert Pixels((1, 2, 2)).name == "pixels (1x2x2)"
    assert Pixels((2,)).name == "values (2)"
    np.testing.assert_array_equal(Pixels((1, 2, 2))(x), x.reshape(3, 4).double().numpy())


def test_classifier_is_trained_once(blobs: Dataset, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    shares: list[float] = []
    first = classifier_features(blobs, tmp_path / "cache", progress=shares.append)
    assert first.trained
    assert shares[-1] == 1
    assert torch.equal(state, torch.get_rng_state())
    # Halves one apart with noise 0.3 in 36 pixels are six standard deviations from the boundary.
    assert first.record["accuracy"] == 1
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    again = classifier_features(blobs, tmp_path / "cache", progress=shares.append)
    assert not again.trained
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == files
    assert again.name == first.name
    features = again(blobs.heldout)
    assert features.shape == (40, 64)
    np.testing.assert_array_equal(features, first(blobs.heldout))
    anew = classifier_features(blobs, tmp_path / "other")
    np.testing.assert_allclose(anew(blobs.heldout), features, rtol=1e-3, atol=1e-5)


def test_other_data_have_another_classifier(blobs: Dataset, tmp_path: Path) -> None:
    first = classifier_features(blobs, tmp_path)
    blobs.train[0, 0, 0, 0] += 1
    second = classifier_features(blobs, tmp_path)
    assert second.trained
    assert second.record["key"] != first.record["key"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "record", "edit", "missing"])
def test_a_damaged_cache_is_detected(blobs: Dataset, tmp_path: Path, damage: str) -> None:
    first = classifier_features(blobs, tmp_path)
    weights, sheet = (
        tmp_path / f"{first.record['key']}.{suffix}" for suffix in ("safetensors", "json")
    )
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif damage == "truncate":
        weights.write_bytes(content[:100])
    elif damage == "record":
        sheet.write_text(sheet.read_text()[:40])
    elif damage == "edit":
        sheet.write_text(json.dumps({**json.loads(sheet.read_text()), "accuracy": 0.5}))
    else:
        weights.unlink()
    remarks: list[str] = []
    second = classifier_features(blobs, tmp_path, warn=remarks.append)
    assert second.trained
    assert len(remarks) == 1
    assert "training it anew" in remarks[0]
    assert not classifier_features(blobs, tmp_path, warn=remarks.append).trained
    assert len(remarks) == 1


def test_classifier_of_vectors_and_without_labels(blobs: Dataset, tmp_path: Path) -> None:
    flat = Dataset(
        "flat", blobs.train[:, 0, 0], blobs.heldout[:, 0, 0], blobs.train_labels,
        blobs.heldout_labels, 2, is_image=False, flips=False,
    )  # fmt: skip
    assert classifier_features(flat, tmp_path)(flat.heldout).shape == (40, 64)
    bare = Dataset("bare", blobs.train, blobs.heldout, None, None, 0, is_image=True, flips=False)
    with pytest.raises(ValueError, match="needs labels"):
        classifier_features(bare, tmp_path)


def test_inception_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match=r"pip install 'sdeflow\[inception\]'"):
        InceptionFeatures(tmp_path / "weights.pth")


class Extractor(torch.nn.Module):
    """torch-fidelity's interface: weights by torch.load, bytes in, a tuple of features out."""

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: object = None
    ) -> None:
        super().__init__()
        assert features_list == ["2048"]
        self.scale = torch.load(feature_extractor_weights_path, weights_only=False)["scale"]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (x.float().mean((2, 3)) * self.scale,)


def test_inception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save({"scale": torch.tensor(2.0)}, tmp_path / "weights.pth")
    features = InceptionFeatures(tmp_path / "weights.pth", batch_size=2)
    assert features.name == "inception-v3 (2048 features, weights.pth)"
    x = torch.tensor([-1.0, 1.0, 3.0])[:, None, None, None].expand(3, 1, 4, 4)
    np.testing.assert_array_equal(features(x), np.array([[0.0], [510], [510]]).repeat(3, 1))
    with pytest.raises(ValueError, match="images"):
        features(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"missing\.pth: No such file"):
        InceptionFeatures(tmp_path / "missing.pth")

    torch.save(Extractor.__init__, tmp_path / "code.pth")  # a reference to code, not tensors
    with pytest.raises(ValueError, match=r"code\.pth"):
        InceptionFeatures(tmp_path / "code.pth")
