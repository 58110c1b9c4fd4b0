"""Packaging of sdeflow: two packages, `solvers` and `sdeflow`, in one distribution."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "sdeflow" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

TEST = ["pytest>=8", "pytest-xdist>=3.5", "mpmath>=1.3", "hypothesis>=6.100"]

setup(
    name="sdeflow",
    version=VERSION,
    description="Continuous-time SDE/ODE research framework for diffusion models near zero noise",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["solvers", "solvers.*", "sdeflow", "sdeflow.*"]),
    package_data={"sdeflow": ["py.typed"], "solvers": ["py.typed"]},
    install_requires=[
        "torch>=2.4",
        "torchsde>=0.2.6",
        "torchdiffeq>=0.2.5",
        "numpy>=1.26.4",
        "einops>=0.8",
        "wandb>=0.20",
        "click>=8.3",
        "accelerate>=1.0",
        "safetensors>=0.4.3",
        "scikit-learn>=1.4",
        "scipy>=1.11.4",
        "matplotlib>=3.8",
        "pillow>=10",
        "rich>=13",
        "pyyaml>=6.0.1",
    ],
    extras_require={
        "test": TEST,
        "dev": [*TEST, "ruff>=0.6", "mypy>=1.11", "types-PyYAML"],
        "inception": ["torch-fidelity>=0.3"],
        "bench": ["diffusers>=0.30", "torchode>=1.0"],
    },
    entry_points={"console_scripts": ["sdeflow = sdeflow.cli:main"]},
)
