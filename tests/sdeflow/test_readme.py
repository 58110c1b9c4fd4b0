"""What the README shows works as it stands."""

import re
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class MyNetwork(torch.nn.Module):
    """A module that knows nothing of sdeflow."""

    def forward(self, x, c):
        return x * torch.cos(c).view(-1, 1, 1, 1)


def test_python_runs():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    lines = [line for line in block.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 10
    names = {"MyNetwork": MyNetwork}
    exec(compile(block, "README.md", "exec"), names)
    assert names["samples"].x.shape == (64, 1, 28, 28)
    assert names["score"].shape == (64, 1, 28, 28)
    # The network above is x cos(c): flat in each of the shared intervals, steep outside them.
    assert len(names["study"].jumps) == 5 * 4


@pytest.mark.parametrize("page", ["README.md", *sorted(p.name for p in ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_dependency_is_explained():
    table = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"install_requires=\[(.*?)\]", setup, re.S)
    for name in re.findall(r'"([A-Za-z0-9_-]+)', block):
        assert f"| {name} |" in table, name


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2306.11251"
    assert len(paper["authors"]) == 11
    from sdeflow import __version__

    assert citation["version"] == __version__


def test_every_block_of_the_library_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(block, "library.md", "exec"), names)
    torch.testing.assert_close(names["again"].x, names["samples"].x[:8], atol=1e-2, rtol=0)
    assert (tmp_path / "runs" / "circle" / "config.yaml").is_file()
    assert {"steepness/lipschitz.png", "budget/budget.png"} <= {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*.png")
    }
    # sigma = t starts flat: the derivative in time of smooth data stays bounded.
    assert names["mine"].sigma(torch.tensor([0.25], dtype=torch.float64)).item() == 0.25
