"""The command line as a shell sees it: start-up, help, configuration files, output streams."""

import json
import os
import signal
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

import sdeflow
from sdeflow.cli import cli
from sdeflow.cli.options import common, emit, plain
from sdeflow.config import TrainConfig, options

COMMANDS = ["train", "sample", "solvers", "runs", "steps", "lipschitz", "sensitivity"]
SLOW_LIBRARIES = ["torch", "wandb", "sklearn", "matplotlib", "scipy", "accelerate", "numpy"]


def run(*args, **kwargs):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="sdeflow", **kwargs)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["train", "--help"], ["nonsense"]])
def test_help_imports_nothing_slow(args):
    # What takes time at start-up is importing; so the test is what was imported, not a clock.
    code = (
        "import sys\nfrom sdeflow.cli import cli\n"
        f"try: cli.main({args!r})\nexcept SystemExit: pass\n"
        f"print([m for m in {SLOW_LIBRARIES!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_help_lists_the_commands():
    for result in (run("--help"), run()):
        assert result.exit_code == 0
        for name in COMMANDS:
            assert f"\n  {name} " in result.stdout


def test_version():
    assert run("--version").stdout.strip() == f"sdeflow, version {sdeflow.__version__}"


def leaves(group, path=()):
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(("path", "command"), list(leaves(cli)), ids=lambda p: str(p)[:30])
def test_every_option_is_explained_with_its_default(path, command):
    assert command.help
    names = [p.name for p in command.params]
    assert "config" in names
    assert "as_json" in names
    for option in command.params:
        if not isinstance(option, click.Option) or option.name == "help":
            continue
        assert option.help, option.name
        if not (option.is_flag and not option.secondary_opts) and option.name != "config":
            assert "default: " in option.help or option.show_default, option.name


def test_train_has_one_option_per_field():
    command = cli.get_command(click.Context(cli), "train")
    names = [p.name for p in command.params]
    assert [n for n in names if n not in ("dry_run", "config", "as_json")] == [
        o.name for o in options()
    ]
    defaults = {p.name: p.default for p in command.params}
    for name, value in TrainConfig().to_dict().items():
        assert value is None or defaults[name] == value


@click.command("probe")
@click.argument("place", required=False)
@click.option("--t-min", type=float, default=0.5)
@click.option("--breaks/--no-breaks", default=True)
@click.option("--count", type=int, default=None)
@common
def probe(as_json, **values):
    emit(values, as_json, "for people")


def invoke_probe(*args):
    return CliRunner().invoke(probe, [str(a) for a in args])


def test_config_file_gives_defaults_and_flags_win(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("t-min: 1e-3\nbreaks: false\ncount: null\nplace: here\n")
    result = json.loads(invoke_probe("--config", file, "--json").stdout)
    assert result == {"place": "here", "t_min": 1e-3, "breaks": False, "count": None}
    result = json.loads(invoke_probe("--t-min", 0.1, "--config", file, "--json", "there").stdout)
    assert result == {"place": "there", "t_min": 0.1, "breaks": False, "count": None}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t_mni: 1", "unknown key 't_mni'; did you mean t_min?"),
        ("as_json: true", "unknown key 'as_json'"),
        ("- 1", "no mapping"),
        ("a: [", "cannot be read"),
        ("count: many", "'many' is not a valid integer"),
        ("count: [1, 2]", "count must be one value"),
        ("t_min: {a: 1}", "t_min must be one value"),
        ("count: .inf", "'inf' is not a valid integer"),
        ("t_min: 2026-01-01", "'2026-01-01' is not a valid float"),
        ("breaks: 1.5", "'1.5' is not a valid boolean"),
    ],
)
def test_config_file_with_mistakes_is_refused(tmp_path, text, says):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    result = invoke_probe("--config", file)
    assert result.exit_code == 2
    assert says in result.stderr


def test_json_alone_is_on_stdout():
    result = invoke_probe("--json")
    json.loads(result.stdout)
    assert result.stderr == "for people\n"
    result = invoke_probe()
    assert result.stdout == "for people\n"
    assert result.stderr == ""


def test_json_has_no_nan():
    import numpy as np
    import torch

    given = {"a": np.float64("nan"), "b": np.arange(2), "c": (torch.tensor(2.5), float("inf"))}
    assert plain(given) == {"a": None, "b": [0, 1], "c": [2.5, None]}


def solver_error():
    import torch

    from solvers import odeint

    odeint(lambda t, y: y / 0, torch.ones(2, 1), 0.0, 1.0)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (terminate, 143, "terminated"),
        (ValueError("two\n  lines"), 2, "two lines"),
        (click.UsageError("no"), 2, "no"),
        (PermissionError(13, "Permission denied", "runs"), 2, "runs: Permission denied"),
        (FloatingPointError("diverged"), 3, "diverged"),
        (solver_error, 3, "non_finite"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_one_line_and_a_code(error, code, says, monkeypatch):
    from sdeflow.cli import solvers

    def fail(**_):
        if callable(error):
            error()
        raise error

    monkeypatch.setattr(solvers.command, "callback", fail)
    result = run("solvers")
    assert result.exit_code == code
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sdeflow: error: ")
    assert says in lines[0]


def test_stopped_training_says_how_to_go_on(monkeypatch):
    from sdeflow.cli import solvers
    from sdeflow.training import TrainingInterrupted

    def stop(**_):
        raise TrainingInterrupted("go on with --resume", 15)

    monkeypatch.setattr(solvers.command, "callback", stop)
    result = run("solvers")
    assert (result.exit_code, result.stderr) == (143, "sdeflow: error: go on with --resume\n")


def test_bugs_keep_their_traceback(monkeypatch):
    from sdeflow.cli import solvers

    def bug(**_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(solvers.command, "callback", bug)
    assert isinstance(run("solvers").exception, RuntimeError)
