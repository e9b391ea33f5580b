"""What commands that work on the service's own data share: its configuration, its database, who typed."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doseeng.errors import ConfigError

if TYPE_CHECKING:
    from cluster.database.connection import Database
    from cluster.security.audit import AuditLog
    from cluster.service.config import ServiceConfig

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="doseeng.toml of the service; without it all is at its default.", dir_okay=False),
]
SiteName = Annotated[str, typer.Option("--site", help="Name of the site; needed where there are several.")]


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """actor: who types, for the audit log."""

    config: ServiceConfig
    database: Database
    audit: AuditLog
    actor: str

    def site(self, name: str) -> str:
        """The name of a configured site, "" for the only one. ConfigError when it is not there, or unclear which."""
        if not name:
            if len(self.config.site) > 1:
                known = ", ".join(site.name for site in self.config.site)
                raise ConfigError(f"there are several sites: say which one with --site ({known})")
            return self.config.site[0].name
        return self.config.site_named(name).name


@contextmanager
def opened(config: Path | None) -> Iterator[Opened]:
    """The service's data, with a database of the newest schema; closed afterwards."""
    from cluster.database.connection import connect
    from cluster.database.schema import upgrade
    from cluster.security.audit import ANCHOR_NAME, AuditLog
    from cluster.service.config import read_config

    settings = read_config(config)
    settings.data.mkdir(parents=True, exist_ok=True)
    database = connect(settings.database)
    try:
        upgrade(database)
        audit = AuditLog(database, settings.data / ANCHOR_NAME)
        yield Opened(settings, database, audit, f"command line ({getpass.getuser()})")
    finally:
        database.close()
