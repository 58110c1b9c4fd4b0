"""From job directories to results that are kept: one JSON and one CSV per experiment.

    results/SCALE/NAME.json   a record per evaluation: problem, arm, seed, evaluation, key,
                              training (its key), values
    results/SCALE/NAME.csv    the single numbers among the values but floors, a row each

Records are merged by key into those that are there: results of several machines add up, and a
run with fewer or more seeds takes nothing away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdeflow.files import write_text
from sdeflow.plots import write_csv

from .evaluators import version_of
from .jobs import read_result
from .kept import load_results
from .spec import SEEDS, Experiment, load_experiment

__all__ = ["collect"]

DIGITS = 6
PICTURED = ("fast", "conditional")  # experiments that show samples, of the first seed


def collect(experiments: Sequence[Experiment], runs: Path, results: Path) -> list[Path]:
    """Gather what is done; returns the files written."""
    written = []
    for experiment in experiments:
        path = results / f"{experiment.name}.json"
        records = {_identity(record): record for record in load_results(path)}
        before = set(records)
        for place, name, key, about in _wanted(experiment):
            identity = _identity({**about, "evaluation": name, "key": key})
            result = read_result(runs / place / key) if identity not in before else None
            if result is not None:
                values = dict(result["values"])
                if about["seed"] != SEEDS[0] or experiment.name not in PICTURED:
                    values.pop("tiles", None)
                kept = {
                    "evaluation": name,
                    "key": key,
                    "kind": result["kind"],
                    "seconds": result["core_seconds"],
                    "values": values,
                }
                records[identity] = _rounded({**about, **kept})
        # What the experiment's file no longer asks for, with any number of seeds, goes.
        every = load_experiment(experiment.name, experiment.scale, len(SEEDS))
        wanted = {
            _identity({**about, "evaluation": name, "key": key})
            for _, name, key, about in _wanted(every)
        }
        found = [record for identity, record in records.items() if identity in wanted]
        if not found:
            continue
        results.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in found)
        write_text(path, f"[\n{lines}\n]\n")
        written += [path, _table(found, path)]
    return written


def _identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells records apart; two arms may share one key."""
    return tuple(record[name] for name in ("problem", "arm", "seed", "evaluation", "key"))


def _wanted(experiment: Experiment) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Directory, evaluation, key and place in the grid of all that an experiment asks for."""
    found = []
    for subject in experiment.subjects:
        about = {
            "problem": subject.problem,
            "arm": subject.arm,
            "seed": subject.seed,
            "training": None if subject.oracle else subject.key,
        }
        if subject.oracle is None:
            found.append(("train", "train", subject.key, about))
        for evaluation in subject.evaluations:
            key = subject.evaluation_key(evaluation, version_of(evaluation.kind))
            found.append(("evaluate", evaluation.name, key, about))
    return found


def _table(records: Sequence[dict[str, Any]], path: Path) -> Path:
    names = ("problem", "arm", "seed", "evaluation", "key")
    rows = [
        (*(record[name] for name in names), metric, value)
        for record in records
        for metric, value in record["values"].items()
        if isinstance(value, (int, float)) and not metric.endswith("_floor")
    ]
    columns = zip((*names, "metric", "value"), zip(*rows, strict=True), strict=True)
    return write_csv(path, {name: list(map(str, values)) for name, values in columns})


def _rounded(value: Any) -> Any:
    """Numbers to 6 digits: more would be noise, and megabytes."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    return value
