"""`doseeng certificates`: TLS certificates for development."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cluster.cli import options
from cluster.cli.console import err, out, print_json, show_line

DEVELOPMENT = "for development: anyone with authority.key can pretend to be anyone; a clinic uses its own authority"

Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to.", file_okay=False)]
Hosts = Annotated[list[str], typer.Option("--host", help="Name or address clients call the server by; repeatable.")]
Days = Annotated[int, typer.Option("--days", min=1, max=825, help="How long they are valid.")]


def certificates(folder: Out, host: Hosts, days: Days = 365, as_json: options.Json = False) -> None:
    """Make an authority, a server and a client certificate for development, not for clinical use."""
    from cluster.security.certificates import make_certificates

    made = make_certificates(folder, host, days)
    if as_json:
        print_json({**{name: str(path) for name, path in asdict(made).items()}, "note": DEVELOPMENT})
        return
    show_line(err, f"[yellow]![/yellow] These certificates are {DEVELOPMENT}.")
    for table, pair in (("api", (made.server, made.server_key)), ("dicom", (made.server, made.server_key))):
        out.print(f"\n[bold]{escape(f'[{table}.tls]')}[/bold]")
        for key, path in zip(("certificate", "key"), pair, strict=True):
            show_line(out, escape(f'{key} = "{path.absolute()}"'))
    show_line(out, escape(f'authority = "{made.authority.absolute()}"   # only to ask clients for certificates'))
    show_line(out, escape(f"\nclients: --cacert {made.authority} --cert {made.client} --key {made.client_key}"))
