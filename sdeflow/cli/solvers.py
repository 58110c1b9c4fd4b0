"""`sdeflow solvers`: what can be given to `--solver`."""

from __future__ import annotations

import click

from sdeflow.cli.options import common


@click.command("solvers")
@click.option(
    "--kind", type=click.Choice(["ode", "sde"]), help="Only solvers of this kind; default: both."
)
@common
def command(kind: str | None, as_json: bool) -> None:
    """List the solvers: name, kind, order, adaptive or not, and where each comes from."""
    raise NotImplementedError
