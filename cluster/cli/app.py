"""The command tree and the process edge, where errors become messages and exit codes."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

import doseeng
from cluster.cli.adapt import adapt
from cluster.cli.case import app as case_app
from cluster.cli.console import ExitCode, show_error
from cluster.cli.demo import demo
from cluster.cli.dose import dose
from cluster.cli.evaluate import evaluate
from cluster.cli.let import let
from cluster.cli.machine import app as machine_app
from doseeng.errors import DoseengError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help=(
        "Dose evaluation for radiotherapy: a DICOM plan in, a verdict with its evidence out.\n\n"
        "Exit codes: 0 GREEN (or done), 1 AMBER, 2 RED, 3 UNEVALUABLE, 4 error, 130 interrupted. "
        "A research and quality-assurance tool: it never releases a treatment."
    ),
)
app.command()(adapt)
app.command()(demo)
app.command()(dose)
app.command()(evaluate)
app.command()(let)
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
    """Run the command line; the console script.

    Whatever goes wrong ends with code 4: Python's own 1 and typer's 2 would be taken for AMBER and RED.
    """
    as_json = "--json" in sys.argv
    try:
        app()
    except DoseengError as error:
        show_error(type(error).__name__, str(error), as_json)
    except OSError as error:
        what = f"{error.strerror or error}: '{error.filename}'" if error.filename else str(error)
        show_error(type(error).__name__, f"{what}; check path, space and permissions", as_json)
    except SystemExit as ended:
        cause = ended.__context__
        if ended.code == ExitCode.INTERRUPTED:
            show_error("Interrupted", "stopped before it was done; nothing is left half-written", as_json)
        if isinstance(cause, typer.Exit):
            raise
        if as_json:
            text = cause.format_message() if isinstance(cause, typer.BadParameter) else str(cause)
            show_error("UsageError", text, as_json)
    except Exception as error:
        logging.getLogger("doseeng").exception("this is a bug in doseeng; please report it with the lines below")
        if as_json:
            show_error(type(error).__name__, "unexpected; this is a bug in doseeng", as_json)
    sys.exit(ExitCode.ERROR)
