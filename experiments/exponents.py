r"""How E||d eps/dt|| grows as t -> 0, for every process, on exact models of two kinds of data.

    growth     p in E||d eps/dt|| ~ t^p, fitted between 1e-8 and 1e-5, with its standard error
    in sigma   E||d eps/d sigma|| at t = 1e-8 and at 1e-5

`python experiments/exponents.py --out DIR` prints the table of docs/singularity.md and writes it
as exponents.csv and exponents.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdeflow.instruments.lipschitz import lipschitz_study, singular_exponent
from sdeflow.oracle import make_oracle
from sdeflow.plots import write_csv
from sdeflow.sde import SDE, VE, make_sde

DATA = {"mixture, width 0.1": "mixture", "finite set (digits)": "finite"}
PROCESSES: dict[str, SDE] = {
    "VP linear": make_sde("vp"),
    "VP quadratic": make_sde("vp", "quadratic"),
    "VP cosine": make_sde("vp", "cosine"),
    "VP zero-SNR": make_sde("vp", "zero-snr"),
    "VP trig": make_sde("vp", "trig"),
    "VP linear, smooth start 0.1": make_sde("vp", smooth_start=0.1),
    "sub-VP linear": make_sde("subvp"),
    "VE sigma = 80 t": make_sde("edm"),
    "VE geometric, sigma(0) = 0.01": VE(),
}
ENDS = (1e-8, 1e-5)


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """A line of the table per data and process."""
    for data, spec in DATA.items():
        for process, sde in PROCESSES.items():
            oracle = make_oracle(spec, sde)
            fit = singular_exponent(oracle, low=ENDS[0], high=ENDS[1], count=count, seed=seed)
            study = lipschitz_study(
                oracle, times=ENDS, steps=(), measure=("noise",), count=count, seed=seed
            )
            low, high = (row["per_sigma"] for row in study.curve if row["quantity"] == "total")
            yield {
                "data": data,
                "process": process,
                "growth": fit.value,
                "error": fit.error,
                "in_sigma_at_1e-8": low,
                "in_sigma_at_1e-5": high,
            }


def main() -> None:
    """Print the table; write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=256, help="samples at each time")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--out", type=Path, help="directory for exponents.csv and .json")
    given = parser.parse_args()
    print("| data | process | growth, power of t | in sigma, t = 1e-8 | t = 1e-5 |")
    print("|---|---|---|---|---|")
    table = []
    for row in rows(given.count, given.seed):
        table.append(row)
        low, high = row["in_sigma_at_1e-8"], row["in_sigma_at_1e-5"]
        growth = f"{row['growth']:.4f} +- {row['error']:.1g}"
        print(
            f"| {row['data']} | {row['process']} | {growth} | {low:.3g} | {high:.3g} |", flush=True
        )
    if given.out:
        write_csv(given.out / "exponents.csv", {key: [r[key] for r in table] for key in table[0]})
        text = json.dumps({"count": given.count, "seed": given.seed, "rows": table}, indent=2)
        (given.out / "exponents.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
