"""`constraints-oldest.txt` is what `setup.py` allows, so that the range is one that is tried."""

import re
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parent.parent
# Tools and peers, in extras of their own, are not held to a lowest version.
ELSEWHERE = {"ruff", "mypy", "torch-fidelity", "diffusers", "torchode"}


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    bounds = dict(re.findall(r'"([a-z-]+)>=([\d.]+)"', (ROOT / "setup.py").read_text()))
    text = (ROOT / "constraints-oldest.txt").read_text()
    oldest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text.lower(), re.MULTILINE))
    assert {name: Version(v) for name, v in oldest.items()} == {
        name: Version(v) for name, v in bounds.items() if name not in ELSEWHERE
    }
