"""Jobs: ask for one, look for some, watch one, call one off."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from pydantic import Field
from starlette.exceptions import HTTPException

from cluster.api.models import (
    AdaptRequest,
    DoseRequest,
    JobId,
    JobOut,
    JobRequest,
    JobsOut,
    KindName,
    Search,
    ShortText,
    StateName,
    Uid,
    VerdictName,
)
from cluster.api.problems import Responses, absent, documented
from cluster.api.security import Caller, Reader, Submitter
from cluster.database.connection import DatabaseUnavailable
from cluster.jobs.model import Job, JobKind, JobSpec, JobState, Priority
from cluster.security.access import Permission
from cluster.security.audit import Action
from cluster.workflows.specs import adapt_spec, dose_spec, evaluate_spec
from doseeng.errors import JobError

MOST_JOBS: Final = 500
"""On one page."""

router = APIRouter(prefix="/jobs", tags=["jobs"])
_EQUAL: Final[Responses] = {
    200: {"model": JobOut, "description": "An equal job that waits, runs or is done: no new one is made."}
}


class JobSearch(Search):
    """Which jobs; what is not said restricts nothing, and of lists any entry will do."""

    state: list[StateName] = Field([], description="Any of these states.")
    kind: list[KindName] = Field([], description="Any of these kinds.")
    verdict: list[VerdictName] = Field([], description="Any of these verdicts.")
    batch: ShortText = Field("", description="Name of a batch.")
    patient_key: ShortText = Field("", description="Pseudonym of a patient.")
    plan_uid: Uid | None = Field(None, description="SOP Instance UID of a plan.")
    limit: int = Field(100, ge=1, le=MOST_JOBS, description="Jobs on a page.")
    before: JobId | None = Field(None, description="Id of the last job of the page before.")


def spec_of(caller: Caller, request: DoseRequest | AdaptRequest | JobRequest) -> JobSpec:
    """The complete spec of what is asked, from the objects of the caller's site. DicomError names what is missing."""
    library, site = caller.services.library, caller.site_config
    if isinstance(request, DoseRequest):
        return dose_spec(library, site, request.plan_uid, request.options)
    if isinstance(request, AdaptRequest):
        return adapt_spec(library, site, request.plan_uid, request.series_uid, request.options)
    return evaluate_spec(library, site, request.plan_uid, request.options)


def job_of_site(caller: Caller, job_id: str) -> Job:
    """HTTPException 404 for a job that the caller's site does not have."""
    with absent(JobError):
        return caller.services.store.get(caller.site, job_id)


@router.post(
    "",
    status_code=201,
    responses=_EQUAL | documented(401, 403, 409),
)
def submit(request: JobRequest, response: Response, caller: Submitter) -> JobOut:
    """Ask for a dose, an evaluation or the judgement of a treatment day.

    The plan and the image must have been received. What is not said comes from the configuration of the site. The same
    question about the same objects has the same job, so that a repeated request does no harm. Needs the permission
    `submit`, and for kind `adapt` also `treat`.
    """
    if isinstance(request, AdaptRequest):
        caller.principal.require(Permission.TREAT)
    spec = spec_of(caller, request)
    priority = Priority.TODAY if spec.kind is JobKind.ADAPT else Priority.PERSON
    job, is_new = caller.services.store.submit(spec, created_by=caller.principal.name, priority=priority)
    caller.noted(Action.JOB_SUBMIT, "job", job.id, kind=spec.kind.value, plan_uid=spec.plan_uid, is_new=is_new)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return JobOut.of(job)


@router.get("", responses=documented(401, 403))
def search(caller: Reader, wanted: Annotated[JobSearch, Query()]) -> JobsOut:
    """The jobs of the site, newest first, page by page."""
    try:
        jobs = caller.services.store.search(
            caller.site,
            states=[JobState(name) for name in wanted.state],
            kinds=[JobKind(name) for name in wanted.kind],
            verdicts=wanted.verdict,
            batch=wanted.batch,
            patient_key=wanted.patient_key,
            plan_uid=wanted.plan_uid or "",
            limit=wanted.limit + 1,
            before=wanted.before or "",
        )
    except DatabaseUnavailable:
        raise
    except JobError as error:
        raise HTTPException(422, str(error)) from error
    page = jobs[: wanted.limit]
    about = wanted.patient_key or wanted.plan_uid or wanted.batch
    caller.noted(Action.QUERY, "jobs", about, found=len(page))
    return JobsOut(jobs=[JobOut.of(job) for job in page], next=page[-1].id if len(jobs) > wanted.limit else None)


@router.get("/{job_id}", responses=documented(401, 403, 404))
def get(job_id: JobId, caller: Reader) -> JobOut:
    """A job as it stands now."""
    job = job_of_site(caller, job_id)
    note_read(caller, job)
    return JobOut.of(job)


@router.post("/{job_id}/cancel", responses=documented(401, 403, 404, 409))
def cancel(job_id: JobId, caller: Submitter) -> JobOut:
    """Call a job off: at once if it waits, as soon as its driver listens if it runs.

    Needs the permission `submit` for one's own jobs and `treat` for those of others.
    """
    job = job_of_site(caller, job_id)
    if job.created_by != caller.principal.name:
        caller.principal.require(Permission.TREAT)
    cancelled = caller.services.store.cancel(caller.site, job_id)
    caller.noted(Action.JOB_CANCEL, "job", job_id)
    return JobOut.of(cancelled)


def note_read(caller: Caller, job: Job) -> None:
    """Write down that the caller saw what a job found; looking whether it has ended is not worth a line."""
    if job.state is JobState.DONE:
        caller.noted(Action.RESULT_READ, "job", job.id)
