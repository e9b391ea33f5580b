"""Progress of a job as server-sent events (WHATWG HTML, section 9.2): until its end, and from where a reader left off.

Every event is the state of the job as a whole, so that nothing is missed by a reader who was away: its id is the time
of the job's last change, and a reader who says which one it saw last gets the next change.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cluster.api.jobs import job_of_site, note_read
from cluster.api.models import JobId, JobOut, ProgressOut
from cluster.api.problems import Responses, documented
from cluster.api.security import Caller, Reader
from cluster.jobs.model import Job
from doseeng.errors import DoseengError

LOOK_EVERY_S: Final = 0.5
HEARTBEAT_S: Final = 15.0
"""Proxies close what is silent for 30 to 60 s."""
LONGEST_S: Final = 300.0
"""Then the reader has to come again, with a token that is still good."""
RECONNECT_MS: Final = 1000

router = APIRouter(prefix="/jobs", tags=["jobs"])
_ANSWERS: Final[Responses] = {
    200: {
        "description": "Events `progress` (a ProgressOut), and at the end one `end` (a JobOut). Comments in between "
        "keep the connection alive. The stream closes after `end`, or after five minutes: then come again.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "The end was seen already: there is nothing to come again for."},
}


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses=_ANSWERS | documented(401, 403, 404),
)
def events(
    job_id: JobId,
    caller: Reader,
    last_event_id: Annotated[str, Header(max_length=64, description="Id of the last event that was seen.")] = "",
) -> Response:
    """Watch a job until its end."""
    job = job_of_site(caller, job_id)
    if job.state.is_end and last_event_id == event_id(job):
        return Response(status_code=204)
    streams, name = caller.state.streams, caller.principal.user_id
    streams.enter(name)
    return _Stream(_stream(caller, job, last_event_id), lambda: streams.leave(name))


def event_id(job: Job) -> str:
    """Of the event that shows the job as it stands."""
    return f"{job.updated_at.timestamp():.6f}-{job.done}"


class _Stream(StreamingResponse):
    """A response that says when it is over, also when its reader went away."""

    def __init__(self, body: AsyncIterator[bytes], on_close: Callable[[], None]) -> None:
        super().__init__(body, media_type="text/event-stream")
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


async def _stream(caller: Caller, job: Job, seen: str) -> AsyncIterator[bytes]:
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    began = spoke = time.monotonic()
    while True:
        if event_id(job) != seen:
            seen, spoke = event_id(job), time.monotonic()
            yield _event(job)
            if job.state.is_end:
                await to_thread.run_sync(note_read, caller, job)
                return
        now = time.monotonic()
        if now - began > LONGEST_S:
            return
        if now - spoke > HEARTBEAT_S:
            spoke = now
            yield b": still there\n\n"
        await anyio.sleep(LOOK_EVERY_S)
        try:
            job = await to_thread.run_sync(caller.services.store.get, caller.site, job.id)
        except DoseengError:
            # The job was removed, or the database is away. It is too late for a status: who comes again gets one.
            return


def _event(job: Job) -> bytes:
    if job.state.is_end:
        name, data = "end", JobOut.of(job).model_dump_json()
    else:
        progress = ProgressOut(id=job.id, state=job.state.value, stage=job.stage, done=job.done, total=job.total)
        name, data = "progress", json.dumps(progress.model_dump())
    return f"id: {event_id(job)}\nevent: {name}\ndata: {data}\n\n".encode()
