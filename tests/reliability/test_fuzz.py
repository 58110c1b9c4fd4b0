"""Readers of files under random changes of good files: a value, or ValueError in one line."""

import random
from pathlib import Path

import pytest
from reliability.fuzz import Target, changed, fuzz, reached, targets


@pytest.mark.parametrize("name", [target.name for target in targets()])
def test_readers_take_what_comes(name: str, tmp_path: Path) -> None:
    """The same 150 cases each time; many more: `python tests/reliability/fuzz.py`."""
    (target,) = (target for target in targets() if target.name == name)
    fuzz(target, tmp_path, random.Random(name), cases=150, seconds=60)
    assert target.cases == 150
    assert target.findings == []


def test_the_fuzzer_finds_what_is_there(tmp_path: Path) -> None:
    """It is led by the lines it reaches, and reports what is no ValueError of one line."""

    def fragile(path: Path) -> None:
        if path.read_bytes()[:1] != b"a":
            raise KeyError("x")

    target = Target("fragile", [b"aaaa"], "f", fragile)
    fuzz(target, tmp_path, random.Random(0), cases=50, seconds=60)
    assert any(finding.startswith("KeyError") for finding in target.findings)
    lines, wrong = reached(lambda: changed(b"", [b""], random.Random(0)))
    assert not lines
    assert not wrong
