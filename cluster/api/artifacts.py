"""Files that jobs left: reports, DICOM objects and results as JSON."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Header, Path, Response
from starlette.exceptions import HTTPException

from cluster.api.jobs import job_of_site
from cluster.api.models import ArtifactOut, JobId
from cluster.api.problems import Responses, documented
from cluster.api.security import Caller, Reader
from cluster.jobs.model import Artifact, Job, JobState
from cluster.security.audit import Action

RESULT: Final = "result.json"
SHOWN: Final = ("text/html", "application/pdf", "application/json")
"""What a browser may show; all else is saved."""
REPORT_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Reports bring their own pictures, styles and scripts; they load nothing, send nothing, and live in an origin of their
own, from which the API cannot be reached."""
_KEPT_FOR: Final = "private, max-age=0, must-revalidate"
"""Asked for again each time, so that who sees it is written down each time."""

router = APIRouter(prefix="/jobs", tags=["results"])
_SAME: Final = {"description": "The caller has it already: its ETag was sent as If-None-Match."}
_FILE: Final[Responses] = {
    200: {"description": "The file, with its own media type.", "content": {"*/*": {"schema": {"type": "string"}}}},
    304: _SAME,
}
_RESULT: Final[Responses] = {
    200: {
        "description": "What was found.",
        "content": {"application/json": {"schema": {"type": "object", "additionalProperties": True}}},
    },
    304: _SAME,
}


@router.get("/{job_id}/artifacts", responses=documented(401, 403, 404))
def list_artifacts(job_id: JobId, caller: Reader) -> list[ArtifactOut]:
    """The files of a job; none before its end."""
    return [ArtifactOut.model_validate(artifact) for artifact in job_of_site(caller, job_id).artifacts]


@router.get(
    "/{job_id}/artifacts/{name:path}",
    response_class=Response,
    responses=_FILE | documented(401, 403, 404),
)
def get_artifact(
    job_id: JobId,
    name: Annotated[str, Path(description="As the list has it; it may hold slashes.", examples=["report.html"])],
    caller: Reader,
    if_none_match: Annotated[str | None, Header(max_length=512, description="ETags that the caller has.")] = None,
) -> Response:
    """A file of a job. Its ETag is the digest of its bytes."""
    job = job_of_site(caller, job_id)
    artifact = next((artifact for artifact in job.artifacts if artifact.name == name), None)
    if artifact is None:
        raise HTTPException(404, "the job has no file of that name; its list of artifacts has all")
    return _file(caller, job, artifact, if_none_match or "")


@router.get(
    "/{job_id}/result",
    response_class=Response,
    responses=_RESULT | documented(401, 403, 404, 409),
)
def get_result(
    job_id: JobId,
    caller: Reader,
    if_none_match: Annotated[str | None, Header(max_length=512, description="ETags that the caller has.")] = None,
) -> Response:
    """The result of a job that is done: goals, verdict, statistics, gates and where they come from."""
    job = job_of_site(caller, job_id)
    artifact = next((artifact for artifact in job.artifacts if artifact.name == RESULT), None)
    if job.state is not JobState.DONE or artifact is None:
        raise HTTPException(409, f"the job is {job.state.value} and has no result; only a job that is done has one")
    return _file(caller, job, artifact, if_none_match or "")


def _file(caller: Caller, job: Job, artifact: Artifact, known: str) -> Response:
    tag = f'"{artifact.sha256}"'
    caller.noted(Action.RESULT_READ, "job", job.id, artifact=artifact.name)
    headers = {"ETag": tag, "Cache-Control": _KEPT_FOR}
    if known.strip() == "*" or tag in [part.strip().removeprefix("W/") for part in known.split(",")]:
        return Response(status_code=304, headers=headers)
    data = caller.services.blobs_of(caller.site).get(artifact.sha256)
    shown = artifact.media_type in SHOWN
    file_name = re.sub(r"[^A-Za-z0-9._-]", "_", artifact.name.rsplit("/", 1)[-1])
    headers["Content-Disposition"] = f'{"inline" if shown else "attachment"}; filename="{file_name}"'
    if artifact.media_type == "text/html":
        headers["Content-Security-Policy"] = REPORT_POLICY
    return Response(data, media_type=artifact.media_type, headers=headers)
