"""Dataclass fields that explain themselves, so that a command line can be made from them."""

from __future__ import annotations

import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

__all__ = ["Option", "convert", "flag", "nearest", "option", "options_of", "unknown"]


@dataclass(frozen=True)
class Option:
    """A field as the command line needs it.

    Attributes:
        name: field name; the flag has ``-`` for ``_``.
        type: bool, int, float or str.
        default: the default; None where it is chosen later, as `auto` says.
        optional: whether None is allowed.
        help: one line.
        choices: the allowed values, or empty.
        unit: unit or domain, or empty.
        auto: what None stands for, or empty.
    """

    name: str
    type: type
    default: Any
    optional: bool
    help: str
    choices: tuple[str, ...]
    unit: str
    auto: str


def option(
    default: Any, help: str, *, choices: tuple[str, ...] = (), unit: str = "", auto: str = ""
) -> Any:
    """A dataclass field with its help, allowed values, unit, and what None stands for."""
    metadata = {"help": help, "choices": choices, "unit": unit, "auto": auto}
    return field(default=default, metadata=metadata)


@functools.cache
def options_of(kind: type) -> tuple[Option, ...]:
    """The fields of a dataclass made of `option`s, in order.

    Each is annotated with bool, int, float or str, or one of these and None.
    """
    hints, found = typing.get_type_hints(kind), []
    for item in fields(kind):
        members = set(typing.get_args(hints[item.name])) or {hints[item.name]}
        (plain,) = members - {types.NoneType}
        optional = types.NoneType in members
        found.append(Option(item.name, plain, item.default, optional, **item.metadata))
    return tuple(found)


def flag(name: str) -> str:
    """The flag of a field: ``batch_size`` to ``--batch-size``."""
    return "--" + name.replace("_", "-")


def nearest(value: str, known: Iterable[str]) -> str | None:
    """The known name most like `value`, or None when none is near."""
    matches = difflib.get_close_matches(value.replace("-", "_"), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(what: str, value: object, known: Iterable[str]) -> str:
    """A line saying that `value` is not known, with the nearest name that is."""
    names = list(known)
    near = nearest(str(value), names)
    hint = f"did you mean {near}?" if near else f"choose from {', '.join(names)}"
    return f"{what} {value!r} is unknown: {hint}"


def convert(option: Option, value: Any) -> Any:
    """`value` as the type of `option`, where that loses nothing.

    Raises:
        ValueError: it is of another type.
    """
    if value is None and option.optional:
        return None
    if option.type is bool and isinstance(value, bool):
        return value
    if option.type is str and isinstance(value, (str, Path)):
        return str(value)
    if option.type in (int, float) and isinstance(value, (int, float, str)):
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if option.type is float and not math.isnan(number):
            return number
        if option.type is int and number.is_integer():
            return int(number)
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    raise ValueError(f"{flag(option.name)} is {_short(value)}: give {wanted[option.type]}")


def _short(value: Any) -> str:
    """`value` for a message, in one short line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a number of {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
