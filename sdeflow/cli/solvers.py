"""`sdeflow solvers`: what can be given to `--solver`."""

from __future__ import annotations

import click

from sdeflow.cli.options import common, emit

__all__ = ["command"]


@click.command("solvers")
@click.option(
    "--kind",
    type=click.Choice(["ode", "sde"]),
    help="Only those that follow the flow (ode), or only stochastic ones (sde). [default: both]",
)
@common
def command(kind: str | None, as_json: bool) -> None:
    """List the solvers: name, kind, order, adaptive or not, and where each comes from."""
    from dataclasses import asdict

    from rich import box
    from rich.table import Table

    from sdeflow.samplers import DEFAULT_SOLVER, samplers

    chosen = [s for s in samplers() if kind is None or (s.kind == "ode") == (kind == "ode")]
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"{len(chosen)} solvers; the default is {DEFAULT_SOLVER}. Adaptive ones choose "
        "their steps by --rtol and --atol, unless --steps or --grid is given. Chains have no "
        "--chart, multistep methods no scale x.",
        caption_justify="left",
    )
    for title in ("name", "kind", "order", "adaptive", "chart", "from"):
        table.add_column(title, justify="right" if title == "order" else "left", no_wrap=True)
    table.add_column("what it is")
    for s in chosen:
        adaptive = "yes" if s.adaptive else "no"
        table.add_row(s.name, s.kind, f"{s.order:g}", adaptive, s.chart, s.source, s.about)
    emit({"default": DEFAULT_SOLVER, "solvers": [asdict(s) for s in chosen]}, as_json, table)
