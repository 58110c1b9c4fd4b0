"""`sdeflow sample`: samples from a trained run, with the log of every step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdeflow.cli.models import only_with
from sdeflow.cli.options import (
    batch_option,
    common,
    emit,
    note,
    output_options,
    progress_bar,
    run_argument,
    train_options,
    write_config,
)
from sdeflow.config import SHARING
from sdeflow.memory import permanent

if TYPE_CHECKING:
    from torch import Tensor

    from sdeflow.run import Run
    from sdeflow.samples import Samples

__all__ = ["command"]


def _refuse(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    """Say why there is no --compile to whoever looks for it."""
    if given:
        raise click.UsageError(
            "--compile is not offered: for the small U-Net torch.compile took 98 s on a CPU and "
            "made a call 1.12 times as fast, which pays after 4,300 calls of 64 images, and it "
            "compiles again when the batch shrinks; leave it out (docs/performance.md)"
        )


@click.command("sample")
@run_argument
@click.option(
    "--solver",
    default="dopri5",
    metavar="NAME",
    help="How to integrate: a name listed by `sdeflow solvers`. [default: dopri5]",
)
@click.option(
    "--steps",
    type=int,
    help="Take this many fixed steps. [unit: steps; default: steps are chosen by the tolerances, "
    "or as many as is usual for a solver that cannot do that]",
)
@click.option(
    "--rtol",
    type=float,
    help="Relative tolerance of a step. [default: the solver's own: 0.001, of SDE solvers 0.05]",
)
@click.option(
    "--atol",
    type=float,
    help="Absolute tolerance of a step. [unit: that of the data, whose range is [-1, 1]; "
    "default: the solver's own: 0.001, of SDE solvers 0.05]",
)
@click.option(
    "--controller",
    default="pi",
    metavar="[i|pi|pid]",
    help="Control of the step size. [default: pi]",
)
@click.option(
    "--chart",
    metavar="SCALE/CLOCK",
    help="Coordinates to integrate in: a scale of the state (x, x/alpha, x/sigma, …) and a clock "
    "(time, log-snr, noise-ratio, …), as in x/log-snr. [default: the solver's own]",
)
@click.option(
    "--grid",
    metavar="SPEC",
    help="Spacing of fixed steps: even in a clock (log-snr, time, …), karras, karras:POWER, "
    "power:POWER, tuned, or the times themselves, separated by commas. [default: the solver's "
    "own]",
)
@click.option(
    "--t-min",
    type=float,
    default=1e-3,
    help="Time at which to stop. [unit: time, in (0, t_max); default: 0.001]",
)
@click.option(
    "--t-max",
    type=float,
    help="Time at which to start. [unit: time, in (t_min, 1]; default: 1, or less where the "
    "process has no signal left and the model needs some]",
)
@click.option(
    "--eta",
    type=float,
    help="Noise level of a stochastic solver: 0 none, 1 that of the reverse SDE. [default: the "
    "solver's own]",
)
@click.option(
    "--final",
    default="none",
    type=click.Choice(["none", "denoise", "zero"]),
    help="At the end: none; denoise, give E[x_0 | x] instead of x; zero, the same in place of "
    "the last step. [default: none]",
)
@click.option(
    "--breaks/--no-breaks",
    default=None,
    help="Tell the solver where the condition jumps (E-TSDM). [default: yes, unless steps are "
    "fixed]",
)
@click.option(
    "--label",
    metavar="CLASS",
    help="Class to sample, or several separated by commas, taken in turn. [default: any class]",
)
@click.option(
    "--guidance",
    type=float,
    default=1.0,
    help="Weight of classifier-free guidance; 1 is none. [default: 1]",
)
@click.option(
    "--noise",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Start from these standard normals, .npy or .npz, (N, …). [default: drawn by --seed]",
)
@click.option("--count", type=int, default=64, help="How many. [unit: samples; default: 64]")
@batch_option
@click.option("--seed", type=int, default=0, help="Seed of every random draw. [default: 0]")
@click.option(
    "--device", default="auto", help="auto, cpu, cuda, cuda:N or mps. [default: auto, the fastest]"
)
@click.option(
    "--compile",
    is_flag=True,
    hidden=True,
    expose_value=False,
    callback=_refuse,
    help="Refused, with the reason.",
)
@output_options("a new directory RUN/samples/SOLVER", figures="step-size figure")
@train_options(SHARING, trained=True)
@common
def command(run: str | None, out: Path | None, as_json: bool, svg: bool, **values: Any) -> None:
    """Sample from RUN: a directory, or a name under runs/; default: the latest run.

    Writes samples.npz, grid.png, steps.csv, steps.png, summary.json and the config.yaml that
    repeats the command. Under a launcher (torchrun, accelerate) the processes share the work.
    With --etsdm or --no-etsdm time is shared only while sampling, or was only while training.
    A super-resolution run is given held-out images made smaller: sample i the i-th of them.
    """
    with permanent():
        import torch

        from sdeflow.files import moved, together
        from sdeflow.processes import local_device, processes, sample_together
        from sdeflow.report import describe, new_directory, write_samples
        from sdeflow.run import latest_run, load_run
        from sdeflow.sampling import sample
        from sdeflow.training.plan import device_of

    options = dict(values)
    device = local_device(device_of(options.pop("device")))
    noise = _read_noise(options.pop("noise"))
    count = options.pop("count")
    if noise is not None and count != len(noise):
        why = f"is {count}, and --noise has {len(noise)} rows, one a sample; leave it out"
        only_with(click.get_current_context(), ("count",), why)
        count = values["count"] = len(noise)
    label = _labels(options.pop("label"), count)
    sharing = {name: options.pop(name) for name in SHARING}
    with processes() as group:
        warn = note if group.main else None
        loaded = load_run(run or latest_run(), warn=warn).told(sharing)
        loaded.denoiser.to(device)
        with progress_bar("sampling", group.main) as progress:
            image = _images(loaded, count)

            def draw(rows: slice) -> Samples:
                return sample(
                    loaded.denoiser,
                    loaded.data_shape,
                    noise=None if noise is None else noise[rows],
                    image=None if image is None else image[rows],
                    label=label[rows] if isinstance(label, torch.Tensor) else label,
                    count=rows.stop - rows.start,
                    first=rows.start,
                    on_failure="return",
                    progress=progress,
                    **options,
                )

            samples = sample_together(group, count, draw)
    if samples is None:
        return
    out = out or new_directory(loaded.path / "samples" / values["solver"].replace("/", "-"))
    about = f"{loaded.path.name}, {loaded.step} steps: {describe(loaded.config)}"
    with together(out) as place:
        made = write_samples(samples, place, about, loaded.denoiser.breaks, svg)
        write_config(place / "config.yaml", {"run": loaded.path, **values})
    files = moved(made, place, out)
    summary = samples.summary()
    cost = summary["evaluations"]
    text = [
        *(f"{name:9} {path}" for name, path in files.items()),
        f"{samples.caption()}: {cost['mean']:.1f} evaluations per sample ({cost['min']} to "
        f"{cost['max']}), {summary['calls']} calls, {summary['seconds']:.1f} s",
    ]
    emit({"run": loaded.path, "out": out, **summary, "files": files}, as_json, "\n".join(text))
    if samples.failure:
        kept = f"the {int(samples.ok.sum())} that succeeded are in {out}"
        raise FloatingPointError(f"{samples.failure}; {kept}")


def _images(run: Run, count: int) -> Tensor | None:
    """What a super-resolution run starts from: held-out images made smaller, in turn."""
    from sdeflow.data import load_data
    from sdeflow.super_resolution import first_images

    config = run.config
    if not config.super_resolution:
        return None
    data = load_data(config.data, config.data_dir, config.image_size)
    return first_images(data.heldout, config.super_resolution, count)


def _read_noise(path: Path | None) -> Tensor | None:
    """The array of a .npy file, or the first of an .npz file, as a tensor."""
    if path is None:
        return None
    import numpy as np
    import torch

    from sdeflow.data.readers import read_array

    try:
        array = read_array(path)
    except ValueError as error:
        raise ValueError(f"--noise cannot be read as .npy or .npz: {error}") from None
    if array.ndim < 2 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"--noise {path} has shape {array.shape} and type {array.dtype}: need numbers (N, …)"
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(text: str | None, count: int) -> int | Tensor | None:
    """One class, or classes in turn, (count,)."""
    if text is None:
        return None
    import torch

    try:
        classes = [int(part) for part in str(text).split(",")]
    except ValueError:
        raise ValueError(f"--label is {text!r}: give classes such as 3 or 0,1,2") from None
    if len(classes) == 1:
        return classes[0]
    return torch.tensor(classes).repeat(-(-count // len(classes)))[: max(count, 0)]
