"""`solvers` is a library of its own: it never imports `sdeflow`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import solvers

FILES = sorted(Path(solvers.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_names_the_other_package(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "sdeflow" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = node.level > 0
            assert inside or (node.module or "").split(".")[0] not in ("sdeflow", "solvers")


def test_importing_the_library_leaves_the_other_package_out() -> None:
    code = "import sys, solvers; print([m for m in sys.modules if m.split('.')[0] == 'sdeflow'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
