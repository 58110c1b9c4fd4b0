"""What a claim in an experiment's file may say; `verdicts` says what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_claims"]

KEYS = {
    "id", "text", "problem", "evaluation", "metric", "arm", "against", "against_problem",
    "against_metric", "as", "expect", "family",
}  # fmt: skip


def check_claims(claims: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rules that could not be read.

    Raises:
        ValueError: a key that is unknown or missing, or a value that is none of those above.
    """
    for claim in claims:
        unknown = set(claim) - KEYS
        missing = {"id", "text", "problem", "evaluation", "metric", "arm", "expect"} - set(claim)
        if unknown or missing:
            raise ValueError(
                f"claim {claim.get('id')!r}: unknown keys {sorted(unknown)}, missing "
                f"{sorted(missing)}"
            )
        if claim["expect"] not in ("lower", "higher"):
            raise ValueError(f"claim {claim['id']!r}: expect is lower or higher")
        if claim.get("as", "difference") not in ("ratio", "difference"):
            raise ValueError(f"claim {claim['id']!r}: as is ratio or difference")
        if sum(key in claim for key in ("against", "against_problem", "against_metric")) != 1:
            raise ValueError(f"claim {claim['id']!r}: give one of the three kinds of against")
