"""Evaluations for people and for other programs: tables, evaluate.json, evaluate.csv."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .comparison import FLOOR, METRICS, Evaluation, Score

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["evaluation_tables", "write_evaluations"]

COLUMNS = (
    "features", "kind", "name", "baseline", "metric", "value", "low", "high", "p_value", "count",
    "reference_count",
)  # fmt: skip


def write_evaluations(
    evaluations: Sequence[Evaluation], directory: str | Path, about: Mapping[str, Any]
) -> dict[str, Path]:
    """Write evaluate.json, and evaluate.csv with a row for every number.

    Args:
        evaluations: One for each space.
        directory: Where; made if need be.
        about: What evaluate.json holds, plain values.

    Returns:
        Name to path of what was written.
    """
    from ..plots import write_csv

    rows: list[dict[str, Any]] = []
    for evaluation in evaluations:
        for kind, scores in (("run", evaluation.scores), ("floor", evaluation.floor)):
            rows += [{"kind": kind, **asdict(score)} for score in scores]
        rows += [{"kind": "difference", **asdict(found)} for found in evaluation.differences]
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = {"results": directory / "evaluate.json", "table": directory / "evaluate.csv"}
    files["results"].write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    write_csv(files["table"], {name: [str(row.get(name, "")) for row in rows] for name in COLUMNS})
    return files


def evaluation_tables(evaluations: Sequence[Evaluation]) -> Group:
    """For each space a table of sets and floor, and one of the differences where there are any."""
    from rich.console import Group

    tables = []
    for evaluation in evaluations:
        tables.append(_scores(evaluation))
        if evaluation.differences:
            tables.append(_differences(evaluation))
    return Group(*tables)


def _scores(evaluation: Evaluation) -> Table:
    settings, first = evaluation.settings, evaluation.floor[0]
    table = _table(
        f"{first.features}: {first.count} samples against {first.reference_count} held-out ones",
        f"({settings['confidence']:.0%} bootstrap interval); {FLOOR}: the floor. "
        f"MMD: {settings['kernel']}; {settings['neighbours']} neighbours.",
    )
    names = list(dict.fromkeys(score.name for score in (*evaluation.scores, *evaluation.floor)))
    table.add_column("metric")
    for name in names:
        table.add_column(name, justify="right")
    found = {(s.name, s.metric): s for s in (*evaluation.scores, *evaluation.floor)}
    for metric, label in METRICS.items():
        table.add_row(label, *(_cell(found[name, metric]) for name in names))
    return table


def _differences(evaluation: Evaluation) -> Table:
    first = evaluation.differences[0]
    table = _table(f"{first.features}: difference from {first.baseline}, paired", None)
    for name in ("run", "metric"):
        table.add_column(name)
    for name in ("difference", f"{evaluation.settings['confidence']:.0%} interval", "p"):
        table.add_column(name, justify="right")
    for d in evaluation.differences:
        interval = f"({d.low:.3g}, {d.high:.3g})"
        table.add_row(d.name, METRICS[d.metric], f"{d.value:.3g}", interval, f"{d.p_value:.3f}")
    return table


def _table(title: str, caption: str | None) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        box=box.SIMPLE_HEAD,
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
    )


def _cell(score: Score) -> str:
    return f"{score.value:.4g} ({score.low:.4g}, {score.high:.4g})"
