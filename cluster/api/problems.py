"""Errors as problem details (RFC 9457): one shape for everything that goes wrong, and never what is inside."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException

from cluster.database.connection import DatabaseUnavailable
from cluster.storage.blobs import StorageUnavailable
from doseeng.errors import AccessError, DoseengError, JobError, PeerError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 5
"""When to ask again while the database cannot be reached."""
_STATUS: Final[dict[type[DoseengError], int]] = {
    AccessError: 403,
    StorageUnavailable: 507,
    JobError: 409,
    PeerError: 503,
}
"""Of errors raised on purpose, the first that fits; all others mean that what was sent cannot be worked with."""
_UNPROCESSABLE: Final = 422

Responses = dict[int | str, dict[str, Any]]
"""What FastAPI takes for `responses=`."""

_MEANING: Final = {
    400: "The request cannot be read.",
    401: "No token, or one that is unknown, expired or revoked.",
    403: "The role of the user does not allow it.",
    404: "There is no such thing in this site.",
    409: "What is asked does not fit the state of the thing.",
    413: "The request is larger than allowed, or unpacks to more than allowed.",
    415: "The media type is none of those expected.",
    422: "The request can be read, but not worked with.",
    429: "Too many requests; see Retry-After.",
    500: "An error of the service; its log has the request id.",
    503: "The service cannot answer now.",
    507: "The service has no space left for what was sent.",
}


class Fault(BaseModel):
    """One wrong value of a request."""

    pointer: str = Field(description="Where it is: body, query or path, and the keys below.", examples=["body.kind"])
    detail: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """Problem details of RFC 9457, section 3.1; `error`, `faults` and `checks` are extensions."""

    type: str = Field("about:blank", description="about:blank: the status says it all.")
    title: str = Field(description="The phrase of the status.", examples=["Not Found"])
    status: int = Field(description="The status, as in the response.", examples=[404])
    detail: str = Field(description="What was found, what was expected and what to do.")
    request_id: str = Field("", description="Also in the service's log.")
    error: str = Field("", description="Name of the class in doseeng.errors, if it is one.", examples=["JobError"])
    faults: list[Fault] = Field([], description="The wrong values of a request, if that is the problem.")
    checks: dict[str, str] = Field({}, description="What is ready and what is not, if that is the problem.")


def documented(*statuses: int) -> Responses:
    """For `responses=` of a route: these statuses, and those that every route may answer with."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": _MEANING[status],
            "content": {MEDIA_TYPE: {"schema": schema, "example": _problem(status, _MEANING[status])}},
        }
        for status in sorted({*statuses, 400, 413, 422, 429, 500, 503})
    }


def answer(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    """A problem as a response."""
    request_id = request.scope.get("doseeng.request_id", "")
    content = _problem(status, detail, request_id=request_id, **more)
    return JSONResponse(content, status, headers=headers, media_type=MEDIA_TYPE)


def _problem(status: int, detail: str, **more: Any) -> dict[str, Any]:
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, **more)
    return problem.model_dump(exclude_defaults=True) | {"type": problem.type}


@contextmanager
def absent(*kinds: type[DoseengError]) -> Iterator[None]:
    """Errors of these kinds mean that the caller's site has no such thing: HTTPException 404. Those that mean that the
    database or the storage is away stay what they are."""
    try:
        yield
    except kinds as error:
        if isinstance(error, StorageUnavailable | DatabaseUnavailable):
            raise
        raise HTTPException(404, str(error)) from error


def add_handlers(app: FastAPI) -> None:
    """Every error of the application becomes a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(DoseengError, _on_purpose)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(NoConnectionFree, _database)
    app.add_exception_handler(OSError, _system)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if detail == HTTPStatus(error.status_code).phrase:
        detail = _MEANING.get(error.status_code, detail)
    return answer(request, error.status_code, detail, dict(error.headers or {}))


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # What was sent is left out: it may be a password or a name.
    faults = [
        {"pointer": ".".join(str(part) for part in fault["loc"]), "detail": fault["msg"]} for fault in error.errors()
    ]
    detail = f"{len(faults)} of the values sent are wrong; see faults"
    return answer(request, _UNPROCESSABLE, detail, faults=faults)


async def _on_purpose(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, DatabaseUnavailable):
        return await _database(request, error)
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), _UNPROCESSABLE)
    return answer(request, status, str(error), error=type(error).__name__)


async def _database(request: Request, error: Exception) -> JSONResponse:
    logging.getLogger(__name__).error("database: %s", type(error).__name__)
    detail = "the database cannot be reached; ask again later, what was queued is kept"
    return answer(request, 503, detail, {"Retry-After": str(RETRY_AFTER_S)})


async def _system(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return answer(request, 507, _MEANING[507])
