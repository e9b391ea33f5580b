"""Courses: whose treatment days are judged as their images arrive."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from cluster.api.models import Out, Search, Uid
from cluster.api.problems import absent, documented
from cluster.api.security import Reader, Treater
from cluster.library.entries import CourseEntry
from cluster.security.audit import Action
from cluster.workflows.options import AdaptOptions
from doseeng.errors import DicomError, JobError
from robust.configuration import Strict

router = APIRouter(prefix="/courses", tags=["courses"])


class CourseRequest(Strict):
    """options: of the adapt jobs that the course's images start."""

    options: AdaptOptions = AdaptOptions()


class CourseSearch(Search):
    """Which courses."""

    ended: bool = Field(False, description="Also those that have ended.")


class CourseOut(Out):
    """A plan under treatment, or one that was."""

    plan_uid: str
    patient_key: str = Field(description="Pseudonym of the patient.")
    options: dict[str, Any] = Field(description="Of its adapt jobs, where they are not the usual ones.")
    started_at: datetime
    ended_at: datetime | None = Field(description="When its days ceased to be judged; null while they are.")
    created_by: str


@router.get("", responses=documented(401, 403))
def list_courses(caller: Reader, wanted: Annotated[CourseSearch, Query()]) -> list[CourseOut]:
    """Plans under treatment, the latest first."""
    found = caller.services.courses.all(caller.site, under_treatment=not wanted.ended)
    caller.noted(Action.QUERY, "courses", found=len(found))
    return [CourseOut.model_validate(entry) for entry in found]


@router.get("/{plan_uid}", responses=documented(401, 403, 404))
def get_course(plan_uid: Uid, caller: Reader) -> CourseOut:
    """A plan that is or was under treatment."""
    with absent(JobError):
        return CourseOut.model_validate(_course(caller.services.courses.all(caller.site, False), plan_uid))


@router.put("/{plan_uid}", responses=documented(401, 403, 404))
def start_course(plan_uid: Uid, request: CourseRequest, caller: Treater) -> CourseOut:
    """Put a plan under treatment: from now on each new image of its patient that fits a rule starts an adapt job.

    Again, or after its end, it goes on with these options.
    """
    options = request.options.model_dump(mode="json", exclude_unset=True)
    with absent(DicomError):
        entry = caller.services.courses.treat(caller.site, plan_uid, options, caller.principal.name)
    caller.noted(Action.TREATMENT_START, "plan", plan_uid)
    return CourseOut.model_validate(entry)


@router.delete("/{plan_uid}", responses=documented(401, 403, 404))
def end_course(plan_uid: Uid, caller: Treater) -> CourseOut:
    """Take a plan out of treatment; what was judged stays."""
    with absent(JobError):
        entry = caller.services.courses.end(caller.site, plan_uid)
    caller.noted(Action.TREATMENT_END, "plan", plan_uid)
    return CourseOut.model_validate(entry)


def _course(entries: list[CourseEntry], plan_uid: str) -> CourseEntry:
    found = next((entry for entry in entries if entry.plan_uid == plan_uid), None)
    if found is None:
        raise JobError("the plan is not and was not under treatment at this site; put it there first")
    return found
