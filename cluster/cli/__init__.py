"""The `doseeng` command line: one module per command, what they share in `console` and `options`."""

from cluster.cli.app import main

__all__ = ["main"]
