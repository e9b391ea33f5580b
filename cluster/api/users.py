"""Logging in, users of the site and their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import Field, SecretStr
from starlette.exceptions import HTTPException

from cluster.api.models import Name, Out, RoleName
from cluster.api.problems import documented
from cluster.api.security import AnyCaller, Caller, Manager, State, address_of
from cluster.security.access import PERMISSIONS, Permission, Principal, Role
from cluster.security.audit import Action
from cluster.security.users import SESSION_HOURS, USER_NAME, User
from doseeng.errors import AccessError
from robust.configuration import Strict

router = APIRouter(tags=["users"])

Password = Annotated[SecretStr, Field(min_length=1, max_length=1024)]
UserName = Annotated[
    str, Path(min_length=1, max_length=128, pattern=rf"^{USER_NAME.pattern}$", description="Name of a user.")
]
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="As the list has it.")]


class LoginRequest(Strict):
    """Who one is. site: names are unique within a site."""

    site: Name
    user: Name
    password: Password


class SessionOut(Out):
    """A token for a working day; to be sent as `Authorization: Bearer TOKEN`."""

    token: str
    expires_in_s: int
    site: str
    user: str
    role: RoleName


class MeOut(Out):
    """Who asks, and what they may do."""

    site: str
    user: str
    role: RoleName
    permissions: list[str]


class PasswordChange(Strict):
    """Of oneself."""

    old_password: Password
    new_password: Password


class UserRequest(Strict):
    """A new user. Without a password they come by token or OpenID Connect."""

    name: Annotated[str, Field(pattern=rf"^{USER_NAME.pattern}$", examples=["a.physicist"])]
    role: RoleName
    password: Password | None = None


class UserChange(Strict):
    """What is null stays as it is. subject: the name that the OpenID Connect provider knows the user by, or ""."""

    role: RoleName | None = None
    password: Password | None = None
    disabled: bool | None = None
    subject: Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")] | None = None


class UserOut(Out):
    """A user of the site."""

    name: str
    role: RoleName
    disabled: bool
    is_locked: bool = Field(description="After too many wrong passwords, for a while.")
    has_password: bool
    subject: str
    created_at: datetime


class TokenRequest(Strict):
    """A token for a user's scripts. label: what it is for."""

    user: Annotated[str, Field(pattern=rf"^{USER_NAME.pattern}$")]
    label: Name
    days: Annotated[int, Field(ge=1, le=3650)] = 90


class NewTokenOut(Out):
    """The token, shown here and never again."""

    token: str


class TokenOut(Out):
    """A token, without itself."""

    id: str
    user: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@router.post("/login", responses=documented(401))
def login(body: LoginRequest, request: Request, state: State) -> SessionOut:
    """Get a token for a working day by name and password."""
    origin = address_of(request)
    state.logins.take(origin)
    services = state.services
    try:
        principal = services.users.login(body.site, body.user, body.password.get_secret_value())
    except AccessError as error:
        # What was typed may be anything, such as a password in the wrong field: only names that exist are noted.
        is_site = body.site in {site.name for site in services.config.site}
        known = is_site and any(user.name == body.user for user in services.users.list(body.site))
        services.audit.append(
            site=body.site if is_site else "",
            actor=body.user if known else "unknown",
            action=Action.LOGIN,
            outcome="refused",
            origin=origin,
        )
        raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from error
    Caller(state, _from(principal, origin)).noted(Action.LOGIN)
    return SessionOut(
        token=services.users.issue_session(principal),
        expires_in_s=SESSION_HOURS * 3600,
        site=principal.site,
        user=principal.name,
        role=principal.role.value,
    )


@router.get("/me", responses=documented(401))
def me(caller: AnyCaller) -> MeOut:
    """Who the token belongs to."""
    permissions = sorted(permission.value for permission in PERMISSIONS[caller.principal.role])
    return MeOut(
        site=caller.site, user=caller.principal.name, role=caller.principal.role.value, permissions=permissions
    )


@router.put("/me/password", status_code=204, responses=documented(401))
def change_password(body: PasswordChange, caller: AnyCaller) -> None:
    """Take another password; sessions of the old one end, and a new login is needed."""
    caller.state.logins.take(caller.principal.origin)
    users, name = caller.services.users, caller.principal.name
    with _unprocessable():
        users.login(caller.site, name, body.old_password.get_secret_value())
        users.set_password(caller.site, name, body.new_password.get_secret_value())
    caller.state.known.forget()
    caller.noted(Action.USER_CHANGE, "user", name, changed=["password"])


@router.get("/users", responses=documented(401, 403))
def list_users(caller: Manager) -> list[UserOut]:
    """All users of the site, by name."""
    return [_user_out(user) for user in caller.services.users.list(caller.site)]


@router.post("/users", status_code=201, responses=documented(401, 403))
def add_user(body: UserRequest, caller: Manager) -> UserOut:
    """A new user of the site."""
    password = body.password.get_secret_value() if body.password is not None else None
    with _unprocessable():
        user = caller.services.users.add(caller.site, body.name, Role(body.role), password)
    caller.noted(Action.USER_ADD, "user", body.name, role=body.role)
    return _user_out(user)


@router.patch("/users/{name}", responses=documented(401, 403, 404, 409))
def change_user(name: UserName, body: UserChange, caller: Manager) -> UserOut:
    """Change role, password, subject, or whether a user may come at all. Effective from the next request on."""
    users, site = caller.services.users, caller.site
    _user(caller, name)
    if name == caller.principal.name and (body.disabled or body.role not in (None, Role.ADMIN.value)):
        raise HTTPException(409, "nobody takes their own rights away; ask another admin")
    with _unprocessable():
        if body.password is not None:
            users.set_password(site, name, body.password.get_secret_value())
        if body.subject is not None:
            users.set_subject(site, name, body.subject)
        if body.role is not None:
            users.set_role(site, name, Role(body.role))
        if body.disabled is not None:
            (users.disable if body.disabled else users.enable)(site, name)
    caller.state.known.forget()
    changed = sorted(body.model_dump(exclude_none=True))
    caller.noted(Action.USER_DISABLE if body.disabled else Action.USER_CHANGE, "user", name, changed=changed)
    return _user_out(_user(caller, name))


@router.get("/tokens", responses=documented(401))
def list_tokens(caller: AnyCaller) -> list[TokenOut]:
    """One's own tokens; with the permission `manage` those of the whole site."""
    return [
        TokenOut.model_validate(token)
        for token in caller.services.users.tokens(caller.site)
        if _is_theirs(caller, token.user)
    ]


@router.post("/tokens", status_code=201, responses=documented(401, 403, 404))
def issue_token(body: TokenRequest, caller: Manager) -> NewTokenOut:
    """A token for a user of the site. Whoever has it is that user."""
    _user(caller, body.user)
    with _unprocessable():
        token = caller.services.users.issue_token(caller.site, body.user, body.label, body.days)
    caller.noted(Action.TOKEN_ISSUE, "user", body.user, label=body.label, days=body.days)
    return NewTokenOut(token=token)


@router.delete("/tokens/{token_id}", status_code=204, responses=documented(401, 404))
def revoke_token(token_id: TokenId, caller: AnyCaller) -> None:
    """Take a token back: one's own, or with the permission `manage` any of the site."""
    users = caller.services.users
    found = next((token for token in users.tokens(caller.site) if token.id == token_id), None)
    if found is None or not _is_theirs(caller, found.user):
        raise HTTPException(404, "there is no token of that id; list them")
    users.revoke_token(caller.site, token_id)
    caller.state.known.forget()
    caller.noted(Action.TOKEN_REVOKE, "token", token_id, user=found.user)


def _is_theirs(caller: Caller, user: str) -> bool:
    return user == caller.principal.name or caller.principal.may(Permission.MANAGE)


def _user(caller: Caller, name: str) -> User:
    found = next((user for user in caller.services.users.list(caller.site) if user.name == name), None)
    if found is None:
        raise HTTPException(404, "the site has no user of that name")
    return found


def _user_out(user: User) -> UserOut:
    return UserOut(
        name=user.name,
        role=user.role.value,
        disabled=user.disabled,
        is_locked=user.is_locked,
        has_password=user.has_password,
        subject=user.subject,
        created_at=user.created_at,
    )


def _from(principal: Principal, origin: str) -> Principal:
    return Principal(principal.site, principal.name, principal.role, principal.user_id, origin)


@contextmanager
def _unprocessable() -> Iterator[None]:
    """What the users' book refuses here is wrong in the request, and no matter of the caller's own rights."""
    try:
        yield
    except AccessError as error:
        raise HTTPException(422, str(error)) from error
