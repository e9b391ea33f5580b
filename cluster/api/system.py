"""For those who run the service: whether it lives and is ready, and its figures for Prometheus."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from cluster.api.problems import Responses, answer, documented
from cluster.api.security import Credentials, State, address_of, authenticated
from cluster.operations.health import Readiness, readiness
from cluster.operations.metrics import CONTENT_TYPE, render_metrics
from cluster.service.services import Services

OWN_ADDRESSES: Final = ("127.0.0.1", "::1")
FRESH_FOR_S: Final = 2.0
"""Anybody may ask whether the service is ready; it is looked up no more often than this."""

router = APIRouter(tags=["system"])
_TEXT: Final[Responses] = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
_log: Final = logging.getLogger(__name__)


class LiveOut(BaseModel):
    """The process answers."""

    status: str = Field(examples=["alive"])


class ReadyOut(BaseModel):
    """Every check holds."""

    status: str = Field(examples=["ready"])
    checks: dict[str, str] = Field(examples=[{"database": "ok", "storage": "ok", "outbox": "ok"}])


@dataclass(slots=True, eq=False)
class ReadinessCache:
    """The last answer, for as long as it is fresh."""

    services: Services
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _at: float = -FRESH_FOR_S
    _last: Readiness | None = None

    def get(self) -> Readiness:
        """What holds now, or did a moment ago."""
        with self._lock:
            if self._last is None or time.monotonic() - self._at > FRESH_FOR_S:
                self._last, self._at = readiness(self.services), time.monotonic()
                for check in self._last.checks:
                    if not check.ok:
                        _log.warning("not ready: %s: %s", check.name, check.detail)
            return self._last


@router.get("/health/live")
async def live() -> LiveOut:
    """Whether the process answers at all."""
    return LiveOut(status="alive")


@router.get("/health/ready", response_model=ReadyOut, responses=documented(503))
def ready(request: Request, state: State) -> ReadyOut | Response:
    """Whether the service can do its work: database, storage, disk, outbox, drivers. The log says why not."""
    state.requests.take(f"address {address_of(request)}")
    cache: ReadinessCache = request.app.state.readiness
    found = cache.get()
    checks = {check.name: "ok" if check.ok else "failed" for check in found.checks}
    if not found.ok:
        return answer(request, 503, "the service is not ready; see checks, and its log for why", checks=checks)
    return ReadyOut(status="ready", checks=checks)


@router.get(
    "/metrics",
    response_class=Response,
    responses=_TEXT | documented(401),
)
async def metrics(request: Request, state: State, credentials: Credentials) -> Response:
    """Figures of the service: of all sites for who asks from this machine without a token, else of the caller's own."""
    if credentials is None and address_of(request) in OWN_ADDRESSES:
        return Response(await to_thread.run_sync(render_metrics, state.services), media_type=CONTENT_TYPE)
    caller = await authenticated(request, state, credentials)
    own = f'site="{caller.site}"'.encode()
    lines = (await to_thread.run_sync(render_metrics, state.services)).splitlines(keepends=True)
    kept = [line for line in lines if b'site="' not in line or own in line]
    return Response(b"".join(kept), media_type=CONTENT_TYPE)
