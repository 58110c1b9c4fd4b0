"""What a claim in an experiment's file may say; `verdicts` says what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["POOLS", "check_claims", "claims_at"]

NEEDED = {"id", "text", "problem", "evaluation", "metric", "arm", "expect"}
KEYS = NEEDED | {
    "against", "against_problem", "against_metric", "as", "margin", "pool", "judged", "family",
    "cluster",
}  # fmt: skip
CHOICES = {
    "expect": ("lower", "higher"),
    "as": ("difference", "ratio", "log"),
    "judged": ("all", "any"),
}
POOLS = ("evaluation", "metric", "arm")


def check_claims(claims: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rules that could not be read.

    Raises:
        ValueError: a key that is unknown or missing, or a value that is none of those it can have.
    """
    for claim in claims:
        said = f"claim {claim.get('id')!r}"
        unknown, missing = set(claim) - KEYS, NEEDED - set(claim)
        if unknown or missing:
            raise ValueError(f"{said}: unknown keys {sorted(unknown)}, missing {sorted(missing)}")
        for key, choices in CHOICES.items():
            if claim.get(key, choices[0]) not in choices:
                raise ValueError(f"{said}: {key} is one of {', '.join(choices)}")
        if unknown := set(claim.get("pool", ())) - set(POOLS):
            raise ValueError(f"{said}: pool has {sorted(unknown)}, of {', '.join(POOLS)}")
        others = sum(key in claim for key in ("against", "against_problem", "against_metric"))
        if others + isinstance(claim["arm"], Mapping) != 1:
            raise ValueError(f"{said}: give one of the four kinds of against")


def claims_at(values: Mapping[str, Any], scale: str) -> list[dict[str, Any]]:
    """The claims of a file, with the problems of a scale.

    Claims name the laptop's problems; `cluster`, of the file or of a claim, names those that stand
    for them there, and [] says that it has none.
    """
    claims = [dict(claim) for claim in values["claims"]]
    for claim in claims:
        instead = claim.pop("cluster", values.get("cluster", []))
        if scale == "cluster" and instead:
            claim["problem"] = instead
    return claims
