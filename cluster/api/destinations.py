"""Where flags and results go: what was given up is sent again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.exceptions import HTTPException

from cluster.api.models import Out
from cluster.api.problems import documented
from cluster.api.security import Acknowledger
from cluster.flags.outbox import Outbox
from cluster.security.audit import Action

router = APIRouter(prefix="/destinations", tags=["worklist"])

DestinationName = Annotated[
    str, Path(max_length=128, description="As the site's configuration and the messages of its flags have it.")
]


class ResentOut(Out):
    """What will be sent again."""

    messages: int = Field(description="How many were given up and now wait for their next attempt.")


@router.post("/{destination}/resend", responses=documented(401, 403, 404))
def resend(destination: DestinationName, caller: Acknowledger) -> ResentOut:
    """Send again what was given up, because the destination was away for days: flags and results, each from the start.

    What the destination has taken is never sent again. Needs the permission `acknowledge`.
    """
    if destination not in {one.name for one in caller.site_config.destination}:
        raise HTTPException(404, "the site has no destination of that name; the messages of its flags have it")
    services = caller.services
    outbox = Outbox(services.config, services.database, services.blobs_of, services.store)
    messages = outbox.revive(caller.site, destination)
    caller.noted(Action.FLAG_SEND, "destination", destination, messages=messages)
    return ResentOut(messages=messages)
