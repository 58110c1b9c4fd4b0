"""Any values for any options, given or from a file: a result or one line, never a traceback, never
half a file.

SDEFLOW_EXAMPLES=2000 tries as many command lines; by default they are always the same ones.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reliability.workers import tiny

from sdeflow.cli import cli
from sdeflow.files import SUMS, verify_sums
from sdeflow.training import train

EXAMPLES = int(os.environ.get("SDEFLOW_EXAMPLES", "25"))

ODD = ["", " ", "nan", "inf", "-inf", "1e400", "-1", "0", "-0.0", "1e-320", "0x10", "1_0", "é",
       "../up", "..", "/", "~", "a/b", "[1,2", "[0.01, 0.5]", "{}", "null", "true", "0,1,2", ",",
       "--", "%s", "$(id)", "x" * 300, "\u202e", "\U0001f600", "log-snr", "x/time", "karras:-1",
       "time:", "mixture", "auto", "none", "99999999999999999999999"]  # fmt: skip

SMALL = {
    "train": ["--data", "mixture", "--size", "tiny", "--steps", "2", "--batch-size", "4",
              "--wandb", "disabled", "--device", "cpu", "--name", "made"],
    "sample": ["--count", "2", "--solver", "ddim", "--steps", "2", "--device", "cpu"],
    "evaluate": ["--count", "8", "--solver", "ddim", "--steps", "2", "--neighbours", "2",
                 "--resamples", "2", "--device", "cpu"],
    "likelihood": ["--count", "2", "--rtol", "0.1", "--atol", "0.1", "--device", "cpu"],
    "steps": ["--count", "2", "--solver", "ddim", "--device", "cpu"],
    "lipschitz": ["--count", "4", "--device", "cpu"],
    "plan": ["--data", "mixture", "--size", "tiny", "--batch-size", "4", "--device", "cpu"],
    "sensitivity": ["--count", "4", "--device", "cpu"],
    "partition": ["--intervals", "2"],
    "solvers": [],
}  # fmt: skip
WRITTEN = ["{a: 1}", "[1, 2]", "[[0]]", "yes", "1.5", "-1", "2026-01-01", "2026-99-99", "null",
           "!!binary aGk=", "!!set {a}", ".nan", ".inf", "0x10", "''", "? [a]", "a: b", "*x",
           "!!python/name:os.system", "- a"]  # fmt: skip
SKIPPED = {"--config", "--help", "--json", "--model", "--inception-weights"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
        yield train(tiny(tmp_path_factory.mktemp("runs"), steps=4, batch_size=8)).path


def options_of(name: str) -> list[click.Option]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return [
        option
        for option in command.params
        if isinstance(option, click.Option) and not set(option.opts) & SKIPPED
    ]


Line = tuple[str, list[str], str | None]


@st.composite
def command_lines(draw: st.DrawFn) -> Line:
    """A quick command, up to three of its options with values of any kind, a file of options."""
    name = draw(st.sampled_from(sorted(SMALL)))
    args = list(SMALL[name])
    chosen = draw(st.lists(st.sampled_from(options_of(name)), min_size=1, max_size=3))
    for option in chosen:
        flags = [*option.opts, *option.secondary_opts]
        if option.is_flag or option.secondary_opts:
            args.append(draw(st.sampled_from(flags)))
            continue
        values = st.sampled_from(ODD) | st.text(max_size=8)
        if isinstance(option.type, click.Choice):
            values = st.sampled_from(list(option.type.choices)) | values
        if option.type.name == "float":
            values = st.floats().map(repr) | st.floats(0, 1).map(repr) | values
        if option.type.name == "integer":
            values = st.integers(-2, 6).map(str) | st.integers().map(str) | values
        value = draw(values)
        if "\0" in value:  # no operating system passes one on
            value = value.replace("\0", "")
        if _expensive(option, value):
            continue
        args += [option.opts[0], value]
    return name, args, draw(st.none() | written(name))


@st.composite
def written(draw: st.DrawFn, name: str) -> str:
    """A file of options with values of any type."""
    names = [str(option.name) for option in options_of(name)]
    chosen = draw(st.dictionaries(st.sampled_from(names), st.sampled_from(WRITTEN), max_size=2))
    return "".join(f"{key}: {value}\n" for key, value in chosen.items())


def _expensive(option: click.Option, value: str) -> bool:
    """Valid, but hours of work or all the memory: that is no error."""
    try:
        number = float(value)
    except ValueError:
        return False
    large = option.type.name == "integer" and 64 < number < 1e18 and option.name != "seed"
    tight = option.name in ("rtol", "atol", "tolerance") and 0 < number < 1e-6
    return large or tight


@settings(
    max_examples=EXAMPLES,
    derandomize="SDEFLOW_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(command_lines())
def test_any_command_line_ends_in_good_order(
    trained: Path,
    tmp_path_factory: pytest.TempPathFactory,
    line: tuple[str, list[str], str | None],
) -> None:
    name, args, file = line
    here = tmp_path_factory.mktemp("case")
    before = Path.cwd()
    os.chdir(here)
    try:
        shutil.copytree(trained, here / "runs" / "run")
        if file is not None:
            Path("options.yaml").write_text(file + "# the end\n")
            args = ["--config", "options.yaml", *args]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sdeflow.training.recorder.Preview.draw", lambda *_: iter(()))
            result = CliRunner().invoke(cli, [name, *args], prog_name="sdeflow")
    finally:
        os.chdir(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback: {[name, *args]}") from result.exception
    assert result.exit_code in (0, 2, 3), (args, result.stderr)
    errors = [text for text in result.stderr.splitlines() if text.startswith("sdeflow: error:")]
    assert len(errors) == (result.exit_code != 0), (args, result.stderr)
    if errors:
        assert result.stderr.rstrip().splitlines()[-1] == errors[0]
    _check_files(here)
    shutil.rmtree(here)


def _check_files(here: Path) -> None:
    for path in here.rglob("*"):
        assert not path.name.startswith(".") or path.name == ".features", path
        if path.name == SUMS:
            assert verify_sums(path.parent) == []
        if path.name != "metrics.jsonl":
            assert path.is_dir() or path.stat().st_size > 0, path
    assert {path.name for path in here.parent.iterdir()} >= {here.name}
