"""A small coverage-guided fuzzer for everything that reads a file.

    python tests/reliability/fuzz.py --seconds 60 --seed 0

A case is a seed file changed at random (bits, bytes, lengths, numbers at the ends of their range,
parts of other cases). Cases that reach a line of sdeflow not reached before join the seeds. A
reader may return or raise ValueError in one line, within `PATIENCE` seconds of the processor; all
else is a finding.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

import sdeflow
from sdeflow.conditioning import read_edges
from sdeflow.config import load_config
from sdeflow.data import read_folder, read_idx, read_npz
from sdeflow.data.readers import read_array
from sdeflow.files import verify_sums
from sdeflow.run import list_runs
from sdeflow.training import read_metrics
from sdeflow.training.checkpoint import load_checkpoint

TEXTS = (b"-", b".", b"e", b"9", b"[", b"{", b":", b"'", b"*a", b"&a ", b"!")
PATIENCE = 10  # seconds of the processor for one file
SOURCE = str(Path(sdeflow.__file__).parent)
ENDS = (0, 1, 2, 4, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((3, 4, 4), np.uint8), y=np.arange(3))
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 2), np.float32))
    return buffer.getvalue()


def _picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (9, 99, 200)).save(buffer, kind)
    return buffer.getvalue()


IDX = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(range(24))
YAML = b"data: mixture\nlr: 1e-3\nsteps: 10\netsdm: true\nt_max: null\nname: 'a'\n# note\n"
STATE = {"format": 1, "step": 4, "files": {"a.safetensors": "0" * 64}, "loss": 0.5}


@dataclass
class Target:
    """A reader: its name, seeds, the name that the file gets, and the call."""

    name: str
    seeds: list[bytes]
    file: str
    read: Callable[[Path], object]
    lines: set[tuple[str, int]] = field(default_factory=set)
    cases: int = 0
    findings: list[str] = field(default_factory=list)


def targets() -> list[Target]:
    """Every reader of files that may come from elsewhere."""
    return [
        Target("idx", [IDX, gzip.compress(IDX, mtime=0)], "a.idx", read_idx),
        Target("npz", [_npz()], "a.npz", read_npz),
        Target("array", [_npy(), _npz()], "a.npy", read_array),
        Target(
            "image",
            [_picture(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")],
            "pictures/a.png",
            lambda path: read_folder(path.parent),
        ),
        Target("config", [YAML], "a.yaml", load_config),
        Target("edges", [b"[0.1, 0.2]", b'{"edges": [0.5]}'], "a.json", read_edges),
        Target(
            "state",
            [json.dumps(STATE).encode()],
            "step-00000004/state.json",
            lambda path: load_checkpoint(path.parent),
        ),
        Target(
            "record",
            [b'{"step": 3, "steps": 10, "loss": 0.5, "status": "running", "updated": 1.5}'],
            "runs/a/run.json",
            lambda path: list_runs(path.parent.parent),
        ),
        Target("metrics", [b'{"step": 1, "loss": 0.5}\n{"step": 2}\n'], "m.jsonl", read_metrics),
        Target(
            "sums",
            [b"0" * 64 + b"  a.txt\n"],
            "s/SHA256SUMS",
            lambda path: verify_sums(path.parent),
        ),
    ]


def changed(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to four random changes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = rng.randrange(256)
        elif kind == 2:
            data[place : place + rng.randint(1, 8)] = b""
        elif kind == 3:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
        elif kind == 4:
            size, order = rng.choice((1, 2, 4)), rng.choice(("little", "big"))
            number = rng.choice(ENDS) % 256**size
            data[place : place + size] = number.to_bytes(size, order)  # type: ignore[arg-type]
        elif kind == 5:
            other = rng.choice(others)
            cut = rng.randrange(len(other) + 1)
            data[place : place + rng.randrange(16)] = other[cut : cut + rng.randint(1, 32)]
        elif kind == 6:
            data[place : place + 1] = data[place : place + rng.randint(1, 16)] * rng.randint(2, 9)
        elif kind == 7:
            text = rng.choice(
                (b"-", b".", b"e", b"9", b"[", b"{", b":", b"'", b"*a", b"&a ", b"!")
            )
            data[place:place] = text * rng.choice((1, 1, 1, 2, 400))
    return bytes(data)


class _TooLong(BaseException):
    pass


def _ring(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def reached(call: Callable[[], object]) -> tuple[set[tuple[str, int]], str]:
    """The lines of sdeflow that a call runs through, and what it did wrong, if anything."""
    lines: set[tuple[str, int]] = set()

    def inside(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return inside

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return inside if frame.f_code.co_filename.startswith(SOURCE) else None

    wrong = ""
    before = signal.signal(signal.SIGPROF, _ring)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    sys.settrace(trace)
    try:
        call()
    except ValueError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            wrong = f"a long message: {str(error)[:200]!r}"
    except _TooLong:
        wrong = f"more than {PATIENCE} s"
    except BaseException as error:  # whatever it is, it is the finding
        wrong = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return lines, wrong


def fuzz(
    target: Target, directory: Path, rng: random.Random, cases: int | None, seconds: float
) -> None:
    """Run cases of one target, at most so many and so long; what is found is kept in it."""
    path = directory / target.file
    path.parent.mkdir(parents=True, exist_ok=True)
    corpus = list(target.seeds)
    deadline = time.monotonic() + seconds
    waiting = list(corpus)
    while time.monotonic() < deadline and (cases is None or target.cases < cases):
        content = waiting.pop() if waiting else changed(rng.choice(corpus), corpus, rng)
        path.write_bytes(content)
        lines, wrong = reached(lambda: target.read(path))
        target.cases += 1
        if wrong:
            target.findings.append(f"{wrong}: {content[:200]!r}")
        if lines - target.lines:
            target.lines |= lines
            corpus.append(content)


def main() -> int:
    """Fuzz every reader for its share of the time; exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    every = targets()
    with tempfile.TemporaryDirectory() as directory:
        for target in every:
            rng = random.Random(f"{given.seed}/{target.name}")
            fuzz(target, Path(directory), rng, None, given.seconds / len(every))
            print(
                f"{target.name:8} {target.cases:8} cases  {len(target.lines):4} lines  "
                f"{len(target.findings)} findings",
                flush=True,
            )
            for finding in sorted(set(target.findings))[:5]:
                print(f"  {finding}")
    print(f"{sum(target.cases for target in every)} cases in all")
    return int(any(target.findings for target in every))


if __name__ == "__main__":
    sys.exit(main())
