"""Files that are whole or not there, and reading that believes nothing a file says.

A file is written under a hidden name beside its place, flushed to the disk, and renamed: whoever
opens it sees the old content or the new one, never a part. Several files that belong together go
into a directory that gets its name last; ``SHA256SUMS`` in it, in the format of ``sha256sum -c``,
shows later damage.

What is read may come from a stranger, links among it: only regular files are opened, since devices
and pipes may never end. YAML is read with the safe loader, which makes plain values only, and
within bounds: no aliases (a few lines of them can stand for billions of values), no file beyond
`LARGEST_TEXT`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

__all__ = [
    "SUMS",
    "check_place",
    "flush_directory",
    "flushed",
    "moved",
    "open_regular",
    "read_bytes",
    "read_yaml",
    "together",
    "verify_sums",
    "write_bytes",
    "write_json",
    "write_text",
]

SUMS = "SHA256SUMS"
LARGEST_TEXT = 1 << 20  # bytes of a configuration


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading, if it is one: no device, pipe or directory, nor a link to any.

    Raises:
        OSError: there is no such file, or it is none.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(handle, "rb")


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def flushed(path: Path, content: bytes) -> None:
    """Write a file in place and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where the platform can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, content: bytes) -> Path:
    """Replace a file atomically; on return it is on the disk.

    Raises:
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        flushed(beside, content)
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)
    return path


def write_text(path: Path, content: str) -> Path:
    """Replace a text file (UTF-8) atomically."""
    return write_bytes(path, content.encode())


def write_json(path: Path, values: Mapping[str, Any]) -> Path:
    """Replace a JSON file atomically."""
    return write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def together(directory: Path) -> Iterator[Path]:
    """A place to write files that belong together; they get their final names on leaving.

    A new directory appears at once, whole. In one that exists, files of the same names are
    replaced one by one, each atomically. Either way `SUMS` lists their checksums. If what is
    inside raises, nothing is left of it.

    Args:
        directory: where the files shall be.

    Yields:
        A directory beside it, empty.

    Raises:
        OSError: the disk is full or not writable.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = directory.parent / f".{directory.name}.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        files = sorted(item for item in beside.iterdir() if item.is_file())
        for file in files:
            _flush(file)
        lines = [f"{_digest(file)}  {file.name}\n" for file in files]
        flushed(beside / SUMS, "".join(lines).encode())
        flush_directory(beside)
        if directory.exists():
            for file in (*files, beside / SUMS):
                file.replace(directory / file.name)
            flush_directory(directory)
        else:
            beside.rename(directory)
        flush_directory(directory.parent)
    except OSError as error:
        if error.filename is None:  # a failed write does not know of what file
            error.filename = str(directory)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_place(directory: Path) -> None:
    """Refuse a directory whose files results may not replace: see `together`.

    Raises:
        ValueError: it is a training run, or holds files and no `SUMS` of earlier results.
    """
    if (directory / "run.json").exists() or (directory / "checkpoints").exists():
        raise ValueError(
            f"{directory} is a training run, whose files results would replace: give another "
            f"directory, such as {directory / 'results'}"
        )
    if directory.is_dir() and not (directory / SUMS).exists():
        others = sorted(item.name for item in directory.iterdir() if item.is_file())
        if others:
            raise ValueError(
                f"{directory} holds files that are no earlier results, such as {others[0]}: give "
                f"a new directory, such as {directory / 'results'}"
            )


def moved(files: Mapping[str, Path], place: Path, directory: Path) -> dict[str, Path]:
    """Where files are now that were written in `place`, which `together` gave for `directory`."""
    return {
        name: directory / path.relative_to(place) if path.is_relative_to(place) else path
        for name, path in files.items()
    }


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def verify_sums(directory: Path) -> list[str]:
    """The files of `directory` that are not what `SUMS` says, or are missing; all is well: [].

    Raises:
        ValueError: there is no readable list.
    """
    try:
        lines = read_bytes(directory / SUMS).decode().splitlines()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{directory}: no readable {SUMS}") from None
    wrong = []
    for line in lines:
        digest, _, name = line.partition("  ")
        plain = bool(name) and Path(name).name == name
        try:
            same = plain and _digest(directory / name) == digest
        except (OSError, ValueError):  # no such file, or no name of a file
            same = False
        if not same:
            wrong.append(name or line)
    return wrong


def read_yaml(path: Path) -> Any:
    """What a YAML file says, as plain values.

    Raises:
        ValueError: it cannot be read, is too long, too deep, or uses aliases; in one line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name) are not allowed: write the value itself")
            return super().compose_node(parent, index)

    try:
        with open_regular(path) as file:
            content = file.read(LARGEST_TEXT + 1)
        if len(content) > LARGEST_TEXT:
            raise ValueError(f"longer than {LARGEST_TEXT} bytes")
        return yaml.load(content.decode(), Loader)
    except RecursionError:
        reason = "nested too deeply"
    except OSError as error:
        reason = error.strerror or str(error)
    # Dates such as 2026-99-99 and huge integers fail inside the constructors of plain values.
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
    raise ValueError(f"{path} cannot be read: {reason[:300]}")
