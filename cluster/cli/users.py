"""`doseeng user`: who may use the service, and by which tokens."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from cluster.cli import options
from cluster.cli.console import err, out, print_json, show_line
from cluster.cli.opened import ConfigFile, Opened, SiteName, opened
from cluster.security.access import Role
from doseeng.errors import AccessError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.security.users import Users

TOKEN_DAYS: Final = 90

app = typer.Typer(no_args_is_help=True, help="Users of the service and their tokens.")
token_app = typer.Typer(no_args_is_help=True, help="Tokens for scripts and programs.")
app.add_typer(token_app, name="token")

Name = Annotated[str, typer.Argument(help="User name.")]
RoleOption = Annotated[Role, typer.Option("--role", help="What the user may do.")]
AskPassword = Annotated[
    bool, typer.Option("--password/--no-password", help="Ask for a password (or read one line of standard input).")
]
Subject = Annotated[str, typer.Argument(help="The user's name at the OpenID Connect provider; '' for none.")]


@app.command()
def add(
    name: Name, role: RoleOption, config: ConfigFile = None, site: SiteName = "", password: AskPassword = True
) -> None:
    """Add a user. Without a password they come by token or OpenID Connect."""
    secret = _asked(name) if password else None
    with _users(config) as (service, users):
        where = service.site(site)
        users.add(where, name, role, secret)
        _noted(service, where, "user-add", name, role=role.value)
        show_line(out, f"{escape(name)} may now use site {escape(where)} as {role.value}.")


@app.command("list")
def list_users(config: ConfigFile = None, site: SiteName = "", as_json: options.Json = False) -> None:
    """List the users of a site."""
    with _users(config) as (service, users):
        found = users.list(service.site(site))
    if as_json:
        print_json({"users": [asdict(user) for user in found]})
        return
    table = Table(title="Users", title_justify="left")
    for heading in ("name", "role", "state", "password", "OpenID Connect"):
        table.add_column(heading)
    for user in found:
        state = "disabled" if user.disabled else "locked after wrong passwords" if user.is_locked else "enabled"
        table.add_row(
            escape(user.name), user.role.value, state, "yes" if user.has_password else "no", escape(user.subject)
        )
    out.print(table)


@app.command()
def disable(name: Name, config: ConfigFile = None, site: SiteName = "") -> None:
    """Refuse a user and all their tokens from now on."""
    with _users(config) as (service, users):
        where = service.site(site)
        users.disable(where, name)
        _noted(service, where, "user-disable", name)


@app.command()
def enable(name: Name, config: ConfigFile = None, site: SiteName = "") -> None:
    """Let a disabled user in again."""
    with _users(config) as (service, users):
        where = service.site(site)
        users.enable(where, name)
        _noted(service, where, "user-change", name, enabled=True)


@app.command()
def role(name: Name, role: RoleOption, config: ConfigFile = None, site: SiteName = "") -> None:
    """Give a user another role."""
    with _users(config) as (service, users):
        where = service.site(site)
        users.set_role(where, name, role)
        _noted(service, where, "user-change", name, role=role.value)


@app.command()
def subject(name: Name, subject: Subject, config: ConfigFile = None, site: SiteName = "") -> None:
    """Say by which name the OpenID Connect provider knows a user."""
    with _users(config) as (service, users):
        where = service.site(site)
        users.set_subject(where, name, subject)
        _noted(service, where, "user-change", name, subject=bool(subject))


@app.command()
def password(name: Name, config: ConfigFile = None, site: SiteName = "") -> None:
    """Give a user a new password; opens a locked account and ends the user's logins."""
    secret = _asked(name)
    with _users(config) as (service, users):
        where = service.site(site)
        users.set_password(where, name, secret)
        _noted(service, where, "user-change", name, password=True)


@token_app.command("add")
def add_token(
    name: Name,
    label: Annotated[str, typer.Option("--label", help="What it is for, such as 'nightly export'.")],
    config: ConfigFile = None,
    site: SiteName = "",
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it is valid.")] = TOKEN_DAYS,
) -> None:
    """Issue a token, shown here and never again: on standard output, and nothing else is."""
    with _users(config) as (service, users):
        where = service.site(site)
        made = users.issue_token(where, name, label, days)
        _noted(service, where, "token-issue", name, label=label, days=days)
    show_line(err, f"Token of {escape(name)} for {days} days; keep it as you would a password:")
    typer.echo(made)


@token_app.command("list")
def list_tokens(config: ConfigFile = None, site: SiteName = "", as_json: options.Json = False) -> None:
    """List the tokens of a site, without the tokens themselves."""
    with _users(config) as (service, users):
        found = users.tokens(service.site(site))
    if as_json:
        print_json({"tokens": [asdict(token) for token in found]})
        return
    table = Table(title="Tokens", title_justify="left")
    for heading in ("id", "user", "for", "expires", "last used", "revoked"):
        table.add_column(heading)
    for token in found:
        times = (token.expires_at, token.last_used_at, token.revoked_at)
        shown = [f"{time:%Y-%m-%d %H:%M}" if time else "" for time in times]
        table.add_row(token.id, escape(token.user), escape(token.name), *shown)
    out.print(table)


@token_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the token, as `list` shows it.")],
    config: ConfigFile = None,
    site: SiteName = "",
) -> None:
    """Take a token back at once."""
    with _users(config) as (service, users):
        where = service.site(site)
        users.revoke_token(where, token_id)
        _noted(service, where, "token-revoke", token_id, object_type="token")


@contextmanager
def _users(config: Path | None) -> Iterator[tuple[Opened, Users]]:
    from cluster.security.users import Users

    with opened(config) as service:
        yield service, Users(service.database)


def _noted(
    service: Opened, site: str, action: str, object_id: str, object_type: str = "user", **details: object
) -> None:
    service.audit.append(
        site=site,
        actor=service.actor,
        action=action,
        object_type=object_type,
        object_id=object_id,
        details=details,
    )


def _asked(name: str) -> str:
    """A new password, typed twice without being shown, or one line of a pipe."""
    from cluster.security.passwords import check_password

    if not sys.stdin.isatty():
        secret = sys.stdin.readline().rstrip("\n")
    else:
        secret = typer.prompt("New password", hide_input=True, err=True)
        if typer.prompt("The same again", hide_input=True, err=True) != secret:
            raise AccessError("the two passwords differ; nothing was changed")
    check_password(secret, name)
    return secret
