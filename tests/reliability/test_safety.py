"""No file can make sdeflow run code, leave its directory, or fill the memory."""

import base64
import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from reliability.workers import tiny

from sdeflow.build import build_conditioning
from sdeflow.cli import cli
from sdeflow.conditioning import read_edges
from sdeflow.config import TrainConfig, load_config
from sdeflow.data import load_data, read_folder, read_idx, read_npz
from sdeflow.data.readers import read_array
from sdeflow.files import LARGEST_TEXT, read_yaml, verify_sums
from sdeflow.metrics import InceptionFeatures
from sdeflow.run import latest_run, list_runs, load_run
from sdeflow.sde import make_sde
from sdeflow.tracking import start_tracking
from sdeflow.training import plan, read_metrics, train
from sdeflow.training.checkpoint import load_checkpoint
from sdeflow.verify import verify_run


class Bomb:
    """Unpickling this makes a directory."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
        return train(tiny(tmp_path_factory.mktemp("runs"), steps=2, checkpoint_every=1)).path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / "run"))


def with_pickle_as_array(path: Path, bomb: Bomb) -> None:
    array = np.empty((2, 2), dtype=object)
    array[:] = bomb
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())


def loaders(run: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """Everything that reads a file: the file to be replaced, and what reads it."""
    runs, here = run.parent, run.parent.parent
    step = run / "checkpoints" / "step-00000002"
    return {
        "npz": (here / "a.npz", read_npz),
        "npz-data": (here / "b.npz", lambda path: load_data(f"npz:{path}")),
        "noise": (here / "n.npy", read_array),
        "idx": (here / "a.idx", read_idx),
        "idx-data": (here / "b.idx", lambda path: load_data(f"idx:{path}")),
        "folder": (here / "pictures" / "a.png", lambda path: read_folder(path.parent)),
        "config": (here / "c.yaml", load_config),
        "edges": (here / "edges.json", read_edges),
        "inception": (here / "w.pth", InceptionFeatures),
        "model": (step / "model.safetensors", lambda _: plan(tiny(runs, resume=str(run)))),
        "average": (step / "ema.safetensors", lambda _: load_run(run, step=2)),
        "state": (step / "state.json", load_checkpoint),
        "record": (run / "run.json", lambda _: list_runs(runs)),
        "metrics": (run / "metrics.jsonl", read_metrics),
        "settings": (run / "config.yaml", load_config),
        "sums": (here / "sums" / "SHA256SUMS", lambda path: verify_sums(path.parent)),
    }


NAMES = sorted(loaders(Path("a/b/c")))


def rewrite_sum(path: Path) -> None:
    """What an attacker does: makes the checksums of a changed checkpoint fit again."""
    import hashlib

    state_file = path.parent / "state.json"
    if path.suffix != ".safetensors":
        return
    state = json.loads(state_file.read_text())
    state.pop("sha256")
    state["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    canonical = json.dumps(state, sort_keys=True).encode()
    state_file.write_text(json.dumps({**state, "sha256": hashlib.sha256(canonical).hexdigest()}))


@pytest.mark.parametrize("kind", ["pickle", "npz", "torch", "yaml"])
@pytest.mark.parametrize("name", NAMES)
def test_no_loader_runs_what_is_in_a_file(name: str, kind: str, run: Path, tmp_path: Path) -> None:
    path, load = loaders(run)[name]
    path.parent.mkdir(exist_ok=True)
    exploded = tmp_path / "exploded"
    bomb = Bomb(exploded)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif kind == "npz":
        with_pickle_as_array(path, bomb)
    elif kind == "torch":
        torch.save({"x": bomb}, path)
    else:
        path.write_text(f"data: !!python/object/apply:os.mkdir ['{exploded}']\n")
    rewrite_sum(path)
    with contextlib.suppress(ValueError):
        load(path)
    assert not exploded.exists()


def test_the_bombs_are_live(tmp_path: Path) -> None:
    """Without the guards each of them goes off: the test above tests something."""
    for number, kind in enumerate(("pickle", "npz", "torch", "yaml")):
        exploded, path = tmp_path / f"exploded{number}", tmp_path / f"file{number}"
        bomb = Bomb(exploded)
        if kind == "pickle":
            pickle.loads(pickle.dumps(bomb))
        elif kind == "npz":
            with_pickle_as_array(path, bomb)
            np.load(path, allow_pickle=True)["x"]
        elif kind == "torch":
            torch.save({"x": bomb}, path)
            torch.load(path, weights_only=False)
        else:
            path.write_text(f"data: !!python/object/apply:os.mkdir ['{exploded}']\n")
            yaml.unsafe_load(path.read_text())
        assert exploded.exists(), kind


@pytest.mark.parametrize(
    "name",
    ["../up", "/etc", "a/b", "a\\b", "..", ".", ".hidden", "", " ", "a\0b", "a\nb", "~", "con:"],
)
def test_names_of_runs_stay_in_their_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--name"):
        TrainConfig(name=name, out=str(tmp_path))


def test_names_made_from_data_are_plain(tmp_path: Path) -> None:
    from sdeflow.training.place import default_name

    for data in ("npz:../../etc/passwd", "folder:/a/../..", "idx:..", "npz:\0", "npz:"):
        name = default_name(TrainConfig(data=data))
        assert Path(name).name == name
        assert not name.startswith(".")


def test_an_arrays_header_may_hold_anything(tmp_path: Path) -> None:
    """Found by the fuzzer: NumPy sorts the keys, which fails where they are of two types."""
    np.save(tmp_path / "a.npy", np.ones((3, 2), np.float32))
    content = (tmp_path / "a.npy").read_bytes().replace(b" 'fortran", b"B'fortran")
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for read, name in ((read_array, "a.npy"), (read_array, "a.npz"), (read_npz, "a.npz")):
        with pytest.raises(ValueError) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_zip_members_with_hostile_names_write_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 2), np.float32))
    path = tmp_path / "in" / "a.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../up.npy", "/abs.npy", "x.npy", "x.npy/../../y.npy"):
            archive.writestr(name, buffer.getvalue())
    assert read_npz(path)[0].shape == (4, 2)
    assert sorted(item.name for item in tmp_path.rglob("*")) == ["a.npz", "in"]


def test_sums_with_hostile_names_read_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    inside = tmp_path / "in"
    inside.mkdir()
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    (inside / "SHA256SUMS").write_text(f"{digest}  ../secret\n")
    assert verify_sums(inside) == ["../secret"]


def test_bombs_of_pixels_arrays_and_aliases_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("L", (20, 20)).save(folder / "a.png")
    with pytest.raises(ValueError, match="more than 100 pixels"):
        read_folder(folder)
    monkeypatch.undo()

    monkeypatch.setattr("sdeflow.data.readers.UNPACKED", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000)))
    with pytest.raises(ValueError, match="packed into"):
        read_npz(tmp_path / "a.npz")
    header = b"\0\0\x08\x03" + struct.pack(">3I", 100, 100, 100)
    (tmp_path / "a.idx").write_bytes(gzip.compress(header + bytes(10**6)))
    with pytest.raises(ValueError, match="packed into"):
        read_idx(tmp_path / "a.idx")
    (tmp_path / "b.idx").write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 2**12, 2**12, 2**12))
    with pytest.raises(ValueError, match="truncated"):
        read_idx(tmp_path / "b.idx")

    # Nine levels of nine aliases: 387 million values in 300 bytes.
    lines = ["a: &a0 [0]"] + [
        f"b{k}: &a{k} [{','.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)
    ]
    (tmp_path / "a.yaml").write_text("\n".join([*lines, "lr: *a9"]))
    (tmp_path / "b.yaml").write_text("[" * 5000)
    (tmp_path / "c.yaml").write_text("#" * (LARGEST_TEXT + 1))
    (tmp_path / "d.yaml").write_text("lr: " + "9" * 5000)
    (tmp_path / "e.yaml").write_bytes(b"lr: \xff\xfe")
    for name, says in zip("abcde", ("aliases", "deep", "longer", "read", "read"), strict=True):
        with pytest.raises(ValueError, match=says) as caught:
            load_config(tmp_path / f"{name}.yaml")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
    (tmp_path / "f.yaml").write_text("")
    assert read_yaml(tmp_path / "f.yaml") is None


def test_only_pictures_are_opened_as_pictures(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called; not so here."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "EPS"
    with pytest.raises(ValueError, match="not an image"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_shape", [10**9, 10**9]),
        ("data_shape", "2"),
        ("data_shape", [2.5]),
        ("data_shape", []),
        ("num_classes", 10**12),
        ("num_classes", None),
        ("config", ["a"]),
        ("config", {"nonsense": 1}),
        ("config", {"lr": {"a": 1}}),
        ("loss", "much"),
    ],
)
def test_a_state_that_describes_no_model_is_refused(run: Path, key: str, value: object) -> None:
    import hashlib

    for path in run.glob("checkpoints/step-*/state.json"):
        state = json.loads(path.read_text())
        state.pop("sha256")
        state[key] = value
        digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({**state, "sha256": digest}))
    for load in (
        lambda: load_run(run),
        lambda: plan(tiny(run.parent, resume=str(run))),
    ):
        with pytest.raises(ValueError) as caught:
            load()
        assert "\n" not in str(caught.value)


def changed(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Weights, a moment, or samples, that are not what the network needs."""
    name = max(tensors, key=lambda name: tensors[name].numel())
    value = tensors[name]
    other = {
        "shape": torch.zeros(3, 5),
        "type": value.to(torch.int8),
        "nan": value * torch.nan,
        "missing": None,
        "more": value.clone(),
    }[kind]
    left = {key: tensor for key, tensor in tensors.items() if key != name or kind == "more"}
    return {**left, **({} if other is None else {f"0{name}" if kind == "more" else name: other})}


@pytest.mark.parametrize("kind", ["shape", "type", "nan", "missing", "more"])
@pytest.mark.parametrize("name", ["model", "ema", "optimizer", "probe"])
def test_other_tensors_under_good_checksums_are_refused(run: Path, name: str, kind: str) -> None:
    """What an attacker, or another program, may have put there: a line, and never a crash."""
    for path in run.glob(f"checkpoints/step-*/{name}.safetensors"):
        path.write_bytes(safetensors.torch.save(changed(safetensors.torch.load_file(path), kind)))
        rewrite_sum(path)
    report = verify_run(run)
    if name == "probe" and kind in ("missing", "more"):
        assert report.ok  # there is nothing to compare, or more than that
        return
    assert not any(found.ok for found in report.checkpoints)
    if name == "probe":
        return
    more = tiny(run.parent, resume=str(run), steps=4)
    with pytest.raises(ValueError) as caught:
        train(more)
    assert "\n" not in str(caught.value)
    if name == "ema":
        with pytest.raises(ValueError):
            load_run(run)


@pytest.mark.parametrize("name", ["state.json", "ema.safetensors"])
@pytest.mark.parametrize("kind", ["zero", "pipe", "directory"])
def test_devices_and_pipes_in_place_of_files_are_not_read(
    run: Path, name: str, kind: str, tmp_path: Path
) -> None:
    """Each would be read for ever; a link may come in an archive of a run."""

    def put(path: Path) -> None:
        path.unlink(missing_ok=True)
        if kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()

    put(run / "checkpoints" / "step-00000002" / name)
    assert load_run(run).step == 1
    put(run / "run.json")
    assert [info.status for info in list_runs(run.parent)] == ["unknown"]
    put(run / "metrics.jsonl")
    put(tmp_path / "a.yaml")
    put(tmp_path / "SHA256SUMS")
    for read, path in (
        (read_metrics, run / "metrics.jsonl"),
        (load_config, tmp_path / "a.yaml"),
        (read_edges, tmp_path / "a.yaml"),
        (verify_sums, tmp_path),
    ):
        with pytest.raises((ValueError, OSError)):
            read(path)
    (run / "x").mkdir()
    put(run / "x" / "a.txt")
    (run / "x" / "SHA256SUMS").write_text("0" * 64 + "  a.txt\n")
    assert verify_sums(run / "x") == ["a.txt"]


@pytest.mark.parametrize("text", ["[" * 10**5, f"[{'9' * 400}]", "[1e400]", "[true]"])
def test_edges_that_are_no_times_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "edges.json").write_text(text)
    for given in (text, str(tmp_path / "edges.json")):
        with pytest.raises(ValueError) as caught:
            build_conditioning(TrainConfig(etsdm=True, etsdm_edges=given), make_sde("vp"))
        assert "\n" not in str(caught.value)


def test_a_hostile_run_record_is_only_a_gap(run: Path) -> None:
    for content in (
        "[" * 10**5,
        "[]",
        '{"step": 1e999, "loss": "x", "status": 3, "steps": 1e400}',
    ):
        (run / "run.json").write_text(content)
        (info,) = list_runs(run.parent)
        assert info.step == 0
        assert info.last_loss is None
    assert latest_run(run.parent) == run


def test_a_hostile_wandb_id_makes_no_file_elsewhere(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = start_tracking(
        "offline", tmp_path / "run", "x", {}, run_id="../../../escaped", say=said.append
    )
    tracker.finish()
    assert "a new one is taken" in said[0]
    assert tracker.id is None or "/" not in tracker.id
    assert not list(tmp_path.rglob("*escaped*"))


KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.slow
def test_the_wandb_key_is_never_written(tmp_path: Path) -> None:
    environment = {
        **os.environ, "WANDB_API_KEY": KEY, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    config = tiny(tmp_path / "runs", steps=2, wandb="offline")
    code = (
        "import sys; from sdeflow.config import TrainConfig; from sdeflow.training import train\n"
        f"train(TrainConfig.from_dict({config.to_dict()!r}), say=print)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    texts = [done.stdout, done.stderr, *(path.read_bytes() for path in files)]
    for key in (KEY.encode(), base64.b64encode(KEY.encode())[:-2]):
        assert not any(key in text for text in texts)


def test_only_model_runs_code_and_says_so() -> None:
    """`--model package.module:factory` imports; no other option of any command does."""
    result = CliRunner().invoke(cli, ["lipschitz", "--help"])
    text = " ".join(result.output.split())
    assert "runs its code" in text[text.index("--model MODULE") :]
