"""`doseeng audit`: read, verify and export the log of who saw or did what."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import ExitCode, err, out, print_json, show_line
from cluster.cli.opened import ConfigFile, SiteName, opened
from doseeng.errors import ConfigError

if TYPE_CHECKING:
    from cluster.security.audit import Anchor, AuditCheck

app = typer.Typer(no_args_is_help=True, help="The audit log: who saw or did what.")


class Format(StrEnum):
    """How rows are written for others."""

    DICOM = "dicom"
    FHIR = "fhir"


AnchorFile = Annotated[
    Path | None,
    typer.Option("--anchor", help="A copy of audit-anchor.jsonl that was kept elsewhere.", exists=True, dir_okay=False),
]
Head = Annotated[
    str, typer.Option("--head", metavar="NUMBER:DIGEST", help="A head that `verify` printed before and you kept.")
]


@app.command()
def verify(
    config: ConfigFile = None, anchor: AnchorFile = None, head: Head = "", as_json: options.Json = False
) -> None:
    """Check that nothing was changed, removed, inserted, moved or cut off. Exit code 0 intact, 2 not.

    The log proves itself row by row; that its end is all there, or that it was not made anew, only a head proves that
    was kept out of reach: keep the line that this prints.
    """
    with opened(config) as service:
        check = service.audit.verify(_anchors(anchor, head))
        if check.is_intact:
            service.audit.anchor()
    if as_json:
        print_json({**asdict(check), "is_intact": check.is_intact})
    else:
        _show(check)
    raise typer.Exit(ExitCode.GREEN if check.is_intact else ExitCode.RED)


@app.command()
def show(
    config: ConfigFile = None,
    site: SiteName = "",
    action: Annotated[str, typer.Option("--action", help="Only this action, such as 'login'.")] = "",
    since: Annotated[datetime | None, typer.Option("--since", help="Only from this time on (UTC).")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10000, help="At most so many, the newest.")] = 50,
    as_json: options.Json = False,
) -> None:
    """Show rows of a site, newest first."""
    with opened(config) as service:
        where = service.site(site)
        entries = service.audit.read(where, since and since.replace(tzinfo=UTC), limit, action)
        service.audit.append(site=where, actor=service.actor, action="audit-read", object_type="audit")
    if as_json:
        print_json({"entries": [asdict(entry) for entry in entries]})
        return
    table = Table(title="Audit log", title_justify="left")
    for heading in ("no.", "time (UTC)", "who", "what", "object", "outcome", "from"):
        table.add_column(heading, justify="right" if heading == "no." else "left")
    for e in entries:
        texts = (e.actor, e.action, f"{e.object_type} {e.object_id}".strip(), e.outcome, e.origin)
        table.add_row(str(e.sequence), f"{e.at:%Y-%m-%d %H:%M:%S}", *map(escape, texts))
    out.print(table)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, one row a line.", dir_okay=False)],
    config: ConfigFile = None,
    site: SiteName = "",
    form: Annotated[
        Format, typer.Option("--format", help="DICOM Audit Messages (XML) or FHIR R4 AuditEvents (JSON).")
    ] = Format.DICOM,
) -> None:
    """Write all rows of a site for another system, oldest first."""
    from cluster.security.auditexport import to_dicom, to_fhir

    count = 0
    with opened(config) as service, target.open("x", encoding="utf-8") as file:
        where = service.site(site)
        for entry in service.audit.entries(where):
            file.write(to_dicom(entry) if form is Format.DICOM else json.dumps(to_fhir(entry)))
            file.write("\n")
            count += 1
        details = {"rows": count, "format": form.value}
        service.audit.append(
            site=where, actor=service.actor, action="audit-export", object_type="audit", details=details
        )
    show_line(out, f"{count} rows written to {escape(str(target))}")


def _anchors(path: Path | None, head: str) -> tuple[Anchor, ...]:
    from cluster.security.audit import Anchor, read_anchors

    found = read_anchors(path)
    if head:
        number, _, digest = head.partition(":")
        if not number.isdecimal() or len(digest) != 64:
            raise ConfigError(f"--head '{head}' is none; expected NUMBER:DIGEST as `doseeng audit verify` prints it")
        found = (*found, Anchor(int(number), digest))
    return found


def _show(check: AuditCheck) -> None:
    for problem in check.problems:
        show_line(err, f"[bold red]{problem.kind}[/bold red] {escape(problem.message)}")
    if check.is_intact:
        show_line(out, f"[green]intact[/green]: {check.rows} rows, {check.anchors} anchors")
        show_line(out, f"head, to be kept elsewhere: {check.sequence}:{check.head}")
    else:
        show_line(
            err, "The log is not what was written; keep the database as it is and find out who could write to it."
        )
