"""The outermost layer: an id for every request, body limits, headers, a line in the log, and nothing of an accident.

The log has the route and not the path, whose UIDs could be followed to a patient, and neither users nor tokens.
"""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.api.limits import BODY_BYTES, limited
from cluster.api.problems import answer

LOG: Final = logging.getLogger("cluster.api.access")
UPLOAD_PATHS: Final = ("/api/v1/objects", "/api/v1/dicomweb/")
_MB: Final = 2**20

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Of every response that does not say otherwise."""
_OVER_TLS: Final = "max-age=31536000"


@dataclass(frozen=True, slots=True)
class Edge:
    """ASGI middleware around everything. upload_mb: largest body of an upload."""

    app: ASGIApp
    upload_mb: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = scope["doseeng.request_id"] = secrets.token_hex(8)
        status = 0
        began = time.monotonic()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = _OVER_TLS
            await send(message)

        most = self.upload_mb * _MB if scope["path"].startswith(UPLOAD_PATHS) else BODY_BYTES
        try:
            await self.app(scope, limited(scope, receive, most), sending)
        except Exception as error:  # noqa: BLE001 (the edge of the process)
            # The message of an accident may hold anything: its kind and place go to the log, nothing to the caller.
            frames = traceback.extract_tb(error.__traceback__)
            where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
            LOG.error(
                "accident %s at %s", type(error).__name__, where[-1], extra=dict(request_id=request_id, where=where)
            )
            if not status:
                detail = "an error of the service; its log has the request id"
                await answer(Request(scope), 500, detail)(scope, receive, sending)
        finally:
            _log(scope, status, time.monotonic() - began)


def _log(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "-")
    LOG.info(
        "%s %s %d",
        scope["method"],
        route,
        status,
        extra={
            "request_id": scope["doseeng.request_id"],
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(1000.0 * seconds, 1),
        },
    )
