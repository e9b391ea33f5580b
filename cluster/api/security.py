"""Who asks, and whether they may: a bearer token names a user of one site, and all they see is of that site.

There are no cookies, so that no other page can ask in a user's name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from cluster.api.intake import Take
from cluster.api.known import KnownTokens
from cluster.api.limits import Limiter, Streams
from cluster.security.access import Permission, Principal
from cluster.security.audit import Action
from cluster.security.tokens import is_token
from cluster.service.config import Site
from cluster.service.services import Services
from doseeng.errors import AccessError

STREAMS: Final = 20
"""Event streams that one user may have open; a browser opens six to one server."""
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True, eq=False)
class ApiState:
    """What all requests share. take: takes uploads in. known: tokens that were good a moment ago. requests: per user,
    or per address where there is none; logins: per address."""

    services: Services
    take: Take
    known: KnownTokens
    requests: Limiter
    logins: Limiter
    streams: Streams
    verify_oidc: Callable[[str], str] | None


def api_state(services: Services, take: Take) -> ApiState:
    """As the configuration says."""
    api, oidc = services.config.api, services.config.oidc
    verify = None
    if oidc is not None:
        from cluster.security.oidc import OidcVerifier

        verify = OidcVerifier(oidc).subject
    limits = (Limiter(api.requests_per_minute), Limiter(api.logins_per_minute), Streams(STREAMS))
    return ApiState(services, take, KnownTokens(), *limits, verify)


async def state_of(request: Request) -> ApiState:
    """The state of the application that was asked."""
    state: ApiState = request.app.state.doseeng
    return state


State = Annotated[ApiState, Depends(state_of)]


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """A user who asks, and what they ask with."""

    state: ApiState
    principal: Principal

    @property
    def services(self) -> Services:
        """Of the application."""
        return self.state.services

    @property
    def site(self) -> str:
        """Name of the caller's site: nothing of another is looked up."""
        return self.principal.site

    @property
    def site_config(self) -> Site:
        """ConfigError when the site is no longer configured."""
        return self.services.config.site_named(self.site)

    def noted(
        self, action: Action, object_type: str = "", object_id: str = "", outcome: str = "success", **details: Any
    ) -> None:
        """Write down in the audit log what the caller saw or did."""
        self.services.audit.append(
            site=self.site,
            actor=self.principal.name,
            role=self.principal.role.value,
            origin=self.principal.origin,
            action=action,
            object_type=object_type,
            object_id=object_id,
            outcome=outcome,
            details=details,
        )


_bearer: Final = HTTPBearer(
    auto_error=False, description="A token of `doseeng user token` or of POST /api/v1/login, or of OpenID Connect."
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def address_of(request: Request) -> str:
    """Where the request came from."""
    return request.client.host if request.client else ""


async def authenticated(request: Request, state: State, credentials: Credentials) -> Caller:
    """The caller. HTTPException 401 without a good token, 429 for too many requests."""
    origin = address_of(request)
    if credentials is None:
        state.requests.take(f"address {origin}")
        raise HTTPException(401, "this takes a bearer token; log in or ask your admin for one", _CHALLENGE)
    try:
        token = credentials.credentials
        principal = state.known.get(token)
        if principal is None:
            principal = await to_thread.run_sync(state.known.look_up, token, partial(_principal, state))
    except AccessError as error:
        state.requests.take(f"address {origin}")
        raise HTTPException(401, str(error), _CHALLENGE) from error
    state.requests.take(f"user {principal.user_id}")
    return Caller(state, replace(principal, origin=origin))


def _principal(state: ApiState, token: str) -> Principal:
    users = state.services.users
    if state.verify_oidc is not None and not is_token(token):
        return users.by_subject(state.verify_oidc(token))
    return users.by_token(token)


def may(permission: Permission) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, who has that permission. AccessError (403), noted, for one who has not."""

    async def allowed(request: Request, state: State, credentials: Credentials) -> Caller:
        caller = await authenticated(request, state, credentials)
        try:
            caller.principal.require(permission)
        except AccessError:
            route = getattr(request.scope.get("route"), "path", "")
            what = f"{request.method} {route}"
            await to_thread.run_sync(caller.noted, Action.ACCESS_DENIED, "endpoint", what, "denied")
            raise
        return caller

    return allowed


AnyCaller = Annotated[Caller, Depends(authenticated)]
Reader = Annotated[Caller, Depends(may(Permission.READ))]
Uploader = Annotated[Caller, Depends(may(Permission.UPLOAD))]
Submitter = Annotated[Caller, Depends(may(Permission.SUBMIT))]
Treater = Annotated[Caller, Depends(may(Permission.TREAT))]
Acknowledger = Annotated[Caller, Depends(may(Permission.ACKNOWLEDGE))]
Manager = Annotated[Caller, Depends(may(Permission.MANAGE))]
Auditor = Annotated[Caller, Depends(may(Permission.AUDIT))]
