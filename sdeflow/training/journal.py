"""The run directory's own record: ``metrics.jsonl``, one JSON object a line, and ``run.json``.

Lines of metrics have a `step` (optimiser steps taken so far) and either the training quantities
(`loss`, `lr`, `grad_norm`, `steps_per_second`, `skipped`), the held-out ones (`heldout`,
`heldout_bins`, `bin_edges`) or, where asked for, the diagnostics (`grad_noise_bins`, `k` and so
on: `diagnostics.py`). A number that is not finite is written as null.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_bytes, write_json, write_text

__all__ = ["Journal", "read_metrics"]


def _finite(value: Any) -> Any:
    """`value` with every number that JSON cannot say replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return value


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line cut short by a kill is left out."""
    lines = []
    path = Path(path)
    content = read_bytes(path) if path.exists() else b""
    for line in content.decode(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            lines.append(entry)
    return lines


def _read_record(path: Path) -> dict[str, Any]:
    """What ``run.json`` holds; nothing where it is missing or damaged."""
    try:
        values = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


class Journal:
    """Writes the record of one run.

    Args:
        directory: the run directory; it exists.
        resumed: step from which the run goes on: later lines, written before a kill, are cut.
    """

    def __init__(self, directory: Path, resumed: int | None = None) -> None:
        self.path = directory / "metrics.jsonl"
        self.record = directory / "run.json"
        kept = []
        if resumed is not None:
            kept = [line for line in read_metrics(self.path) if line["step"] <= resumed]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self.values = _read_record(self.record)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append a line."""
        self._file.write(json.dumps(_finite(metrics), allow_nan=False) + "\n")
        self._file.flush()

    def update(self, values: Mapping[str, Any]) -> None:
        """Change entries of ``run.json``, atomically; `updated` is set to the present time."""
        self.values.update(_finite(values))
        self.values["updated"] = time.time()
        write_json(self.record, self.values)

    def close(self) -> None:
        """Close the file of metrics."""
        self._file.close()
