"""Run the benchmarks, keep their figures, and print the ratio of each to the last time's.

    python benchmarks/record.py [NAME ...] [--out benchmarks/results]

Each benchmark prints its figures as JSON; together they become OUT/DATE.json, beside those of
before. A ratio of two runs on a machine that others use is worth little; ratios between
contestants of one run, which interleave, are among the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BENCHMARKS = {
    "nfe": ("--peers",),
    "overhead": ("--peers",),
    "training": ("--peers",),
    "sampling": (),
    "scaling": ("cost", "--out", str(HERE / "results")),
    "startup": (),
}


def flat(values: Any, name: str = "") -> dict[str, float]:
    """The numbers in nested dictionaries and lists, by path."""
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list):
        items = {str(i): value for i, value in enumerate(values)}.items()
    elif isinstance(values, (int, float)) and not isinstance(values, bool):
        return {name: float(values)}
    else:
        return {}
    found: dict[str, float] = {}
    for key, value in items:
        found |= flat(value, f"{name}.{key}" if name else str(key))
    return found


def figures(name: str) -> Any:
    """What one benchmark measures.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, str(HERE / f"{name}.py"), *BENCHMARKS[name], "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where records are")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    records = sorted(options.out.glob("*.json"))
    before = flat(json.loads(records[-1].read_text())) if records else {}
    measured = {}
    for name in options.names or BENCHMARKS:
        print(f"running {name}", file=sys.stderr)
        measured[name] = figures(name)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / time.strftime("%Y%m%d-%H%M%S.json", time.gmtime())
    path.write_text(json.dumps(measured, indent=1) + "\n")
    print(f"{'':52}{'now':>12}{'ratio to last':>16}")
    for name, value in flat(measured).items():
        ratio = f"{value / before[name]:.2f}" if before.get(name) else "-"
        print(f"{name:52}{value:12.4g}{ratio:>16}")
    print(f"written to {path}" + (f", compared with {records[-1]}" if records else ""))


if __name__ == "__main__":
    main()
