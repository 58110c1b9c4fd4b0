"""README.md and figures from results alone; nothing is trained, nothing is measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sdeflow.plots import save

from .figures import draw
from .kept import load_results
from .spec import ROOT, Experiment
from .verdicts import FAILS, HOLDS, INCOMPLETE, UNDECIDED, UNTESTED, Finding, Records, findings

__all__ = ["write_report"]

START = """# Experiments

Every claim of *Lipschitz Singularities in Diffusion Models* (ICLR 2024, arXiv 2306.11251), \
and what its reviewers asked, measured with this project. The rule behind each verdict stands in \
the experiment's file under [configs](configs) since before its runs: the paired 95 % interval \
over seeds excludes no difference, on the claimed side (**holds**) or on the other (**does not \
hold here**), or contains it (**undecided**). "Here" is small: pictures of 8x8 to 28x28, networks \
of a million parameters, minutes of training.

    python experiments/run.py NAME --scale laptop      # or all; goes on where it was stopped
    python experiments/run.py NAME --dry-run           # the grid and its hours
    python experiments/run.py report                   # this file and the figures, from results/

`--scale cluster` is the paper's setting (256x256 folders, 1,000 steps, the network of DDPM): \
complete, and never run here. `--scale smoke` takes minutes and means nothing. `--workers N`, or \
several machines with one `--runs` directory, share the work. Numbers: mean [95 % interval], \
ratios as a change in per cent; effect: mean over standard deviation of the paired differences; \
floor: the metric of real training data. Fréchet distances are those of a classifier's features.

"""


def write_report(experiments: Sequence[Experiment], results: Path) -> list[Path]:
    """Write figures into `results`, and README.md beside the runner.

    With another directory than the project's own, README.md goes there.

    Returns:
        The files written.
    """
    own = results.resolve().is_relative_to(ROOT.resolve())
    readme = (ROOT if own else results) / "README.md"
    written, sections, summary = [], [], []
    for experiment in experiments:
        records = load_results(results / f"{experiment.name}.json")
        found = findings(experiment, records)
        summary += _summary(experiment, found)
        pictures = []
        for name, (figure, text) in draw(experiment, records, found).items() if records else ():
            path = save(figure, results / f"{experiment.name}-{name}.png")
            written.append(path)
            pictures.append((path.relative_to(readme.parent), text))
        sections.append(_section(experiment, records, found, pictures))
    head = (
        "## Which claims stand\n\n| claim | comparisons | changes measured | verdict |\n"
        "|---|---|---|---|\n"
    )
    text = START + head + "".join(summary) + "\n" + "\n".join(sections) + _others()
    results.mkdir(parents=True, exist_ok=True)
    readme.write_text(text, encoding="utf-8")
    return [*written, readme]


def _others() -> str:
    return (
        "\n## Also here\n\n[configs/case-e.yaml](configs/case-e.yaml): the settings of the "
        "trained network in the solver benchmark (case E); `sdeflow train --config "
        "experiments/configs/case-e.yaml` repeats it. [exponents.py](exponents.py): how fast "
        "exact models grow steep on every process, for "
        "[docs/singularity.md](../docs/singularity.md).\n"
    )


def _overall(found: Iterable[Finding]) -> str:
    """The verdicts of one claim's comparisons, together."""
    counts: Counter[str] = Counter()
    pairs = [0, 0]
    for f in found:
        incomplete = f.verdict.startswith(INCOMPLETE)
        counts[INCOMPLETE if incomplete else f.verdict] += 1
        if incomplete:
            pairs = [pairs[0] + len(f.seeds), pairs[1] + f.wanted]
    names = {name: name for name in counts}
    names[INCOMPLETE] = f"{INCOMPLETE} ({pairs[0]} of {pairs[1]} pairs)"
    if len(counts) == 1:
        return f"**{names[next(iter(counts))]}**"
    order = (HOLDS, FAILS, UNDECIDED, INCOMPLETE, UNTESTED)
    return ", ".join(f"{names[name]}: {counts[name]}" for name in order if counts[name])


def _range(found: Iterable[Finding]) -> str:
    """Smallest and largest mean change among the comparisons of a claim."""
    changes = [(f.change(f.paired.value), " %" if f.ratio else "") for f in found if f.paired]
    if not changes:
        return ""
    (low, unit), (high, _) = min(changes), max(changes)
    return f"{_number(low)}{unit}" if low == high else f"{_number(low)} to {_number(high)}{unit}"


def _claims(found: Sequence[Finding]) -> dict[str, list[Finding]]:
    claims: dict[str, list[Finding]] = {}
    for f in found:
        claims.setdefault(f.id, []).append(f)
    return claims


def _summary(experiment: Experiment, found: Sequence[Finding]) -> list[str]:
    return [
        f"| [{experiment.name}](#{experiment.name}): {mine[0].text} | {len(mine)} | "
        f"{_range(mine)} | {_overall(mine)} |\n"
        for mine in _claims(found).values()
    ]


def _section(
    experiment: Experiment,
    records: Records,
    found: Sequence[Finding],
    pictures: Sequence[tuple[Path, str]],
) -> str:
    wanted = sum(1 + len(s.evaluations) if s.oracle is None else len(s.evaluations)
                 for s in experiment.subjects)  # fmt: skip
    seeds = sorted({record["seed"] for record in records})
    hours = sum({r["key"]: r["seconds"] for r in records}.values()) / 3600
    lines = [
        f"## {experiment.name}\n",
        f"**{experiment.title}.** {experiment.question}\n",
        f"    python experiments/run.py {experiment.name} --scale {experiment.scale}\n",
    ]
    state = f"{len(records)} of {wanted} results"
    if len(records) < wanted:
        state = f"Incomplete: {state}"
    if seeds:
        state += f", seeds {', '.join(map(str, seeds))}, {hours:.1f} core hours"
    lines.append(f"{state}. {_reduced(experiment)}\n")
    for mine in _claims(found).values():
        lines.append(f"*{mine[0].text}* (expected: {mine[0].expect}): {_overall(mine)}\n")
        rows = [f for f in mine if f.paired is not None]
        if rows:
            lines.append("| on | measured | first | second | change | effect | floor | verdict |")
            lines.append("|---|---|---|---|---|---|---|---|")
            lines += [_row(f) for f in rows]
            lines.append("")
    for path, text in pictures:
        lines.append(f"![{text}]({path.as_posix()})\n\n{text}\n")
    return "\n".join(lines) + "\n"


def _reduced(experiment: Experiment) -> str:
    return f"Reduced at this scale: {experiment.reduced}" if experiment.reduced else ""


def _row(f: Finding) -> str:
    assert f.paired is not None
    unit = " %" if f.ratio else ""
    numbers = [f.change(v) for v in (f.paired.value, f.paired.low, f.paired.high)]
    change = f"{_number(numbers[0])}{unit}"
    if math.isfinite(f.paired.low):
        change += f" [{_number(numbers[1])}, {_number(numbers[2])}]"
    if f.family:
        change += f", corrected p {f.corrected:.2g}"
    effect = "" if f.paired.effect is None else f"{f.paired.effect:+.1f}"
    floor = "" if f.floor is None else _number(f.floor, signed=False)
    a, b = (_number(v, signed=False) if v is not None else "" for v in (f.a, f.b))
    count = len(f.seeds)
    told = f.verdict if f.verdict.startswith(INCOMPLETE) else f"{f.verdict} ({count} seeds)"
    measured = f"{f.evaluation}: {f.metric}, {f.arm} against {f.against}"
    return f"| {f.problem} | {measured} | {a} | {b} | {change} | {effect} | {floor} | {told} |"


def _number(value: float, signed: bool = True) -> str:
    """Three digits."""
    return (f"{value:+.3g}" if signed else f"{value:.3g}").replace("-", "−")
