"""What a command imports: nothing that it does not use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("torch", "matplotlib", "accelerate", "sklearn", "scipy", "wandb", "diffusers", "pandas")
RUN = """
import json, sys
from sdeflow.cli import main
sys.argv = ["sdeflow", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
print(json.dumps({"code": code, "modules": [m for m in sys.modules if "." not in m]}))
"""


def imported(*args: str) -> set[str]:
    """Which of `SLOW` the command line imports."""
    code = [sys.executable, "-c", RUN, *args]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] in (0, None), done.stdout
    return set(SLOW) & set(found["modules"])


@pytest.mark.parametrize(
    "args",
    [("--help",), ("train", "--help"), ("sample", "--help"), ("runs", "list")],
    ids=" ".join,
)
def test_help_and_lists_need_no_torch(args: tuple[str, ...], tmp_path: Path) -> None:
    place = ("--root", str(tmp_path)) if args == ("runs", "list") else ()
    assert imported(*args, *place) == set()


def test_sampling_imports_what_it_draws_with(tmp_path: Path) -> None:
    from sdeflow.config import TrainConfig
    from sdeflow.training import train

    settings = {
        "data": "mixture", "size": "tiny", "steps": 2, "wandb": "disabled", "device": "cpu",
        "out": str(tmp_path), "name": "run",
    }  # fmt: skip
    train(TrainConfig.from_dict(settings))
    found = imported("sample", str(tmp_path / "run"), "--count", "2", "--steps", "2",
                     "--solver", "ddim")  # fmt: skip
    assert found == {"torch", "matplotlib"}
