"""Batches: the same question about many plans, and what became of it, the most urgent first."""

from __future__ import annotations

import secrets
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.exceptions import HTTPException

from cluster.api.jobs import spec_of
from cluster.api.models import (
    MOST_PLANS,
    BatchName,
    DoseRequest,
    EvaluateRequest,
    JobOut,
    KindName,
    Out,
    Uid,
)
from cluster.api.problems import documented
from cluster.api.security import Caller, Reader, Treater
from cluster.batch.results import URGENCY, outcome_of
from cluster.jobs.model import Job, Priority
from cluster.security.audit import Action
from cluster.workflows.options import DoseOptions, EvaluateOptions
from doseeng.errors import ConfigError, DicomError
from robust.configuration import Strict

UNDER_TREATMENT: Final = "under-treatment"
_PAGE: Final = 500

router = APIRouter(prefix="/batches", tags=["batches"])
Plans = (
    Annotated[list[Uid], Field(min_length=1, max_length=MOST_PLANS, description="SOP Instance UIDs.")]
    | Literal["under-treatment"]
)


class DoseBatchRequest(Strict):
    """Compute the doses of plans. name: a new one, made up where it is null."""

    kind: Literal["dose"]
    plans: Plans
    name: BatchName | None = None
    options: DoseOptions = DoseOptions()


class EvaluateBatchRequest(Strict):
    """Judge the robustness of plans. name: a new one, made up where it is null."""

    kind: Literal["evaluate"]
    plans: Plans
    name: BatchName | None = None
    options: EvaluateOptions = EvaluateOptions()


BatchRequest = Annotated[DoseBatchRequest | EvaluateBatchRequest, Field(discriminator="kind")]


class BatchItemOut(Out):
    """What became of the request for one plan. One that is refused keeps no other one back."""

    plan_uid: str
    job_id: str | None = Field(description="null when no job could be made.")
    is_new: bool = Field(description="False: an equal job was there already, and is not of this batch.")
    reason: str = Field(description='Why no job could be made, or "".')


class SubmittedOut(Out):
    """A batch that was asked for."""

    name: str
    items: list[BatchItemOut]


class BatchOut(Out):
    """A batch as it stands. urgency: RED, UNEVALUABLE, FAILED, AMBER, GREEN, DONE (a dose), WAITING."""

    name: str
    kinds: list[KindName]
    counts: dict[str, int] = Field(description="Jobs by urgency.", examples=[{"RED": 1, "GREEN": 7}])
    jobs: list[JobOut] = Field(description="The most urgent first.")


@router.post("", status_code=201, responses=documented(401, 403, 409))
def submit_batch(request: BatchRequest, caller: Treater) -> SubmittedOut:
    """Ask the same about many plans, or about all that are under treatment."""
    name = request.name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    if caller.services.store.search(caller.site, batch=name, limit=1):
        raise HTTPException(409, f"there is a batch '{name}' already; take another name or none")
    items = [_submit(caller, request, uid, name) for uid in dict.fromkeys(_plans(caller, request.plans))]
    made = sum(item.job_id is not None for item in items)
    caller.noted(Action.JOB_SUBMIT, "batch", name, kind=request.kind, jobs=made, refused=len(items) - made)
    return SubmittedOut(name=name, items=items)


@router.get("/{name}", responses=documented(401, 403, 404))
def get_batch(name: BatchName, caller: Reader) -> BatchOut:
    """Counts and jobs of a batch."""
    jobs = _jobs(caller, name)
    if not jobs:
        raise HTTPException(404, "the site has no batch of that name")
    caller.noted(Action.RESULT_READ, "batch", name, jobs=len(jobs))
    counts = Counter(outcome_of(job).value for job in jobs)
    jobs.sort(key=lambda job: (URGENCY[outcome_of(job)], job.created_at, job.id))
    kinds: Any = sorted({job.spec.kind.value for job in jobs})
    return BatchOut(name=name, kinds=kinds, counts=dict(counts), jobs=[JobOut.of(job) for job in jobs])


def _plans(caller: Caller, plans: list[str] | str) -> list[str]:
    if isinstance(plans, list):
        return plans
    found = [course.plan_uid for course in caller.services.courses.all(caller.site)]
    if not found:
        raise HTTPException(422, "no plan is under treatment at this site")
    return found


def _submit(caller: Caller, request: DoseBatchRequest | EvaluateBatchRequest, plan_uid: str, name: str) -> BatchItemOut:
    asked: DoseRequest | EvaluateRequest
    if isinstance(request, DoseBatchRequest):
        asked = DoseRequest(kind="dose", plan_uid=plan_uid, options=request.options)
    else:
        asked = EvaluateRequest(kind="evaluate", plan_uid=plan_uid, options=request.options)
    try:
        spec = spec_of(caller, asked)
    except (DicomError, ConfigError) as error:
        return BatchItemOut(plan_uid=plan_uid, job_id=None, is_new=False, reason=str(error))
    job, is_new = caller.services.store.submit(
        spec, created_by=caller.principal.name, priority=Priority.BATCH, batch=name
    )
    return BatchItemOut(plan_uid=plan_uid, job_id=job.id, is_new=is_new, reason="")


def _jobs(caller: Caller, name: str) -> list[Job]:
    found: list[Job] = []
    while True:
        before = found[-1].id if found else ""
        page = caller.services.store.search(caller.site, batch=name, limit=_PAGE, before=before)
        found += page
        if len(page) < _PAGE:
            return found
