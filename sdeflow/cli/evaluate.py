"""`sdeflow evaluate`: how far the samples of runs are from held-out data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.options import (
    common,
    emit,
    note,
    output_options,
    plain,
    progress_bar,
    train_options,
    write_config,
)
from sdeflow.config import SHARING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sdeflow.data import Dataset
    from sdeflow.metrics import Evaluation, Features
    from sdeflow.processes import Processes
    from sdeflow.run import Run
    from sdeflow.samples import Samples

__all__ = ["command"]

SPACES = ("pixels", "classifier", "inception")


@click.command("evaluate")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--count",
    type=int,
    default=500,
    help="How many samples of each run and seed, and of real data. [unit: samples; default: 500]",
)
@click.option(
    "--seeds",
    default="0",
    metavar="LIST",
    help="Seeds to sample with, separated by commas; results are means over them. [default: 0]",
)
@click.option(
    "--solver", default="dopri5", metavar="NAME", help="As in `sample`. [default: dopri5]"
)
@click.option("--steps", type=int, help="As in `sample`. [unit: steps; default: by tolerances]")
@click.option("--rtol", type=float, help="As in `sample`. [default: the solver's own]")
@click.option(
    "--atol",
    type=float,
    help="As in `sample`. [unit: that of the data; default: the solver's own]",
)
@click.option("--chart", metavar="SCALE/CLOCK", help="As in `sample`. [default: the solver's own]")
@click.option("--grid", metavar="SPEC", help="As in `sample`. [default: the solver's own]")
@click.option("--eta", type=float, help="As in `sample`. [default: the solver's own]")
@click.option("--t-min", type=float, default=1e-3, help="Time at which to stop. [default: 0.001]")
@click.option("--t-max", type=float, help="Time at which to start. [default: as in `sample`]")
@click.option(
    "--final",
    default="none",
    type=click.Choice(["none", "denoise", "zero"]),
    help="As in `sample`. [default: none]",
)
@click.option(
    "--guidance",
    type=float,
    default=1.0,
    help="As in `sample`; runs with labels are given those of the held-out data. [default: 1]",
)
@click.option(
    "--space",
    multiple=True,
    type=click.Choice(SPACES),
    help="Features to compare; may be given several times. classifier: the last hidden layer of "
    "a small classifier, trained once on the labelled training set and cached. [default: pixels, "
    "and classifier where images have labels]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where trained classifiers are kept. [default: .features, beside the first run]",
)
@click.option(
    "--inception-weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Inception-v3's weights in torch-fidelity's format, for --space inception. [default: "
    "none; nothing is downloaded]",
)
@click.option(
    "--neighbours",
    type=int,
    default=5,
    help="Neighbours that define precision, recall, density and coverage. [default: 5]",
)
@click.option(
    "--resamples",
    type=int,
    default=200,
    help="Bootstrap resamples behind intervals and tests. [default: 200]",
)
@click.option(
    "--confidence", type=float, default=0.95, help="Of the intervals, in (0, 1). [default: 0.95]"
)
@click.option("--batch-size", type=int, help="How many at once. [unit: samples; default: all]")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps. [default: auto]")
@output_options("a new directory RUN/evaluate, or evaluate beside the runs", figures=None)
@train_options(SHARING, trained=True)
@common
def command(runs: tuple[str, ...], as_json: bool, **values: Any) -> None:
    """Measure samples of each RUN (default: the latest run) against held-out data.

    Fréchet, sliced Wasserstein and energy distance, MMD, precision, recall, density and coverage,
    with bootstrap intervals. The floor is the same number for training data: two halves of real
    data differ by that much. Runs share their starting noise, so that differences from the first
    one are tested in pairs. With --etsdm or --no-etsdm all runs are asked that way. Writes
    evaluate.json, evaluate.csv and config.yaml.

    Example: `sdeflow evaluate baseline etsdm --solver ddim --steps 20 --seeds 0,1,2`.
    """
    import torch

    from sdeflow.files import moved, together
    from sdeflow.metrics import check_settings, compare
    from sdeflow.metrics.tables import evaluation_tables, write_evaluations
    from sdeflow.processes import local_device, processes
    from sdeflow.report import describe, new_directory
    from sdeflow.run import latest_run, load_run
    from sdeflow.training.plan import device_of

    device = local_device(device_of(values["device"]))
    seeds = _seeds(values["seeds"])
    settings = {name: values[name] for name in ("resamples", "confidence", "neighbours")}
    check_settings(**settings)
    sets: dict[str, list[Tensor]] = {}
    about = []
    failures = []
    with processes() as group:
        warn = note if group.main else None
        sharing = {name: values[name] for name in SHARING}
        loaded = [load_run(run, warn=warn).told(sharing) for run in runs or (latest_run(),)]
        names = _names(loaded)
        data = _data(loaded)
        count = values["count"]
        reference, floor = _real(data, count, len(seeds), values["neighbours"])
        cache = values["cache"] or loaded[0].path.parent / ".features"
        spaces = _spaces(values, data, cache, device)
        good = torch.ones(len(seeds), count, dtype=torch.bool)
        for name, run in zip(names, loaded, strict=True):
            with progress_bar(f"sampling {name}", group.main) as progress:
                drawn = _draw(run, data, seeds, device, values, progress, group)
            if drawn is None:
                continue
            x, ok, costs, failed = drawn
            sets[name] = x
            good &= ok
            failures += [failed] if failed else []
            about.append(
                {
                    "run": run.path,
                    "name": name,
                    "step": run.step,
                    "about": describe(run.config),
                    **costs,
                }
            )
    if not group.main:
        return
    kept = [torch.nonzero(rows)[:, 0] for rows in good]
    least = min(len(rows) for rows in kept)
    if failures and least <= values["neighbours"]:
        raise FloatingPointError(f"{failures[0]}; too few samples are left to compare")
    # What failed in one run is left out of all, so that the pairs stay pairs.
    sets = {
        name: [x[rows[:least]] for x, rows in zip(parts, kept, strict=True)]
        for name, parts in sets.items()
    }
    evaluations: list[Evaluation] = []
    for space in spaces:
        features = space()
        with progress_bar(f"comparing {features.name}") as progress:
            evaluations.append(
                compare(
                    sets,
                    reference,
                    [part[:least] for part in floor],
                    features,
                    progress=progress,
                    **settings,
                )
            )
    out = values.pop("out") or new_directory(
        loaded[0].path / "evaluate" if len(loaded) == 1 else loaded[0].path.parent / "evaluate"
    )
    result = {
        "runs": about,
        "data": data.name,
        "seeds": seeds,
        "spaces": [evaluation.to_dict() for evaluation in evaluations],
    }
    with together(out) as place:
        made = write_evaluations(evaluations, place, plain(result))
        write_config(place / "config.yaml", {"runs": [run.path for run in loaded], **values})
    files = moved(made, place, out)
    emit({**result, "out": out, "files": files}, as_json, evaluation_tables(evaluations))
    for kind, path in files.items():
        click.echo(f"{kind:9} {path}", err=as_json)
    if failures:
        raise FloatingPointError(f"{failures[0]}; what succeeded is evaluated in {out}")


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in str(text).split(",")]
    except ValueError:
        raise ValueError(f"--seeds is {text!r}: give whole numbers such as 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds is {text!r}: a seed is given twice")
    return seeds


def _names(runs: list[Run]) -> list[str]:
    """Short names, or whole paths where those are not enough."""
    for names in ([run.path.name for run in runs], [str(run.path) for run in runs]):
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"the run {runs[0].path} is given twice: name each run once")


def _data(runs: list[Run]) -> Dataset:
    """The data that all runs were trained on."""
    from sdeflow.data import load_data

    keys = {(r.config.data, r.config.data_dir, r.config.image_size) for r in runs}
    if len(keys) > 1:
        listed = " and ".join(sorted({r.config.data for r in runs}))
        raise ValueError(
            f"the runs were trained on different data ({listed}, or sizes of it): evaluate them "
            "one by one"
        )
    return load_data(*keys.pop())


def _real(data: Dataset, count: int, parts: int, neighbours: int) -> tuple[Tensor, list[Tensor]]:
    """Held-out samples, and as many parts of training samples as there are seeds."""
    import torch

    from sdeflow.metrics import LARGEST

    if not neighbours < min(count, len(data.heldout)) <= count <= LARGEST:
        raise ValueError(
            f"--count is {count}: need more than the {neighbours} --neighbours, of samples and of "
            f"the {len(data.heldout)} held-out ones, and at most {LARGEST}"
        )
    if count > len(data.train):
        raise ValueError(
            f"--count is {count}: {data.name} has {len(data.train)} training samples, and the "
            "floor needs as many; ask for fewer"
        )
    generator = torch.Generator().manual_seed(0)
    order = [torch.randperm(len(data.train), generator=generator)[:count] for _ in range(parts)]
    return data.heldout[:count], [data.train[rows] for rows in order]


def _spaces(
    values: dict[str, Any], data: Dataset, cache: Path, device: torch.device
) -> list[Callable[[], Features]]:
    """The feature extractors asked for, in order; only the classifier waits until it is called."""
    from sdeflow.metrics import InceptionFeatures, Pixels, classifier_features

    def train() -> Features:
        with progress_bar("training the classifier") as progress:
            return classifier_features(data, cache, device=device, warn=note, progress=progress)

    weights, labelled = values["inception_weights"], data.num_classes > 1
    asked = list(dict.fromkeys(values["space"]))
    if not asked:
        asked = ["pixels", "classifier"] if data.is_image and labelled else ["pixels"]
    if weights is not None and "inception" not in asked:
        asked.append("inception")
    if "classifier" in asked and not labelled:
        raise ValueError(f"--space classifier: {data.name} has no labels; choose pixels")
    made: dict[str, Callable[[], Features]] = {"classifier": train}
    if "pixels" in asked:
        made["pixels"] = partial(Pixels, data.data_shape)
    if "inception" in asked:
        if weights is None:
            raise ValueError("--space inception: give the file with --inception-weights FILE")
        inception = InceptionFeatures(weights, device)
        made["inception"] = lambda: inception
    return [made[space] for space in asked]


def _draw(
    run: Run,
    data: Dataset,
    seeds: list[int],
    device: torch.device,
    values: dict[str, Any],
    progress: Callable[[float], None],
    group: Processes,
) -> tuple[list[Tensor], Tensor, dict[str, Any], str] | None:
    """Samples of each seed, which succeeded (S, N), what they cost, and the first failure.

    All processes draw; the main one is given what they drew.
    """
    import torch

    from sdeflow.processes import sample_together
    from sdeflow.sampling import sample
    from sdeflow.super_resolution import first_images

    names = (
        "solver", "steps", "rtol", "atol", "chart", "grid", "eta", "t_min", "t_max", "final",
        "guidance", "batch_size",
    )  # fmt: skip
    label = None
    if run.config.class_condition and data.heldout_labels is not None:
        have = data.heldout_labels
        label = have[torch.arange(values["count"]) % len(have)]
    image, factor = None, run.config.super_resolution
    if factor:
        image = first_images(data.heldout, factor, values["count"])
    model = run.denoiser.to(device)
    drawn: list[Samples] = []
    for k, seed in enumerate(seeds):

        def report(share: float, k: int = k) -> None:
            progress((k + share) / len(seeds))

        def draw(
            rows: slice, seed: int = seed, report: Callable[[float], None] = report
        ) -> Samples:
            return sample(
                model,
                run.data_shape,
                label=None if label is None else label[rows],
                image=None if image is None else image[rows],
                count=rows.stop - rows.start,
                first=rows.start,
                seed=seed,
                on_failure="return",
                progress=report,
                **{name: values[name] for name in names},
            )

        part = sample_together(group, values["count"], draw)
        drawn += [] if part is None else [part]
    if not drawn:
        return None
    costs = {
        "sampler": drawn[0].caption(),
        "evaluations": sum(float(d.log.evaluations.mean()) for d in drawn) / len(drawn),
        "failed": sum(int((~d.ok).sum()) for d in drawn),
        "seconds": sum(d.seconds for d in drawn),
    }
    ok = torch.stack([torch.from_numpy(d.ok) for d in drawn])
    failure = next((d.failure for d in drawn if d.failure), "")
    return [d.x.cpu() for d in drawn], ok, costs, failure and f"{run.path.name}: {failure}"
