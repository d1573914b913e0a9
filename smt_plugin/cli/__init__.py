"""The command line, a file a stage."""

from smt_plugin.cli.app import cli, main

__all__ = ["cli", "main"]
