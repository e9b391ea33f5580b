"""`doseeng backup` and `doseeng restore`: everything the service must not lose, as one file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cluster.cli import options
from cluster.cli.console import ExitCode, err, out, print_json, progress_bar, show_line
from cluster.cli.opened import ConfigFile

if TYPE_CHECKING:
    from cluster.operations.backupfile import BackupSummary

_MOST_SHOWN = 5

BackupFile = Annotated[Path, typer.Argument(metavar="FILE.tar", help="The backup.", dir_okay=False)]
Secrets = Annotated[
    bool,
    typer.Option(
        "--secrets",
        help="Also users with password hashes, API tokens, and the secrets that pseudonyms are made with. Keep such a "
        "file like a key.",
    ),
]


def backup(
    file: BackupFile, config: ConfigFile = None, secrets: Secrets = False, as_json: options.Json = False
) -> None:
    """Copy database, objects and results of the service into one file, while it runs.

    The file holds patients' data, and only its owner may read it. What doseeng.toml names (certificates, goals) is not
    in it. Exit code 4 when something that the database refers to was not there: the rest is in the file.
    """
    from cluster.operations.backup import make_backup
    from cluster.service.config import read_config

    settings = read_config(config)
    options.require_writable(file)
    with progress_bar("Copying", quiet=as_json) as progress:
        summary = make_backup(settings, file, secrets, progress)
    if as_json:
        print_json({**_plain(summary), "file": str(file)})
    else:
        _show(summary, file)
        if not secrets:
            show_line(
                err, "[yellow]![/yellow] Without --secrets: users, tokens and secrets of pseudonyms are not in it."
            )
    raise typer.Exit(ExitCode.ERROR if summary.missing else ExitCode.GREEN)


def restore(
    file: BackupFile,
    config: ConfigFile = None,
    check: Annotated[bool, typer.Option("--check", help="Only read the file and compare all checksums.")] = False,
    as_json: options.Json = False,
) -> None:
    """Bring a backup into an empty data_dir, database and blob store, and verify it.

    Exit code 0 when everything is there and the audit log verifies, 2 when the audit log does not.
    """
    from cluster.operations.backup import restore_backup
    from cluster.operations.backupfile import verify_backup
    from cluster.service.config import read_config

    if check:
        with progress_bar("Checking", quiet=as_json) as progress:
            summary = verify_backup(file, progress)
        is_intact = True
    else:
        settings = read_config(config)
        with progress_bar("Restoring", quiet=as_json) as progress:
            summary, audit = restore_backup(settings, file, progress)
        is_intact = audit.is_intact
    if as_json:
        print_json({**_plain(summary), "audit_is_intact": None if check else is_intact})
    else:
        _show(summary, file)
        if not is_intact:
            show_line(err, "[bold red]The audit log does not verify[/bold red]: see `doseeng audit verify`.")
    raise typer.Exit(ExitCode.GREEN if is_intact else ExitCode.RED)


def _show(summary: BackupSummary, file: Path) -> None:
    words = "with" if summary.secrets else "without"
    show_line(
        out,
        f"{escape(str(file))}: {len(summary.members)} files, {summary.size / 1e6:.1f} MB, made {summary.made_at} by "
        f"doseeng {summary.version}, {words} secrets",
    )
    if summary.missing:
        show_line(err, f"[bold red]{len(summary.missing)} files that the database refers to were not there:[/bold red]")
        for name in summary.missing[:_MOST_SHOWN]:
            show_line(err, f"  {escape(name)}")


def _plain(summary: BackupSummary) -> dict[str, object]:
    return {**asdict(summary), "members": len(summary.members), "bytes": summary.size}
