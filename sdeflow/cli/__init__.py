"""The command line: one file per command, each a thin layer over a function of the library.

Importing this package imports neither torch nor any other slow library; a command does so when it
runs.
"""

from sdeflow.cli.group import cli

__all__ = ["cli", "main"]

main = cli
