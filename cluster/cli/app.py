"""The command tree and the process edge, where errors become messages and exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated, Final

import typer

import doseeng
from cluster.cli.adapt import adapt
from cluster.cli.archive import app as archive_app
from cluster.cli.audit import app as audit_app
from cluster.cli.backup import backup, restore
from cluster.cli.batch import batch
from cluster.cli.case import app as case_app
from cluster.cli.certificates import certificates
from cluster.cli.cluster import app as cluster_app
from cluster.cli.console import ExitCode, show_error
from cluster.cli.deidentify import deidentify, reidentify
from cluster.cli.demo import demo
from cluster.cli.dose import dose
from cluster.cli.evaluate import evaluate
from cluster.cli.let import let
from cluster.cli.machine import app as machine_app
from cluster.cli.remote import app as remote_app
from cluster.cli.serve import serve
from cluster.cli.users import app as user_app
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
_PANELS: Final[dict[str, tuple[Callable[..., None], ...]]] = {
    "Plans and days": (dose, evaluate, adapt, let, demo),
    "Service": (serve, batch, backup, restore),
    "Users and privacy": (certificates, deidentify, reidentify),
}
_GROUPS: Final = {
    "Plans and days": {"case": case_app, "machine": machine_app},
    "Service": {"remote": remote_app, "archive": archive_app, "cluster": cluster_app},
    "Users and privacy": {"user": user_app, "audit": audit_app},
}
for panel, commands in _PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
    for name, group in _GROUPS[panel].items():
        app.add_typer(group, name=name, rich_help_panel=panel)


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
