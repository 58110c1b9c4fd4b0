"""Results that are kept: what `collect` gathers, and the report reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["kept_seconds", "load_results"]


def load_results(path: Path) -> list[dict[str, Any]]:
    """The records of an experiment; none where there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and collect anew") from None
    return found


def kept_seconds(results: Path, name: str) -> dict[str, float]:
    """What an experiment has results of: keys, and the core seconds of each.

    Raises:
        ValueError: the file is damaged.
    """
    path = results / f"{name}.json"
    try:
        return {record["key"]: record["seconds"] for record in load_results(path)}
    except KeyError as error:
        raise ValueError(f"{path}: a record has no {error}: delete it and collect anew") from None
