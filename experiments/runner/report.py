"""README.md and figures from results alone; nothing is trained, nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdeflow.plots import save

from .figures import draw
from .kept import load_results
from .overview import overview, together
from .spec import ROOT, Experiment
from .verdicts import INCOMPLETE, Finding, Records, findings
from .wording import changed, compared, number, written

__all__ = ["write_report"]

START = """# Experiments

The claims of *Lipschitz Singularities in Diffusion Models* (ICLR 2024, arXiv 2306.11251), what \
its reviewers asked, and our own proposal, measured with this project. "Here" is small: pictures \
of 8x8 to 28x28, networks of a million parameters, minutes of training, continuous time unless \
said. Each line links to its experiments below; [how to read it](#how-to-read-it) follows the \
tables.

"""

RULES = """## How to read it

A comparison pairs two arms seed by seed: mean change of the first against the second, and its \
95 % interval over seeds in brackets; negative is lower, and lower is what is claimed unless a \
line says otherwise. Comparisons of one claim are corrected for their number (Holm). One \
**holds** where the interval excludes no difference on the claimed side, **does not hold here** \
on the other, and is **undecided** where it contains it. Where a claim allows a margin ("worse \
by less than 10 %"), the margin stands in place of no difference. A line counts its comparisons: \
it holds *in part* where others are undecided, is *mixed* where some hold and some do not, and \
*open* until all seeds of one comparison are done; *so far* says that others are not. A line \
that says "some" holds where one of those tried does, after correction. Samplers and numbers of \
steps are averaged before they are compared (logarithms, seed by seed), so that a line rests on \
few comparisons; the tables below show the parts. What is not significant is not shown to be \
equal.

Samples end at t = 0.001 unless said and are measured by Fréchet distances of a classifier's \
features, 1,000 against 1,000 held-out pictures of Fashion-MNIST and 500 of digits: biased upward \
by their number, which is what *floor* shows, the same distance of as many real training \
pictures. Changes near the floor are small even where samples become perfect.

The rules are those of the experiments' files under [configs](configs); \
[claims.yaml](claims.yaml) says which of them a line stands for, \
[problems.yaml](problems.yaml) what is trained and [evaluations.yaml](evaluations.yaml) what is \
measured. They stood in their present form when of every grid at most two seeds had been run, \
but for the exact models, `convergence` and the short trainings of `embedding` (digits-300), \
which were complete: the rules on those were written with their results known.

    python experiments/run.py NAME --scale laptop      # or all; goes on where it was stopped
    python experiments/run.py NAME --dry-run           # the grid and its hours
    python experiments/run.py report                   # this file and the figures, from results/

`--scale cluster` is the paper's setting (256x256 folders, 1,000 steps, the network of DDPM): \
complete, and never run here. `--scale smoke` takes minutes and means nothing. `--workers N`, or \
several machines with one `--runs` directory, share the work. Latent models need an encoder and \
are not part of it.

In the tables below: change, the mean [95 % interval]; p, corrected where a claim has several \
comparisons; effect, the mean over the standard deviation of the paired differences (over 100 \
where the seeds hardly differ); rows without a verdict are parts of the mean above them.

"""

PARTS = 8  # of a mean that are listed; of more only the mean


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
        for path in set(results.glob(f"{experiment.name}-*.png")) - set(written):
            path.unlink()  # of an earlier report
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
    asked = {(s.problem, s.arm, s.seed) for s in experiment.subjects}
    records = [r for r in records if (r["problem"], r["arm"], r["seed"]) in asked]
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
        lines.append(f"*{mine[0].text}* ({_expected(mine[0])}): {together(mine)}\n")
        rows = [row for f in mine if f.paired is not None for row in _rows(f)]
        if rows:
            lines.append(
                "| on | measured | first | second | change | p | effect | floor | verdict |"
            )
            lines.append("|---|---|---|---|---|---|---|---|---|")
            lines += [*rows, ""]
    for path, text in pictures:
        lines.append(f"![{text}]({path.as_posix()})\n")
    return "\n".join(lines) + "\n"


def _expected(f: Finding) -> str:
    """What the claim expects of the change, and whether one comparison is enough."""
    than = f" than {written(f.change(f.shift), f.kind)}" if f.shift else ""
    some = "; one of them is enough" if f.judged == "any" else ""
    return f"expected: {f.expect}{than}{some}"


def _reduced(experiment: Experiment) -> str:
    return f"Reduced at this scale: {experiment.reduced}" if experiment.reduced else ""


def _effect(value: float) -> str:
    """Beyond a hundred the denominator is what was measured."""
    if abs(value) > 100:
        return "> 100" if value > 0 else "< −100"
    return f"{value:+.1f}".replace("-", "−")


def _rows(f: Finding) -> list[str]:
    """A comparison, and what it is the mean of."""
    parts = [part for part in f.parts if part.paired is not None and part.wanted]
    return [_row(f), *(_row(p, f) for p in parts if len(parts) <= PARTS)]


def _row(f: Finding, of: Finding | None = None) -> str:
    """A line of the table.

    Args:
        f: the comparison.
        of: the mean that it is a part of.
    """
    assert f.paired is not None
    effect = "" if f.paired.effect is None else _effect(f.paired.effect)
    floor = "" if f.floor is None else number(f.floor, signed=False)
    a, b = (number(v, signed=False) if v is not None else "" for v in (f.a, f.b))
    if f.kind == "log":
        a = b = ""
    count = len(f.seeds)
    told = f.verdict if f.verdict.startswith(INCOMPLETE) else f"{f.verdict} ({count} seeds)"
    p = f"{f.corrected:.2g}" if count > 1 else ""
    if f.among > 1 and p:
        p += f" (of {f.among})"
    what = compared(f)
    if of is not None:
        told, p, what = "", "", f"… {what}"
    return (
        f"| {f.problem} | {what} | {a} | {b} | {changed(f)} | {p} | {effect} | {floor} | {told} |"
    )
