"""README.md and figures from results alone; nothing is trained, nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sdeflow.plots import save

from .figures import draw
from .kept import load_results
from .overview import number, overview, together
from .spec import ROOT, Experiment
from .verdicts import INCOMPLETE, Finding, Records, findings

__all__ = ["write_report"]

START = """# Experiments

Every claim of *Lipschitz Singularities in Diffusion Models* (ICLR 2024, arXiv 2306.11251), \
what its reviewers asked, and our own proposal, measured with this project. "Here" is small: \
pictures of 8x8 to 28x28, networks of a million parameters, minutes of training. Each line links \
to its experiments below; [how to read it](#how-to-read-it) follows the tables.

"""

RULES = """## How to read it

Rules stand in the experiments' files under [configs](configs) since before their runs; \
[claims.yaml](claims.yaml) says which of them a line stands for. A comparison pairs two arms \
seed by seed, and its 95 % interval over seeds excludes no difference on the claimed side (it \
**holds**), on the other (it **does not hold here**), or contains it (it is **undecided**). A \
line counts its comparisons: it *holds* where all do, *in part* where the others are undecided, \
is *mixed* where some hold and some do not, and *open* until all seeds of one comparison are \
done; *so far* says that others are not. Measured: from the smallest to the largest change of the \
first arm against the second, in per cent where it is a ratio; negative is lower. Fréchet \
distances are those of a classifier's features.

    python experiments/run.py NAME --scale laptop      # or all; goes on where it was stopped
    python experiments/run.py NAME --dry-run           # the grid and its hours
    python experiments/run.py report                   # this file and the figures, from results/

`--scale cluster` is the paper's setting (256x256 folders, 1,000 steps, the network of DDPM): \
complete, and never run here. `--scale smoke` takes minutes and means nothing. `--workers N`, or \
several machines with one `--runs` directory, share the work.

In the tables below: change, the mean [95 % interval]; effect, the mean over the standard \
deviation of the paired differences (over 100 where the seeds hardly differ); floor, the metric \
of as many real training pictures in place of samples: it depends on their number, and samples \
can be below it.

"""


def write_report(experiments: Sequence[Experiment], results: Path) -> list[Path]:
    """Write figures into `results`, and README.md beside the runner.

    With another directory than the project's own, README.md goes there.

    Returns:
        The files written.
    """
    own = results.resolve().is_relative_to(ROOT.resolve())
    readme = (ROOT if own else results) / "README.md"
    written, sections, all_found = [], [], {}
    for experiment in experiments:
        records = load_results(results / f"{experiment.name}.json")
        found = all_found[experiment.name] = findings(experiment, records)
        pictures = []
        for name, (figure, text) in draw(experiment, records, found).items() if records else ():
            path = save(figure, results / f"{experiment.name}-{name}.png")
            written.append(path)
            pictures.append((path.relative_to(readme.parent), text))
        sections.append(_section(experiment, records, found, pictures))
    text = START + overview(all_found) + "\n" + RULES + "\n".join(sections) + _others()
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


def _claims(found: Sequence[Finding]) -> dict[str, list[Finding]]:
    claims: dict[str, list[Finding]] = {}
    for f in found:
        claims.setdefault(f.id, []).append(f)
    return claims


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
        f"**{experiment.title.rstrip('.?')}**. {experiment.question}\n",
        f"    python experiments/run.py {experiment.name} --scale {experiment.scale}\n",
    ]
    state = f"{len(records)} of {wanted} results"
    if len(records) < wanted:
        state = f"Incomplete: {state}"
    if seeds:
        state += f", seeds {', '.join(map(str, seeds))}, {hours:.1f} core hours"
    lines.append(f"{state}. {_reduced(experiment)}\n")
    for mine in _claims(found).values():
        lines.append(f"*{mine[0].text}* (expected: {mine[0].expect}): {together(mine)}\n")
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


def _effect(value: float) -> str:
    """Beyond a hundred the denominator is what was measured."""
    if abs(value) > 100:
        return "> 100" if value > 0 else "< −100"
    return f"{value:+.1f}".replace("-", "−")


def _row(f: Finding) -> str:
    assert f.paired is not None
    unit = " %" if f.ratio else ""
    numbers = [f.change(v) for v in (f.paired.value, f.paired.low, f.paired.high)]
    change = f"{number(numbers[0])}{unit}"
    if math.isfinite(f.paired.low):
        change += f" [{number(numbers[1])}, {number(numbers[2])}]"
    if f.family:
        change += f", corrected p {f.corrected:.2g}"
    effect = "" if f.paired.effect is None else _effect(f.paired.effect)
    floor = "" if f.floor is None else number(f.floor, signed=False)
    a, b = (number(v, signed=False) if v is not None else "" for v in (f.a, f.b))
    count = len(f.seeds)
    told = f.verdict if f.verdict.startswith(INCOMPLETE) else f"{f.verdict} ({count} seeds)"
    measured = f"{f.evaluation}: {f.metric}, {f.arm} against {f.against}"
    return f"| {f.problem} | {measured} | {a} | {b} | {change} | {effect} | {floor} | {told} |"
