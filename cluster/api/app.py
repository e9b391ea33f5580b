"""The application: all routes, the layers around them, and the description that OpenAPI gives of it.

    app = create_app(open_services(config))

Handlers that touch the database are plain functions, which run in threads; only uploads and event streams are async.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

import doseeng
from cluster.api import (
    artifacts,
    audit,
    batches,
    courses,
    destinations,
    dicomweb,
    events,
    jobs,
    objects,
    system,
    users,
    worklist,
)
from cluster.api.edge import Edge
from cluster.api.intake import Take
from cluster.api.intake import take as take_here
from cluster.api.problems import Fault, Problem, add_handlers
from cluster.api.security import api_state
from cluster.api.system import ReadinessCache
from cluster.api.uploads import UPLOADS, remove_left
from cluster.service.services import Services

PREFIX: Final = "/api/v1"

DESCRIPTION: Final = """\
Dose, robustness and daily evaluation of radiotherapy plans. Bring DICOM objects in, ask for a job, watch its events,
fetch its result. All that is seen belongs to the site of the token; patients are known by pseudonyms.

Errors are problem details (RFC 9457, `application/problem+json`). doseeng is a research and quality-assurance tool: it
never releases a treatment.
"""
TAGS: Final = [
    {"name": "objects", "description": "DICOM objects: bring them in, list them."},
    {"name": "dicomweb", "description": "STOW-RS, DICOM PS3.18."},
    {"name": "jobs", "description": "Dose, evaluation and treatment days: ask, look, watch, call off."},
    {"name": "results", "description": "What jobs left."},
    {"name": "batches", "description": "The same question about many plans."},
    {"name": "courses", "description": "Whose treatment days are judged as their images arrive."},
    {"name": "worklist", "description": "What a person has to look at."},
    {"name": "users", "description": "Log in; users and tokens of the site."},
    {"name": "audit", "description": "Who saw or did what."},
    {"name": "system", "description": "Health and figures."},
]


def create_app(services: Services, take: Take | None = None) -> FastAPI:
    """The ASGI application on open services, which it closes when it shuts down. take: takes uploads in; without it
    that is done in threads of this process."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        remove_left(services.config.data / UPLOADS)
        yield
        services.close()

    app = FastAPI(
        title="doseeng",
        version=doseeng.__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        openapi_url=f"{PREFIX}/openapi.json",
        # Their pages load scripts from elsewhere, which a hospital's network has no business with.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    app.state.doseeng = api_state(services, take or partial(take_here, services.library))
    app.state.readiness = ReadinessCache(services)
    add_handlers(app)
    app.include_router(_api())
    app.include_router(system.router)
    app.add_middleware(Edge, upload_mb=services.config.api.upload_mb)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def _api() -> APIRouter:
    api = APIRouter(prefix=PREFIX)
    for module in (users, objects, dicomweb, jobs, events, artifacts, batches, courses, worklist, destinations, audit):
        api.include_router(module.router)
    return api


def _operation_id(route: APIRoute) -> str:
    return f"{route.tags[0]}-{route.name}" if route.tags else route.name


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the shape that all problems share."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            tags=app.openapi_tags,
            routes=app.routes,
        )
        components = schema["components"]["schemas"]
        for model in (Problem, Fault):
            made = model.model_json_schema(ref_template="#/components/schemas/{model}")
            made.pop("$defs", None)
            components[model.__name__] = made
        app.openapi_schema = schema
    return app.openapi_schema
