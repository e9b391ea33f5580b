"""The command tree and the process edge, where errors become messages and exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import doseeng
from cluster.cli.case import app as case_app
from cluster.cli.console import ExitCode, show_error
from cluster.cli.demo import demo
from cluster.cli.dose import dose
from cluster.cli.evaluate import evaluate
from cluster.cli.machine import app as machine_app
from doseeng.errors import DoseengError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help=(
        "Dose evaluation for radiotherapy: a DICOM plan in, a verdict with its evidence out.\n\n"
        "Exit codes: 0 GREEN (or done), 1 AMBER, 2 RED, 3 UNEVALUABLE, 4 error. "
        "A research and quality-assurance tool: it never releases a treatment."
    ),
)
app.command()(demo)
app.command()(dose)
app.command()(evaluate)
app.add_typer(case_app, name="case")
app.add_typer(machine_app, name="machine")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"doseeng {doseeng.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the console script."""
    try:
        app()
    except DoseengError as error:
        show_error(error, as_json="--json" in sys.argv)
        sys.exit(ExitCode.ERROR)
