"""Edges of shared time and measured steepness: lists of numbers, from files or written out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from ..files import read_bytes

__all__ = ["read_edges", "read_steepness"]

_NUMBERS = re.compile(r"[\d.eE+-]+(, ?[\d.eE+-]+)+")


def read_edges(path: str | Path) -> list[float]:
    """Edges t_1 < ... < t_n from a file: a JSON list, or {"edges": [...]}; or the list itself.

    A list may be written as times separated by commas, too.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    found = _read(path, "edges", "neither time, sigma, log-snr nor a readable JSON file of edges")
    edges = found.get("edges") if isinstance(found, dict) else found
    if not isinstance(edges, list) or not all(type(e) in (int, float) for e in edges):
        raise ValueError(f"edges={str(path)!r}: the file must hold a list of numbers, t_1 .. t_n")
    try:
        return [float(edge) for edge in edges]
    except OverflowError:
        raise ValueError(f"edges={_short(path)}: times are numbers in (0, 1)") from None


def read_steepness(path: str | Path) -> list[tuple[float, float]]:
    """Pairs (t, E||d eps/dt||) from a file: a JSON list of them, or that of `sdeflow lipschitz`.

    Args:
        path: the file, such as RUN/lipschitz/lipschitz.json; or the list itself.

    Returns:
        The pairs by ascending t, to six digits.

    Raises:
        ValueError: the file is missing, or holds something else.
    """
    what = "neither hyperbola, power:P nor a readable JSON file of pairs (t, derivative)"
    found = _read(path, "smooth_shape", what)
    if isinstance(found, dict):
        curve = found.get("curve")
        rows = curve if isinstance(curve, list) else ()
        wanted = {"prediction": "noise", "quantity": "total"}
        found = [
            [row.get("t"), row.get("mean")]
            for row in rows
            if isinstance(row, dict) and all(row.get(k) == v for k, v in wanted.items())
        ]
    if not (isinstance(found, list) and found and all(_pair(item) for item in found)):
        raise ValueError(
            f"smooth_shape={_short(path)}: need a list of pairs of positive numbers "
            "[[t, derivative], ...], or the lipschitz.json of `sdeflow lipschitz` with the "
            "derivative of the noise prediction"
        )
    return sorted((float(f"{t:.6g}"), float(f"{d:.6g}")) for t, d in found)


def _pair(item: Any) -> bool:
    return (
        isinstance(item, list)
        and len(item) == 2
        and all(type(v) in (int, float) and 0 < v <= sys.float_info.max for v in item)
    )


def _short(path: str | Path) -> str:
    text = str(path)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _read(path: str | Path, option: str, otherwise: str) -> Any:
    """The JSON content of a file, or of `path` itself where that is a list."""
    text = str(path)
    if _NUMBERS.fullmatch(text):
        text = f"[{text}]"
    try:
        return json.loads(text if text.startswith("[") else read_bytes(Path(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{option}={_short(path)}: {otherwise} ({error})") from error
