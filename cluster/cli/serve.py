"""`doseeng serve`: the whole service on this machine, from nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli.console import err, out, show_line
from cluster.cli.opened import ConfigFile
from doseeng.errors import ConfigError

FIRST_USER: Final = "operator"
TOKEN_DAYS: Final = 90

Parts = Annotated[
    list[str] | None,
    typer.Option("--part", help="Start only this part (api, node, driver, messenger); repeatable."),
]


def serve(config: ConfigFile = None, part: Parts = None) -> None:
    """Start the service: HTTP API, DICOM node, driver of jobs, messenger of flags. Ends with Ctrl-C.

    On a fresh machine nothing needs to be prepared: the database is made, a first user gets a token, and the node
    takes what systems of this machine send. Parts that die are started again; jobs go on where they were. More
    machines: give all of them one PostgreSQL, one storage and `--part driver`.
    """
    from cluster.service.config import read_config
    from cluster.service.supervisor import PARTS, Supervisor, only_one, stop_on_signals

    parts = tuple(part or PARTS)
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise ConfigError(f"--part {unknown[0]}: is no part of the service; expected {', '.join(PARTS)}")
    settings = read_config(config)
    release = only_one(settings.data)
    stop = threading.Event()
    stop_on_signals(stop)
    supervisor = Supervisor(config and config.absolute(), settings.data / "run", parts)
    try:
        token_file = _prepare(settings)
        with err.status("Starting", spinner="dots"):
            states = supervisor.start()
        _show(settings, states, token_file)
        supervisor.watch(stop)
        show_line(err, "Stopping: what is running is finished or given back ...")
    finally:
        supervisor.stop()
        release()


def _prepare(config: Any) -> Path | None:
    """Schema and first user; where that user's token was written, if it was made now."""
    import os

    from cluster.security.access import Role
    from cluster.security.audit import Action
    from cluster.service.services import open_services

    services = open_services(config)
    try:
        site = config.site[0].name
        if any(services.users.list(entry.name) for entry in config.site):
            return None
        services.users.add(site, FIRST_USER, Role.PHYSICIST)
        token = services.users.issue_token(site, FIRST_USER, "first token", TOKEN_DAYS)
        services.audit.append(
            site=site, actor="doseeng serve", action=Action.USER_ADD, object_type="user", object_id=FIRST_USER
        )
        path: Path = config.data / f"{FIRST_USER}.token"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token)
        return path
    finally:
        services.close()


def _show(config: Any, states: dict[str, dict[str, Any]], token_file: Path | None) -> None:
    table = Table(title="doseeng is running", title_justify="left", show_header=False)
    table.add_column()
    table.add_column()
    if "api" in states:
        scheme = "http" if config.api.tls is None else "https"
        base = f"{scheme}://{states['api']['host']}:{states['api']['port']}"
        table.add_row("HTTP API", f"{base}/api/v1 (described at {base}/api/v1/openapi.json)")
    if "node" in states:
        node = states["node"]
        secure = " with TLS" if config.dicom.tls else ""
        table.add_row("DICOM node", escape(f"{node['ae_title']} at {node['host']}:{node['port']}{secure}"))
    if "driver" in states:
        table.add_row("computing", escape(str(states["driver"]["executor"])))
    table.add_row("sites", escape(", ".join(site.name for site in config.site)))
    table.add_row("data", escape(str(config.data.absolute())))
    if token_file is not None:
        table.add_row("first user", escape(f"{FIRST_USER} (physicist), token in {token_file}"))
    out.print(table)
    out.print("[dim]Research and quality-assurance tool: it does not release a treatment. Ctrl-C stops it.[/dim]")
